"""The value of a context variable within a block."""

from __future__ import annotations

__all__ = ["holding"]

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

_T = TypeVar("_T")


@contextmanager
def holding(variable: ContextVar[_T], value: _T) -> Iterator[None]:
    """Within the block `variable` is `value`, in this thread and task alone."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
