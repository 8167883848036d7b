"""The family of Lumina-Image 2.0, whose prompts may have different lengths in one batch."""

from __future__ import annotations

__all__ = ["Lumina2"]

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import GridError, ImageTokens
from .base import Arguments, Setting, Step
from .transformer import Transformer
from .true_cfg import in_two_calls


class Lumina2(Transformer):
    """The image's tokens attend to themselves first (``n``), then together with the text's (``b``).

    There the text comes first, without its padding: the image begins where the row's prompt ends.
    """

    name: ClassVar[str] = "Lumina 2"
    denoisers: ClassVar[tuple[str, ...]] = ("Lumina2Transformer2DModel",)
    stacks: ClassVar[Mapping[str, str]] = {"n": "noise_refiner", "b": "layers"}
    reversed_flow: ClassVar[bool] = True
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "encoder_attention_mask")
    text_masks: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "encoder_attention_mask"}

    @override
    def attends_beside_text(self, denoiser: nn.Module) -> bool:
        return True

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        if layer.startswith("noise_refiner"):
            return super().tokens(denoiser, argument, layer, count)
        lengths = argument.once(_prompt_lengths, denoiser)
        # The second pass may have some of the rows only, and is as long as the longest of them.
        if count - self.length(denoiser, argument) not in lengths:
            raise GridError(
                f"{layer} has {count} tokens, which is not the number of the image's and those of "
                f"one of the prompts, whose lengths are {lengths}"
            )
        return ImageTokens(argument.once(self.grid, denoiser), lengths)

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """After a part of the steps there is no CFG."""
        layout = super().layout(denoiser, setting, step)
        if layout.groups == 1:
            return layout
        part = setting("cfg_trunc_ratio", 1.0)
        if part < 1.0 and (step().index + 1) / step().count > part:
            return BatchLayout()
        normalises = bool(setting("cfg_normalization", True))
        return replace(in_two_calls(layout), normalises=normalises)

    @override
    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        return (1 - value) * float(scheduler.config.num_train_timesteps)


def _prompt_lengths(denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
    """How many tokens the prompt of each row has."""
    return tuple(argument("encoder_attention_mask").sum(dim=1).tolist())
