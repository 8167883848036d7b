"""Layers without softmax attention, and the methods that can do without it."""

from __future__ import annotations

__all__ = ["require_softmax", "softmax_free"]

from collections.abc import Iterable

from ..denoisers.attention_layer import LayerError, SelfAttentionLayer

#: The names of the methods that work with any kind of attention; `smoothed_energy.methods` adds
#: them when they are registered.
softmax_free: list[str] = []


def require_softmax(layers: Iterable[SelfAttentionLayer]) -> None:
    """Refuse layers without softmax attention, for methods that change or read it.

    Raises:
        LayerError: If there is one.
    """
    for layer in layers:
        if not layer.softmax:
            raise LayerError(
                f"layers: {layer.name} is sparse or linear attention, without softmax(QK^T), "
                "which this method needs; expected another layer, or another method: "
                + ", ".join(softmax_free)
            )
