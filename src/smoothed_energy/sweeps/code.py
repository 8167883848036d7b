"""The digest of the package's own code, as far as it draws."""

from __future__ import annotations

__all__ = ["code_digest"]

import functools
import hashlib
from pathlib import Path

#: The packages and modules that a picture, and what is noted of its run, go through.
_DRAWING = (
    "denoisers",
    "engine",
    "families",
    "guidance",
    "integrations",
    "intercept",
    "methods",
    "models",
    "schedule",
    "smoothing",
    "trace",
    "sweeps/facts.py",
    "sweeps/pipeline_call.py",
    "sweeps/pipeline_sampler.py",
)


@functools.cache
def code_digest() -> str:
    """A digest of the code between a configuration and its picture.

    A version alone would call pictures of a changed method the same while the package is developed.
    """
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for name in _DRAWING:
        place = root / name
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            # The same on systems with other ends of lines.
            code = path.read_bytes().replace(b"\r\n", b"\n")
            digest.update(f"{path.relative_to(root).as_posix()} {len(code)}\n".encode() + code)
    return digest.hexdigest()
