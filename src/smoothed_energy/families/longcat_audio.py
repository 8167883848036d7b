"""The family of LongCat-AudioDiT."""

from __future__ import annotations

__all__ = ["LongCatAudio"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .audio import Audio
from .base import Setting, Step
from .true_cfg import in_two_calls


class LongCatAudio(Audio):
    """Self-attention over time, and cross-attention to the text."""

    name: ClassVar[str] = "LongCat-Audio"
    tells_timesteps: ClassVar[bool] = False
    reversed_flow: ClassVar[bool] = True
    denoisers: ClassVar[tuple[str, ...]] = ("LongCatAudioDiTTransformer",)
    channels_last: ClassVar[bool] = True
    stacks: ClassVar[Mapping[str, str]] = {"b": "blocks"}
    attention: ClassVar[tuple[str, ...]] = ("self_attn",)
    cross: ClassVar[str | None] = "cross_attn"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "encoder_attention_mask")
    # No `text_masks`: convolutions over the text see what fills it up.
    text_runs_along: ClassVar[bool] = True

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        return in_two_calls(super().layout(denoiser, setting, step))

    @override
    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        return value * float(scheduler.config.num_train_timesteps)
