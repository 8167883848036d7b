"""The files of a run: what stands in their way is said before anything is drawn."""

from __future__ import annotations

__all__ = ["check_output", "make_folder", "write_images"]

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


def check_output(folder: Path, paths: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse a folder that is none, and files that exist; nothing is created.

    Raises:
        ValueError: If the folder is something else, or a file exists and is not to be replaced.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--out {folder} is a file; expected a folder, which may be new")
        for path in () if overwrite else paths:
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
    """Write images with their settings; one that cannot be written does not keep the others back.

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
