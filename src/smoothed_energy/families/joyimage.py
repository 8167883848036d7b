"""The family of JoyImage-Edit, whose latents are several pictures, the image last."""

from __future__ import annotations

__all__ = ["JoyImage"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.latent_layout import LatentLayout
from .base import Arguments, Setting, Step
from .transformer import Transformer
from .true_cfg import in_two_calls


class JoyImage(Transformer):
    """Image and text attend together, the image's tokens first.

    Latents are `(B, N, C, F, H, W)`: the pictures that the image is made from, and the image. Its
    tokens come first all the same.
    """

    name: ClassVar[str] = "JoyImage-Edit"
    denoisers: ClassVar[tuple[str, ...]] = ("JoyImageEditTransformer3DModel",)
    stacks: ClassVar[Mapping[str, str]] = {"b": "double_blocks"}
    text: ClassVar[Any] = "after"
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "b": ("hidden_states", "encoder_hidden_states")
    }

    @override
    def length(self, denoiser: nn.Module, argument: Arguments) -> int:
        latents = argument(self.sample)
        pictures = latents.shape[1] if latents.ndim == 6 else 1
        return int(pictures * super().length(denoiser, argument))

    @override
    def latent_layout(self, denoiser: nn.Module, argument: Arguments) -> LatentLayout:
        return (
            _Pictures()
            if argument(self.sample).ndim == 6
            else super().latent_layout(denoiser, argument)
        )

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """Two calls, whose sum is as long as c in every place."""
        found = in_two_calls(super().layout(denoiser, setting, step))
        return replace(found, normalises=True)


@dataclass(frozen=True)
class _Pictures(LatentLayout):
    """`(B, N, C, F, H, W)`: the image is the last of the pictures, and the others stay."""

    @override
    def unpack(self, prediction: Tensor) -> Tensor:
        return prediction[:, -1]

    @override
    def pack(self, unpacked: Tensor, like: Tensor) -> Tensor:
        packed = torch.zeros_like(like, dtype=unpacked.dtype)
        packed[:, -1] = unpacked
        return packed
