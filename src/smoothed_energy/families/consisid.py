"""The family of ConsisID, which keeps a face in CogVideoX's videos."""

from __future__ import annotations

__all__ = ["ConsisID"]

from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from .cogvideox import CogVideoX


class ConsisID(CogVideoX):
    """CogVideoX, with attention to a face after some of its blocks."""

    name: ClassVar[str] = "ConsisID"
    denoisers: ClassVar[tuple[str, ...]] = ("ConsisIDTransformer3DModel",)

    @override
    def patch(self, denoiser: nn.Module) -> tuple[int, ...]:
        config: Any = denoiser.config
        return (1, config.patch_size, config.patch_size)
