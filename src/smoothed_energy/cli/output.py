"""The files of a run: their paths, checks before anything is drawn, and how they are written."""

from __future__ import annotations

__all__ = ["OutputPaths", "drawn_already", "make_folder", "output_paths", "write_images"]

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .generate_settings import GenerateSettings
from .stored import is_drawn_with, prompt_of

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

    @cached_property
    def keys(self) -> Mapping[Path, tuple[int, bool]]:
        """The seed of each image and whether it is guided, by path."""
        return {path: key for key, path in self.images.items()}

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [*self.images.values(), *filter(None, (self.edges, self.sheet))]


def output_paths(settings: GenerateSettings) -> OutputPaths:
    """Where a run with these settings writes its files; nothing is created.

    Names begin with the prompt in a few words, and a number if the folder has images of another
    prompt that begins with the same words.

    Raises:
        ValueError: If the folder is something else, or a file exists that is neither to be replaced
            nor drawn with the same settings.
    """
    folder = settings.out
    try:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--out {folder} is a file; expected a folder, which may be new")
        paths = _paths(settings, _free_stem(settings))
        there = drawn_already(settings, paths)
        if len(there) == len(paths.files):
            raise ValueError(_exists(paths.files[0], "drawn with these settings"))
    except OSError as error:
        raise _unusable(folder, error) from error
    return paths


def drawn_already(settings: GenerateSettings, paths: OutputPaths) -> set[Path]:
    """The files of a run that an earlier one has written, so that it goes on where that was.

    Raises:
        ValueError: If a file exists that was drawn with other settings.
    """
    if settings.overwrite:
        return set()
    drawn_with = {
        path: settings.of_image(seed, guided=guided).to_dict()
        for (seed, guided), path in paths.images.items()
    }
    if paths.sheet is not None:
        drawn_with[paths.sheet] = settings.to_dict()
    if paths.edges is not None:  # the same for other seeds
        drawn_with[paths.edges] = {"control": settings.to_dict().get("control")}
    there = {path for path in drawn_with if path.exists()}
    for path in sorted(there):
        if not is_drawn_with(drawn_with[path], path):
            raise ValueError(_exists(path, "drawn with other settings"))
    return there


def _exists(path: Path, how: str) -> str:
    return f"{path} exists already, {how}; choose another --out, or --overwrite to replace it"


def _paths(settings: GenerateSettings, stem: str) -> OutputPaths:
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


def _free_stem(settings: GenerateSettings) -> str:
    """How the files of a run begin: a stem that no other prompt has."""
    stem = _image_stem(settings)
    names = (
        sorted(path.name for path in settings.out.glob("*.png")) if settings.out.is_dir() else []
    )
    for number in count(1):
        numbered = stem if number == 1 else f"{stem}-{number}"
        theirs = re.compile(rf"{re.escape(numbered)}-(seed\d+(-\w+)?|edges|compare)\.png")
        first = next(filter(theirs.fullmatch, names), None)
        if first is None or prompt_of(settings.out / first) in (None, settings.prompt):
            return numbered
    raise AssertionError  # count has no end


def _image_stem(settings: GenerateSettings) -> str:
    """The prompt in a few words."""
    words = re.findall(r"[^\W_]+", settings.prompt.lower())
    stem = ""
    for word in words:
        if len(stem) + len(word) > 40:
            break
        stem = f"{stem}-{word}" if stem else word
    return stem or ("prompt" if settings.prompt else "no-prompt")


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


def write_images(
    images: Mapping[Path, tuple[Image.Image, Mapping[str, Any]]],
    *,
    control: str | None = None,
    replace: bool = False,
    wrote: Callable[[Path], None] = lambda path: None,
) -> None:
    """Write images with their settings; if one cannot be written, the others are all the same.

    Args:
        images: The images and what they remember, by the paths of their files.
        control: The picture that they followed, as text.
        replace: Whether they take the place of files that are there. A file that another run wrote
            meanwhile, with the same settings, is the same picture in any case.
        wrote: Is told of each that is there.

    Raises:
        ValueError: If one or more could not be written, after the others were.
    """
    from ..report import save_image

    failed: list[tuple[Path, str]] = []
    for path, (image, memory) in images.items():
        try:
            save_image(image, path, memory, replace=replace, control=control)
        except FileExistsError:
            if is_drawn_with(memory, path):
                wrote(path)
            else:
                failed.append((path, "another run has written a file of this name meanwhile"))
        except OSError as error:
            failed.append((path, error.strerror or str(error)))
        else:
            wrote(path)
    if failed:
        (path, reason), *others = failed
        more = f", nor {len(others)} more" if others else ""
        raise ValueError(f"{path} could not be written{more}: {reason}")


def _unusable(folder: Path, error: OSError) -> ValueError:
    return ValueError(
        f"--out {folder}: no files can be written there ({error.strerror or error}); expected a "
        "folder, which may be new"
    )
