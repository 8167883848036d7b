"""Files that strangers may have chosen: opened if they are regular, and read up to a bound."""

from __future__ import annotations

__all__ = ["check_regular", "open_regular", "read_text"]

import errno
import os
import stat
from pathlib import Path
from typing import IO

#: The most bytes of a text that somebody writes by hand.
_MOST_BYTES = 16 * 2**20


def open_regular(path: Path) -> IO[bytes]:
    """A file, open for reading.

    Raises:
        OSError: If it is none that can be read, or a pipe, a device, ..., which may never end.
    """
    # Opening a pipe would wait for somebody who writes to it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        _check_mode(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(path: Path) -> None:
    """Refuse what is not a file that can be read to its end.

    Raises:
        OSError: If there is none.
    """
    _check_mode(path.stat().st_mode, path)


def _check_mode(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a pipe or a device, not a regular file", str(path))


def read_text(path: Path, *, most: int = _MOST_BYTES) -> str:
    """The text of a file.

    Args:
        path: The file, in UTF-8.
        most: The most bytes it may have.

    Raises:
        OSError: If it is no regular file that can be read, or larger.
        UnicodeDecodeError: If it is not UTF-8.
    """
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"more than {most} bytes", str(path))
    return data.decode("utf-8")
