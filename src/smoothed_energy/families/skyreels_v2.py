"""The family of SkyReels V2, whose frames may each have a time of their own."""

from __future__ import annotations

__all__ = ["SkyReelsV2"]

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from .base import Arguments
from .wan import Wan


class SkyReelsV2(Wan):
    """Wan, told a time for every frame where it draws by diffusion forcing.

    Frames that are given have the time 0. With `causal_block_size` frames attend to those before.
    """

    name: ClassVar[str] = "SkyReels V2"
    denoisers: ClassVar[tuple[str, ...]] = ("SkyReelsV2Transformer3DModel",)
    listed: ClassVar[frozenset[str]] = frozenset({"fps"})

    @override
    def tied(self, argument: Arguments) -> tuple[str, ...]:
        """Times of frames hold for every size."""
        return ()

    @override
    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        """The time of the frames that are drawn.

        Raises:
            ValueError: If they have different ones.
        """
        times = sorted(set(torch.as_tensor(value).flatten().tolist()))
        drawn = [time for time in times if time > 0] or times
        if len(drawn) > 1:
            raise ValueError(
                f"the frames of this video have times from {drawn[0]:g} to "
                f"{drawn[-1]:g}, so this is no single step of a schedule; expected "
                "ar_step=0 and addnoise_condition=0, or guidance that is alike at all steps"
            )
        return float(drawn[0])
