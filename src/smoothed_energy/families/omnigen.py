"""The family of OmniGen, a language model whose last tokens are the image's."""

from __future__ import annotations

__all__ = ["OmniGen"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout
from ..intercept.module_call import Rows
from .base import Setting, Step
from .transformer import Transformer

_PICTURES, _PLACES = "input_img_latents", "input_image_sizes"


class OmniGen(Transformer):
    """Prompt (with given pictures in it), time and image attend together, the image's tokens last.

    Given pictures come as one list for all rows, with a dictionary of their places in each row.
    """

    name: ClassVar[str] = "OmniGen"
    tells_timesteps: ClassVar[bool] = False
    denoisers: ClassVar[tuple[str, ...]] = ("OmniGenTransformer2DModel",)
    why_no_text: ClassVar[str] = (
        "its prompt is the numbers of its words, with places for pictures among them"
    )
    stacks: ClassVar[Mapping[str, str]] = {"b": "layers"}
    attention: ClassVar[tuple[str, ...]] = ("self_attn",)
    text: ClassVar[Any] = "before"
    unbatched: ClassVar[frozenset[str]] = frozenset({_PICTURES, _PLACES})
    tied_to_size: ClassVar[tuple[str, ...]] = ("attention_mask", "position_ids")
    reversed_flow: ClassVar[bool] = True

    @override
    def repeat_rows(
        self, arguments: dict[str, Any], rows: Rows, text: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Rows once more after themselves, where no pictures stand in prompts.

        Raises:
            RuntimeError: If some do: they are numbered by rows.
        """
        if arguments.get(_PLACES):
            raise RuntimeError(
                "rows can't be added to a batch whose prompts have pictures in them; expected "
                "joined=False"
            )
        return super().repeat_rows(arguments, rows, text)

    @override
    def take_rows(self, arguments: dict[str, Any], rows: Rows) -> dict[str, Any]:
        taken = super().take_rows(arguments, rows)
        places = arguments.get(_PLACES)
        if rows.is_all or not places:
            return taken
        pictures = iter(arguments[_PICTURES])
        by_row = {row: [next(pictures) for _ in found] for row, found in places.items()}
        kept = [row for row in places if rows.start <= row < rows.stop]
        taken[_PLACES] = {row - rows.start: places[row] for row in kept}
        taken[_PICTURES] = [picture for row in kept for picture in by_row[row]]
        return taken

    @override
    def feed_forward(self, block: nn.Module) -> nn.Module | None:
        return block.get_submodule("mlp")

    @override
    def outputs(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, module: nn.Module
    ) -> tuple[str, ...]:
        return ("hidden_states",)

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """`[c, u]`, or `[c, u, i]` where pictures are given, whatever the scales are."""
        arguments = setting("arguments", {})
        groups = 2 if arguments.get("input_images") is None else 3
        scale = float(arguments["guidance_scale"])
        return BatchLayout(groups, conditional=0, unconditional=1, cfg_scale=scale)
