"""Files that are whole or not there: written beside their place, and moved to it."""

from __future__ import annotations

__all__ = ["UNFINISHED", "whole_file"]

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

#: How the names of files end that are being written.
UNFINISHED = ".unfinished"


@contextmanager
def whole_file(path: Path, *, replace: bool = True) -> Iterator[IO[bytes]]:
    """A file to write, which appears at its path when it is complete.

    It is written under a name of its own in the same folder, flushed to the disk and moved, so that
    a reader, or a second writer, never sees a part of it. If the block fails, nothing is left.

    Args:
        path: Where the file will be; its folder is made if it is missing.
        replace: Whether it takes the place of a file that is there.

    Yields:
        The open file.

    Raises:
        FileExistsError: If there is a file that it is not to replace.
        OSError: If it can't be written; what was there before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # As short for a long name, which may be as long as names can be.
    unfinished = path.with_name(f".{secrets.token_hex(8)}{UNFINISHED}")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            unfinished.replace(path)
        else:
            _move_to_free_name(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _move_to_free_name(unfinished: Path, path: Path) -> None:
    """Move a file to a name that nobody has, also not in the meantime.

    Raises:
        FileExistsError: If somebody has.
    """
    try:
        os.link(unfinished, path)  # unlike a move, it replaces nothing
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        path.open("xb").close()
        unfinished.replace(path)


def _sync_folder(folder: Path) -> None:
    """Make sure that a new name in a folder survives a loss of power."""
    if os.name != "posix":
        return  # folders can't be opened there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
