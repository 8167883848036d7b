"""The family of Lumina-Next."""

from __future__ import annotations

__all__ = ["LuminaNext"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import LayerError, SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .transformer import Transformer


class LuminaNext(Transformer):
    """Self-attention of the image's tokens, beside cross-attention to the text."""

    name: ClassVar[str] = "Lumina-Next"
    denoisers: ClassVar[tuple[str, ...]] = ("LuminaNextDiT2DModel",)
    cfg_of_call: ClassVar[bool] = True
    stacks: ClassVar[Mapping[str, str]] = {"b": "layers"}
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    cross: ClassVar[str | None] = "attn2"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "encoder_mask")
    text_masks: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "encoder_mask"}
    text_runs_along: ClassVar[bool] = True
    learned_variance: ClassVar[bool] = True
    reversed_flow: ClassVar[bool] = True
    unbatched: ClassVar[frozenset[str]] = frozenset({"image_rotary_emb"})

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """The pipeline stacks `[c, u]`, and has CFG in the first three channels only.

        In the others it takes $c$, so there is no one scale of CFG.
        """
        if super().layout(denoiser, setting, step).groups == 1:
            return BatchLayout()
        return BatchLayout(2, conditional=0, unconditional=1)

    @override
    def outputs(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, module: nn.Module
    ) -> tuple[str, ...]:
        """Attention has no projection of its own: its heads meet those of cross-attention.

        Raises:
            LayerError: If that is to give its input.
        """
        if module is layer.module:
            raise LayerError(
                f"layers: {layer.name} gives its heads apart, so it can't give its input in their "
                'place; expected skip="block" or skip="feed-forward"'
            )
        return super().outputs(denoiser, layer, module)

    @override
    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        return (1 - value) * float(scheduler.config.num_train_timesteps)
