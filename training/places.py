"""Where data and checkpoints live: outside the repository, in the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["default_folder"]


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/smoothed-energy/training``, or the same below ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    base = Path(cache) if cache else Path.home() / ".cache"
    return base / "smoothed-energy" / "training"
