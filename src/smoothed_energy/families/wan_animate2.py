"""The family of Wan Animate 2, whose inputs and outputs are lists of videos."""

from __future__ import annotations

__all__ = ["WanAnimate2"]

from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ..intercept.module_call import ModuleCall
from .base import Arguments
from .wan import Wan


class WanAnimate2(Wan):
    """Wan beside a driving video, whose keys are kept from a call before.

    Frames attend to each other and to the same frame of the driving video, through flex_attention,
    so that attention can't be perturbed, and blocks can.
    """

    name: ClassVar[str] = "Wan Animate 2"
    denoisers: ClassVar[tuple[str, ...]] = ("WanAnimate2Transformer3DModel",)
    attention: ClassVar[tuple[str, ...]] = ("self_attn",)
    cross: ClassVar[str | None] = "cross_attn"
    text_arguments: ClassVar[tuple[str, ...]] = ()
    why_no_text: ClassVar[str] = "the keys that it keeps have no row for another text"
    listed: ClassVar[frozenset[str]] = frozenset(
        {"hidden_states", "encoder_hidden_states", "condition_latents"}
    )
    unbatched: ClassVar[frozenset[str]] = frozenset({"offset_grid_sizes", "reference_grid_sizes"})
    tied_to_size: ClassVar[tuple[str, ...]] = ("condition_latents", "origin_area")

    @override
    def latents(self, argument: Arguments) -> Any:
        return torch.stack(argument(self.sample))

    @override
    def with_latents(self, call: ModuleCall, latents: Tensor) -> ModuleCall:
        return call.replace(self.sample, list(latents.unbind()))

    @override
    def prediction_of(self, output: Any) -> Tensor:
        return torch.stack(output[0] if isinstance(output, tuple) else output.sample)

    @override
    def with_prediction(self, output: Any, prediction: Tensor) -> Any:
        videos = list(prediction.unbind())
        return (videos,) if isinstance(output, tuple) else type(output)(sample=videos)

    @override
    def isolated(self, call: ModuleCall) -> ModuleCall:
        """Calls of steps only read the keys of the driving video."""
        return call

    @override
    def is_of_own_guidance(self, argument: Arguments) -> bool:
        """The call that makes the keys of the driving video predicts nothing."""
        return bool(argument("kv_cache_mode") == "extract")
