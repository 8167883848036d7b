"""The family of MiniMax Music 3."""

from __future__ import annotations

__all__ = ["MiniMaxMusic3"]

from typing import Any, ClassVar

from .audio import Audio


class MiniMaxMusic3(Audio):
    """Self-attention over time, and one token before for the time of the step.

    What is to be played comes as channels beside those of the latents. The flow goes from noise,
    at a time of 0, to sound, at 1.
    """

    name: ClassVar[str] = "MiniMax Music 3"
    tells_timesteps: ClassVar[bool] = False
    reversed_flow: ClassVar[bool] = True
    denoisers: ClassVar[tuple[str, ...]] = ("MiniMaxMusic3Transformer1DModel",)
    text: ClassVar[Any] = "before"
    tied_to_size: ClassVar[tuple[str, ...]] = ("encoder_hidden_states",)
