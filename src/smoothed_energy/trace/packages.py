"""The packages of the extra `measure`, imported when they are needed."""

from __future__ import annotations

__all__ = ["matplotlib_figure", "pandas", "scipy_stats"]

import importlib
from typing import Any


def pandas() -> Any:
    """The package pandas.

    Raises:
        ImportError: If it is not there.
    """
    return _imported("pandas", "tables of traces")


def matplotlib_figure() -> Any:
    """The module `matplotlib.figure`, which needs no display.

    Raises:
        ImportError: If it is not there.
    """
    return _imported("matplotlib.figure", "plots of traces")


def scipy_stats() -> Any:
    """The module `scipy.stats`.

    Raises:
        ImportError: If it is not there.
    """
    return _imported("scipy.stats", "rates of divergence")


def _imported(name: str, use: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{use} need {name.partition('.')[0]}: pip install 'smoothed-energy[measure]'"
        ) from error
