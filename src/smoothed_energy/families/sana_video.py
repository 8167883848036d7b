"""The family of Sana-Video, whose attention is linear."""

from __future__ import annotations

__all__ = ["SanaVideo"]

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from .sana import Sana


class SanaVideo(Sana):
    """Sana for videos: linear attention of all their tokens."""

    name: ClassVar[str] = "Sana-Video"
    denoisers: ClassVar[tuple[str, ...]] = ("SanaVideoTransformer3DModel",)
    scale_of_call: ClassVar[bool] = True

    @override
    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        """Frames that are given have the time 0."""
        return torch.as_tensor(value).max()
