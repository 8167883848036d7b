"""The family of Qwen-Image 2.1, whose tokens attend block by block, the image's last."""

from __future__ import annotations

__all__ = ["QwenImage21"]

import math
from typing import ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from ..intercept.module_call import ModuleCall
from .base import Arguments, Setting, Step
from .last_tokens import LastTokens
from .true_cfg import true_cfg


class QwenImage21(LastTokens):
    """Text and pictures in one sequence, in which nothing sees what follows; the image is last.

    Latents come as tokens `(B, T, C)`, those of the pictures that the image is made from first. A
    call predicts for all tokens, or, where a cache has the keys of those before, for the image's
    alone.
    """

    name: ClassVar[str] = "Qwen-Image 2.1"
    denoisers: ClassVar[tuple[str, ...]] = ("QwenImage21Transformer2DModel",)
    why_no_text: ClassVar[str] = (
        "the keys and values of its text are computed at the first step, and kept for all others"
    )
    attends_in_blocks: ClassVar[bool] = True
    time_factor: ClassVar[float] = 1000.0
    tied_to_size: ClassVar[tuple[str, ...]] = ("img_shapes",)

    @override
    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        return tuple(argument("img_shapes")[0][-1][-2:])

    @override
    def count(self, argument: Arguments) -> int:
        return math.prod(argument("img_shapes")[0][-1])

    @override
    def isolated(self, call: ModuleCall) -> ModuleCall:
        """Keys that are kept for later calls are kept in another cache."""
        if not self.is_needed_later(Arguments(call.argument)):
            return call
        cache = call.argument("kv_cache")
        return call.replace("kv_cache", type(cache)(len(cache.layer_caches)))

    @override
    def is_needed_later(self, argument: Arguments) -> bool:
        return bool(argument("kv_cache_mode") == "extract")

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        return true_cfg(setting, "negative_prompt_embeds")
