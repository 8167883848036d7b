"""What guidance that changes passes in place asks of a family: its texts, and its times."""

from __future__ import annotations

__all__ = ["Alterable"]

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.cfg_batch import repeat_rows
from ..denoisers.text_rows import pad_texts
from ..intercept.module_call import Rows
from .later_time import later_time

# Names of modules that embed the time, as they are used.
_EMBEDDINGS = (
    "time_embedding",
    "timestep_embedder",
    "time_embedder",
    "t_embedder",
    "time_step_proj",
    "time_embed",
    "time_token",
)


class Alterable(ABC):
    """A kind of denoiser whose texts and times may be changed.

    Attributes:
        unbatched: Arguments without a row for each sample (whatever the size of their first
            dimension).
        folded: Arguments with several rows for each sample, one after the other.
        listed: Arguments that are lists with one item for each sample.
        tells_timesteps: Whether its times are, by `timestep`, those of schedulers that count to
            1000 and grow with the noise.
        text_arguments: Arguments that follow from the prompt; none: they are not known.
        text_masks: Those of them, `(B, L, *)`, whose rows may be padded, and the argument that then
            tells which tokens `(B, L)` are a row's own.
        cross_inputs: The text and its mask as attention to the text alone takes them.
        text_runs_along: Whether such attention gets a text that depends on the time or the layer.
        why_no_text: Why no other text can be given to the denoiser; empty: nothing is known.
    """

    unbatched: ClassVar[frozenset[str]] = frozenset()
    folded: ClassVar[frozenset[str]] = frozenset()
    listed: ClassVar[frozenset[str]] = frozenset()
    tells_timesteps: ClassVar[bool] = True
    text_arguments: ClassVar[tuple[str, ...]] = ()
    text_masks: ClassVar[Mapping[str, str]] = {}
    cross_inputs: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "attention_mask")
    text_runs_along: ClassVar[bool] = False
    why_no_text: ClassVar[str] = ""

    @abstractmethod
    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        """The scheduler's timestep for the one that the denoiser gets."""

    def later(self, denoiser: nn.Module, time: Any, by: float) -> Any:
        """What the denoiser is told at a time of more noise.

        Args:
            denoiser: The denoiser.
            time: What it is told.
            by: How many timesteps later, of a schedule that counts to 1000; at most its last.

        Raises:
            ValueError: If that is not known, or every token has a time of its own.
        """
        told = None
        if self.tells_timesteps:
            told = later_time(functools.partial(self.timestep, denoiser), time, by)
        if told is None:
            raise ValueError(
                f"how a {type(denoiser).__name__} is told a later time is not known: expected one "
                "that is told one timestep of each sample, or a part of 1"
            )
        return told

    def time_embeddings(self, denoiser: nn.Module) -> dict[str, nn.Module]:
        """The modules that give the embedding of the time, `(B, C)`, by name: none, if unknown."""
        return {
            name: module
            for name, module in denoiser.named_modules()
            if name.rpartition(".")[2] in _EMBEDDINGS
            and re.fullmatch(r"\w*TimestepEmbed(ding|der)", type(module).__name__)
            and not any(part in name for part in ("audio", "av_cross", "prompt", "context_"))
        }

    def repeat_rows(
        self, arguments: dict[str, Any], rows: Rows, text: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The named arguments of a call with some rows once more after themselves.

        Args:
            arguments: The arguments.
            rows: The rows that come twice.
            text: What takes the place of `text_arguments` in the second ones, as many rows; empty
                if they have the same.

        Raises:
            ValueError: If texts differ in length, and can't be padded.
        """
        if text:
            arguments, text = pad_texts(self.text_masks, arguments, text)
        found = repeat_rows(arguments, rows, self.unbatched | self.listed, self.folded)
        for name in self.listed & found.keys():
            value = found[name]
            if value is not None:
                found[name] = [*value[: rows.stop], *value[rows.start :]]
        fold = rows.stop - rows.start
        for name, other in text.items():
            value = found[name]
            if isinstance(value, list):
                found[name] = [*value[: rows.stop], *other, *value[rows.stop + fold :]]
            else:
                twice = Rows(rows.stop, rows.stop + fold, rows.batch + fold)
                found[name] = twice.put(value, other.to(value.dtype))
        return found

    def cross_attention(self, denoiser: nn.Module, layer: SelfAttentionLayer) -> nn.Module | None:
        """The attention of the image's tokens to the text alone, in the block of a layer, if any.

        It takes `cross_inputs`, the same in all layers and at all times unless `text_runs_along`.
        """
        return None

    def cross_attentions(
        self, denoiser: nn.Module, layers: Sequence[SelfAttentionLayer]
    ) -> dict[nn.Module, str]:
        """The attention to the text alone in the blocks of layers, with the names of these."""
        found = [(self.cross_attention(denoiser, layer), layer.name) for layer in layers]
        return {module: name for module, name in found if module is not None}

    def no_text(self, denoiser: nn.Module) -> str:
        """Why no other text can be given to a denoiser; by default `why_no_text`."""
        return self.why_no_text

    def modulates(self, layer: SelfAttentionLayer) -> bool:
        """Whether what stands for a layer's attention does more, which follows from the text."""
        return False

    def attends_beside_text(self, denoiser: nn.Module) -> bool:
        """Whether its layers attend with the tokens of the image and of the text together."""
        return False
