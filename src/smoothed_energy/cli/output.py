"""The files of a run: their paths, checks before anything is drawn, and how they are written."""

from __future__ import annotations

__all__ = ["OutputPaths", "check_output", "make_folder", "output_paths", "write_images"]

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .generate_settings import GenerateSettings

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class OutputPaths:
    """Where a run writes its files.

    Args:
        images: The images, by seed and by whether they are guided.
        edges: The edges that a ControlNet follows, None if they are not found by this program.
        sheet: The images of a comparison on one sheet, None if it is not one.
    """

    images: Mapping[tuple[int, bool], Path]
    edges: Path | None = None
    sheet: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [*self.images.values(), *filter(None, (self.edges, self.sheet))]


def output_paths(settings: GenerateSettings) -> OutputPaths:
    """Where a run with these settings writes its files."""
    stem = _image_stem(settings)
    images: dict[tuple[int, bool], Path] = {}
    for seed in settings.seeds:
        if settings.compare:
            images[seed, False] = settings.out / f"{stem}-seed{seed}-unguided.png"
            images[seed, True] = settings.out / f"{stem}-seed{seed}-guided.png"
        else:
            images[seed, settings.is_guided] = settings.out / f"{stem}-seed{seed}.png"
    return OutputPaths(
        images,
        edges=settings.out / f"{stem}-edges.png" if settings.canny else None,
        sheet=settings.out / f"{stem}-compare.png" if settings.compare else None,
    )


def _image_stem(settings: GenerateSettings) -> str:
    """How the files of a run begin: the prompt in a few words."""
    words = re.findall(r"[^\W_]+", settings.prompt.lower())
    stem = ""
    for word in words:
        if len(stem) + len(word) > 40:
            break
        stem = f"{stem}-{word}" if stem else word
    return stem or ("prompt" if settings.prompt else "no-prompt")


def check_output(settings: GenerateSettings, paths: OutputPaths) -> None:
    """Refuse a path that is not a folder, and files that exist; nothing is created.

    Raises:
        ValueError: If the folder is something else, or a file exists and is not to be replaced.
    """
    folder = settings.out
    try:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--out {folder} is a file; expected a folder, which may be new")
        for path in () if settings.overwrite else paths.files:
            if path.exists():
                raise ValueError(
                    f"{path} exists already; choose another --out, or --overwrite to replace it"
                )
    except OSError as error:
        raise _unusable(folder, error) from error


def make_folder(folder: Path) -> None:
    """Create the folder of the images if it does not exist, and see that it takes files.

    Raises:
        ValueError: If it does not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unusable(folder, error) from error


def write_images(images: Mapping[Path, tuple[Image.Image, Mapping[str, Any]]]) -> None:
    """Write images with their settings; if one cannot be written, the others are all the same.

    Args:
        images: The images and what they remember, by the paths of their files.

    Raises:
        ValueError: If one or more could not be written, after the others were.
    """
    from ..report import save_image

    failed: list[tuple[Path, OSError]] = []
    for path, (image, settings) in images.items():
        try:
            save_image(image, path, settings)
        except OSError as error:
            failed.append((path, error))
    if failed:
        (path, cause), *others = failed
        more = f", nor {len(others)} more" if others else ""
        raise ValueError(f"{path} could not be written{more}: {_reason(cause)}") from cause


def _unusable(folder: Path, error: OSError) -> ValueError:
    return ValueError(
        f"--out {folder}: no files can be written there ({_reason(error)}); expected a folder, "
        "which may be new"
    )


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
