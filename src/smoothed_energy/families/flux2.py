"""The family of Flux 2 and its small sisters, Klein."""

from __future__ import annotations

__all__ = ["Flux2"]

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from ..intercept.module_call import ModuleCall
from .base import Arguments, Setting, Step
from .flux import Flux
from .true_cfg import two_calls


class Flux2(Flux):
    """Two streams and then one, as in Flux; positions are `(picture, row, column, text)`.

    In the single stream the feed-forward network is a part of the attention module. Flux 2 itself
    is told the scale of guidance; Klein has CFG in two calls, unless it is distilled. Klein KV has
    references before the image at its first step, and only their keys at the others.
    """

    name: ClassVar[str] = "Flux 2"
    denoisers: ClassVar[tuple[str, ...]] = ("Flux2Transformer2DModel",)
    attends_in_blocks: ClassVar[bool] = True

    @override
    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        first, places = _references(argument), argument("img_ids")
        if first:
            rows = places[0] if places.ndim == 3 else places
            given = {"img_ids": rows[first:]}
            return super().grid(denoiser, Arguments(given.get))
        return super().grid(denoiser, argument)

    @override
    def latents(self, argument: Arguments) -> Any:
        return argument(self.sample)[:, _references(argument) :]

    @override
    def with_latents(self, call: ModuleCall, latents: Tensor) -> ModuleCall:
        references = call.argument(self.sample)[:, : _references(Arguments(call.argument))]
        return call.replace(self.sample, torch.cat([references, latents], dim=1))

    @override
    def isolated(self, call: ModuleCall) -> ModuleCall:
        """A call makes a cache of its own, or only reads the one that it is given."""
        return call

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        if not setting("do_classifier_free_guidance", False):
            return BatchLayout()
        return two_calls(setting)


def _references(argument: Arguments) -> int:
    """How many tokens of references come before the image's."""
    return int(argument("num_ref_tokens") or 0)
