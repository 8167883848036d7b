"""The families of JoyImage-Edit and Edit Plus, whose latents are several pictures."""

from __future__ import annotations

__all__ = ["JoyImage", "JoyImageEditPlus"]

import math
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
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states",)
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


class JoyImageEditPlus(JoyImage):
    """Latents are patches `(B, N, C, pt, ph, pw)`: those of the image, its sources', and padding.

    Sources may be of any sizes.
    """

    name: ClassVar[str] = "JoyImage-Edit Plus"
    denoisers: ClassVar[tuple[str, ...]] = ("JoyImageEditPlusTransformer3DModel",)
    text_arguments: ClassVar[tuple[str, ...]] = (
        "encoder_hidden_states",
        "encoder_hidden_states_mask",
    )
    text_masks: ClassVar[Mapping[str, str]] = {
        "encoder_hidden_states": "encoder_hidden_states_mask"
    }
    listed: ClassVar[frozenset[str]] = frozenset({"shape_list"})
    tied_to_size: ClassVar[tuple[str, ...]] = ("shape_list",)

    @override
    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        return tuple(argument("shape_list")[0][0])

    @override
    def length(self, denoiser: nn.Module, argument: Arguments) -> int:
        return int(argument(self.sample).shape[1])

    @override
    def latent_layout(self, denoiser: nn.Module, argument: Arguments) -> LatentLayout:
        return _Patches(argument.once(self.grid, denoiser))

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """One batch `[u, c]`, whose sum is as long as c."""
        found = Transformer.layout(self, denoiser, setting, step)
        return replace(found, normalises=True, rescale_scale=found.cfg_scale)


@dataclass(frozen=True)
class _Patches(LatentLayout):
    """`(B, N, C, pt, ph, pw)`: the image's patches are first, row by row."""

    grid: tuple[int, ...]

    @override
    def unpack(self, prediction: Tensor) -> Tensor:
        tokens = prediction[:, : math.prod(self.grid)]
        patches = tokens.reshape(len(tokens), *self.grid, *tokens.shape[2:])
        # (B, F, H, W, C, pt, ph, pw): every axis of the grid before that of its patch.
        return patches.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6).flatten(4, 5).flatten(2, 3)

    @override
    def pack(self, unpacked: Tensor, like: Tensor) -> Tensor:
        sides = [side for pair in zip(self.grid, like.shape[-3:], strict=True) for side in pair]
        apart = unpacked.reshape(*unpacked.shape[:2], *sides)
        patches = apart.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(1, 3)
        packed = torch.zeros_like(like, dtype=unpacked.dtype)
        packed[:, : patches.shape[1]] = patches
        return packed
