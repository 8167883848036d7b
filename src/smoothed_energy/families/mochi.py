"""The family of Mochi, whose time runs from noise to video."""

from __future__ import annotations

__all__ = ["Mochi"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from .advice import Advice
from .transformer import Transformer


class Mochi(Transformer):
    """Video and text attend together, the video's tokens first.

    Rows attend one by one, each with those tokens of its prompt alone that are no padding.
    """

    name: ClassVar[str] = "Mochi"
    tells_timesteps: ClassVar[bool] = False
    denoisers: ClassVar[tuple[str, ...]] = ("MochiTransformer3DModel",)
    advised: ClassVar[tuple[Advice, ...]] = (
        Advice(
            "slg",
            "b34",
            "Hyung et al. 2025 (STG), in the community pipelines of diffusers",
            scale=1.0,
            model="1",
            fits=lambda config: config.num_layers == 48,
        ),
    )
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    text: ClassVar[Any] = "after"
    why_no_text: ClassVar[str] = (
        "rows attend one by one, each with as much text as its prompt has, so that two of them are "
        "never seen together"
    )
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "b": ("hidden_states", "encoder_hidden_states")
    }
    # Pipelines keep 1000 - t, and the schedule and the denoiser have t.
    keeps_time: ClassVar[bool] = False
    reversed_flow: ClassVar[bool] = True

    @override
    def patch(self, denoiser: nn.Module) -> tuple[int, ...]:
        config: Any = denoiser.config
        return (1, config.patch_size, config.patch_size)
