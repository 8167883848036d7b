"""The family of HunyuanVideo Framepack, which draws the next frames beside those before."""

from __future__ import annotations

__all__ = ["Framepack"]

import math
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.image_tokens import GridError, ImageTokens
from .base import Arguments
from .hunyuan_video import HunyuanVideo

# The patches of given frames: the longer ago, the larger.
_HISTORY = {
    "latents_clean": (1, 2, 2),
    "latents_history_2x": (2, 4, 4),
    "latents_history_4x": (4, 8, 8),
}


class Framepack(HunyuanVideo):
    """HunyuanVideo, with tokens of given frames before those of the frames that are drawn."""

    name: ClassVar[str] = "HunyuanVideo Framepack"
    denoisers: ClassVar[tuple[str, ...]] = ("HunyuanVideoFramepackTransformer3DModel",)
    # Places of frames in the video, the same in all rows.
    unbatched: ClassVar[frozenset[str]] = frozenset(
        ["indices_latents", *[f"indices_{name}" for name in _HISTORY]]
    )
    tied_to_size: ClassVar[tuple[str, ...]] = tuple(_HISTORY)

    @override
    def beside_text(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> tuple[int | tuple[int, ...], int]:
        """Those of given frames and of the frames that are drawn, which the text follows."""
        image = self.tokens(denoiser, argument, layer, count)
        assert isinstance(image.start, int)
        return 0, image.start + image.count

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        grid = argument.once(self.grid, denoiser)
        before = argument.once(_history, denoiser)
        image = ImageTokens(grid, before)
        if count < before + image.count:
            raise GridError(
                f"{layer} attends with {count} tokens, but there are {before} of given frames, and "
                f"{image.count} of a grid {'x'.join(map(str, grid))}; expected a denoiser whose "
                "tokens nothing merges or drops"
            )
        return image


def _history(denoiser: nn.Module, argument: Arguments) -> int:
    """The number of tokens of given frames; what is no whole patch is padded."""
    total = 0
    for name, patch in _HISTORY.items():
        latents: Any = argument(name)
        if latents is not None and argument(f"indices_{name}") is not None:
            sides = zip(latents.shape[-3:], patch, strict=True)
            total += math.prod(-(-size // side) for size, side in sides)
    return total
