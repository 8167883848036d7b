"""The family of Ideogram 4, where another denoiser predicts without the prompt."""

from __future__ import annotations

__all__ = ["Ideogram4"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.latent_layout import LatentLayout
from .base import Arguments, Setting, Step
from .last_tokens import LastTokens

# What stands for the image's tokens in `indicator`, and the side of a token in latents.
_IMAGE, _PATCH = 2, 2


class Ideogram4(LastTokens):
    """Text and image attend together, the image's tokens last, those of the text alike in number.

    The call without the prompt is made by `unconditional_transformer`, with the image's tokens
    alone.
    """

    name: ClassVar[str] = "Ideogram 4"
    denoisers: ClassVar[tuple[str, ...]] = ("Ideogram4Transformer2DModel",)
    why_no_text: ClassVar[str] = (
        "texts have places in the image's own sequence, as many as the prompt has words"
    )
    unconditional: ClassVar[str] = "unconditional_transformer"
    stacks: ClassVar[Mapping[str, str]] = {"b": "layers"}
    attention: ClassVar[tuple[str, ...]] = ("attention",)
    tied_to_size: ClassVar[tuple[str, ...]] = ("position_ids", "segment_ids", "indicator")
    reversed_flow: ClassVar[bool] = True

    @override
    def patch(self, denoiser: nn.Module) -> tuple[int, ...]:
        return (_PATCH, _PATCH)

    @override
    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        rows = argument("position_ids")[0][argument("indicator")[0] == _IMAGE][:, 1]
        width = int((rows == rows[0]).sum())
        return (len(rows) // width, width)

    @override
    def count(self, argument: Arguments) -> int:
        return int((argument("indicator")[0] == _IMAGE).sum())

    @override
    def latent_layout(self, denoiser: nn.Module, argument: Arguments) -> LatentLayout:
        return _Tokens(argument.once(self.grid, denoiser))

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """Two calls, with a scale for each step."""
        arguments = setting("arguments", {})
        scale = arguments["guidance_scale"]
        if scale is None:
            scale = arguments["guidance_schedule"][setting("scheduler", None).step_index or 0]
        return BatchLayout(separate=True, cfg_scale=float(scale))

    @override
    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        """The scheduler's own, since what the denoiser is told may be in half precision."""
        time: Tensor = scheduler.timesteps[scheduler.step_index or 0]
        return time


@dataclass(frozen=True)
class _Tokens(LatentLayout):
    """Tokens `(B, T, p p C)`, whose numbers are those of a patch with its channels last."""

    grid: tuple[int, ...]

    @override
    def unpack(self, prediction: Tensor) -> Tensor:
        apart = prediction.reshape(len(prediction), *self.grid, _PATCH, _PATCH, -1)
        return apart.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)

    @override
    def pack(self, unpacked: Tensor, like: Tensor) -> Tensor:
        rows, columns = self.grid
        apart = unpacked.reshape(*unpacked.shape[:2], rows, _PATCH, columns, _PATCH)
        return apart.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
