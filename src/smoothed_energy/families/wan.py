"""The family of Wan 2.1 and 2.2."""

from __future__ import annotations

__all__ = ["Wan"]

from collections.abc import Mapping
from typing import ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .advice import Advice
from .base import Arguments, Setting, Step
from .transformer import Transformer


class Wan(Transformer):
    """Self-attention of a video's tokens, and cross-attention to the text (and the image)."""

    name: ClassVar[str] = "Wan"
    denoisers: ClassVar[tuple[str, ...]] = ("WanTransformer3DModel",)
    advised: ClassVar[tuple[Advice, ...]] = (
        Advice(
            "slg",
            "b8",
            "Hyung et al. 2025 (STG), in the community pipelines of diffusers",
            scale=1.0,
            model="1.3B, 14B",
            fits=lambda config: config.num_layers in (30, 40),
        ),
    )
    stacks: ClassVar[Mapping[str, str]] = {"b": "blocks"}
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    cross: ClassVar[str | None] = "attn2"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states",)

    @override
    def tied(self, argument: Arguments) -> tuple[str, ...]:
        """Wan 2.2 5B is told a time for every token."""
        found = super().tied(argument)
        return (*found, "timestep") if argument("timestep").ndim > 1 else found

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """Wan 2.2 has another scale below a boundary."""
        if super().layout(denoiser, setting, step).groups == 1:
            return BatchLayout()
        # The pipelines multiply by the arguments of the call, whatever a callback changed.
        arguments = setting("arguments", {})
        scale = arguments["guidance_scale"]
        boundary = setting("config", {}).get("boundary_ratio")
        low = arguments.get("guidance_scale_2")
        if boundary is not None and low is not None:
            steps = setting("scheduler", None).config.num_train_timesteps
            scale = low if setting("current_timestep", None) < boundary * steps else scale
        return BatchLayout(separate=True, cfg_scale=scale)
