"""Files that are whole or not there: written beside their place, and moved to it."""

from __future__ import annotations

__all__ = ["whole_file"]

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which appears at its path when it is complete.

    It is written under a temporary name in the same folder, flushed to the disk and renamed, so
    that a reader, or a second writer, never sees a part of it. If the block fails, nothing is left.

    Args:
        path: Where the file will be. A file that is there is replaced.

    Yields:
        The open file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # Temporary files are private; what takes their place should follow the user's mask.
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
