"""The family of Bria Fibo 2, whose prompts become more or fewer tokens by their lengths."""

from __future__ import annotations

__all__ = ["BriaFibo2"]

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import GridError, ImageTokens
from ..intercept.module_call import Rows
from .base import Arguments, Setting, Step
from .transformer import Transformer
from .true_cfg import in_two_calls


class BriaFibo2(Transformer):
    """The image's tokens attend to themselves first (``n``), then with those of the text (``b``).

    Pictures that are edited follow the image. The text's tokens come before all of them, or last
    where the rows of a batch have different numbers of them.
    """

    name: ClassVar[str] = "Bria Fibo 2"
    denoisers: ClassVar[tuple[str, ...]] = ("BriaFibo2Transformer2DModel",)
    time_factor: ClassVar[float] = 1000.0
    stacks: ClassVar[Mapping[str, str]] = {"n": "noise_refiner", "b": "layers"}
    attention: ClassVar[tuple[str, ...]] = ("attention",)
    text: ClassVar[Any] = "after"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "encoder_attention_mask")
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"n": ("x",), "b": ("x",)}

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        found = super().tokens(denoiser, argument, layer, count)
        if layer.startswith("noise_refiner"):
            return found
        texts = _text_tokens(denoiser, argument)
        return found if len(set(texts)) > 1 else ImageTokens(found.grid, texts[0])

    @override
    def take_rows(self, arguments: dict[str, Any], rows: Rows) -> dict[str, Any]:
        """Rows of a mask, if they are arranged as all rows are.

        Raises:
            GridError: If they aren't: the image would be in another place.
        """
        taken = super().take_rows(arguments, rows)
        if not rows.is_all and arguments.get("encoder_attention_mask") is not None:
            lengths = [found["encoder_attention_mask"].sum(dim=1) for found in (arguments, taken)]
            if len(lengths[0].unique()) > 1:
                raise GridError(
                    f"prompts of the lengths {lengths[0].tolist()} in one batch, of which a pass "
                    f"needs {lengths[1].tolist()} alone, where the image may lie elsewhere; "
                    'expected rows="all", or two calls'
                )
        return taken

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        return in_two_calls(super().layout(denoiser, setting, step))


def _text_tokens(denoiser: nn.Module, argument: Arguments) -> list[int]:
    """How many tokens the text of each row becomes: a number between two, by its length."""
    config: Any = denoiser.config
    mask = argument("encoder_attention_mask")
    if mask is None:
        rows, _, length, _ = argument("encoder_hidden_states").shape
        lengths = [length] * rows
    else:
        lengths = mask.sum(dim=1).tolist()
    least, most = config.min_num_gist_tokens, config.max_num_gist_tokens
    shortest, longest = config.gist_min_text_len, config.gist_max_text_len
    counts = []
    for length in lengths:
        part = min(1.0, max(0.0, (length - shortest) / (longest - shortest)))
        steps = math.ceil((least + part * (most - least)) / config.gist_step)
        counts.append(max(least, min(most, steps * config.gist_step)))
    return counts
