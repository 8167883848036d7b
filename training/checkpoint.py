"""Checkpoints that survive being killed at any moment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes ``state`` beside ``path`` and then moves it there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    torch.save(state, temporary)
    os.replace(temporary, path)  # noqa: PTH105


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint written by :func:`save_checkpoint` (tensors and plain values only)."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    assert isinstance(state, dict)
    return state
