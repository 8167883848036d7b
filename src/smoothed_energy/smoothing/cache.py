"""The matrices that smoothing keeps for later calls, on every device."""

from __future__ import annotations

__all__ = ["cache_info", "clear_cache"]

from .moving_average import cached_tables
from .separable import cached_matrices

_CACHES = {"separable": cached_matrices, "ema": cached_tables}


def clear_cache() -> None:
    """Forget all cached matrices, on every device."""
    for cache in _CACHES.values():
        cache.cache_clear()


def cache_info() -> dict[str, tuple[int, int]]:
    """How many entries the caches hold, and how many they may hold."""
    return {
        name: (cache.cache_info().currsize, cache.cache_info().maxsize or 0)
        for name, cache in _CACHES.items()
    }
