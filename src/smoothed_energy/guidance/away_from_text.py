r"""Attention that turns away from a negative prompt: what NAG makes of it (Chen et al. 2025)."""

from __future__ import annotations

__all__ = ["BesideText", "InCrossAttention", "InRows", "Strength", "normalized"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ..denoisers.cfg_batch import Formulation
from ..intercept.attention import Attention, AttentionBackendError, attend_with
from ..intercept.module_call import Rows
from .alteration import Alteration, AlteredRows
from .perturbation import LayerCall


@dataclass(frozen=True)
class Strength:
    """What is made of attention with the prompt and with the negative one."""

    scale: float
    tau: float
    alpha: float

    def __call__(self, positive: Tensor, negative: Tensor) -> Tensor:
        """See `normalized`."""
        return normalized(positive, negative, self.scale, self.tau, self.alpha)


def normalized(
    positive: Tensor, negative: Tensor, scale: float, tau: float, alpha: float
) -> Tensor:
    r"""What NAG makes of attention, `(B, heads, T, d)`, with the prompt and with the negative one.

    $\tilde Z = Z^+ + s\,(Z^+ - Z^-)$, scaled down where its L1 norm over heads and channels is more
    than $\tau$ times that of $Z^+$, and $\alpha$ of it is taken: $\alpha \hat Z + (1-\alpha) Z^+$.

    Args:
        positive: $Z^+$.
        negative: $Z^-$.
        scale: $s$.
        tau: $\tau$.
        alpha: $\alpha$.
    """
    # Sums of thousands of channels may be too large for half precision.
    found = torch.promote_types(positive.dtype, torch.float32)
    plus, minus = positive.to(found), negative.to(found)
    guided = plus + scale * (plus - minus)
    size = guided.abs().sum(dim=(1, 3), keepdim=True)
    most = tau * plus.abs().sum(dim=(1, 3), keepdim=True)
    guided = guided * torch.where(size > most, most / size, 1.0)
    return (alpha * guided + (1 - alpha) * plus).to(positive.dtype)


class InCrossAttention(Alteration):
    """NAG where attention has the text alone for its keys: the same queries ask the negative one.

    Keys and values of the negative text are the same at all steps, so they are made once.
    """

    branch: Formulation | None = "conditional"
    reads_text = True

    def __init__(
        self, strength: Strength, text: Mapping[str, Any] | None, inputs: tuple[str, ...]
    ) -> None:
        self.strength, self.text, self._inputs = strength, text, inputs

    @override
    def run(self, call: LayerCall, part: AlteredRows) -> Any:
        negative = self._keys(call, part)
        number = 0

        def attend(attention: Attention) -> Tensor:
            nonlocal number
            output = attention()
            other = negative[number]
            number += 1
            _check_heads(output, call.name)
            query = part.rows.of(attention.query)
            minus = other.native(query, other.key, other.value, **other.options)
            return part.rows.put(output, self.strength(part.rows.of(output), minus))

        return attend_with(attend, call.call, call.name)

    def _keys(self, call: LayerCall, part: AlteredRows) -> list[Attention]:
        """What the module attends to if it is called with the negative text, call by call."""
        rows = part.rows.stop - part.rows.start
        name = call.module, rows
        if name not in part.memory:
            assert part.told is not None
            given: list[Attention] = []

            def attend(attention: Attention) -> Tensor:
                given.append(attention)
                shape = (*attention.query.shape[:-1], attention.value.shape[-1])
                return attention.value.new_zeros(shape)

            made = call.with_input(part.rows.of(call.input()))
            inputs = call.call.named()
            if inputs.get(self._inputs[0]) is None:
                raise AttentionBackendError(
                    f"the attention to the text of layer {call.name!r} is given "
                    f"{', '.join(inputs)}; expected {self._inputs[0]} among them"
                )
            for argument in self._inputs:
                if argument in {*inputs, *call.call.parameters}:
                    made = made.with_input(part.told.argument(argument), argument)
            attend_with(attend, made.call, call.name)
            part.memory[name] = given
        found: list[Attention] = part.memory[name]
        return found


class InRows(Alteration):
    """NAG where attention has the text alone for its keys, made of it anew at each time or layer.

    The rows of the prompt run once more with the negative text, and ask what the first ask.
    """

    branch: Formulation | None = "conditional"
    adds_rows = True

    def __init__(self, strength: Strength, text: Mapping[str, Any] | None) -> None:
        self.strength, self.text = strength, text

    @override
    def run(self, call: LayerCall, part: AlteredRows) -> Any:
        added = part.added
        assert added is not None
        tied = added.put(call.input(), part.rows.of(call.input()))

        def attend(attention: Attention) -> Tensor:
            output = attention()
            _check_heads(output, call.name)
            guided = self.strength(part.rows.of(output), added.of(output))
            return part.rows.put(output, guided)

        return attend_with(attend, call.with_input(tied).call, call.name)


class BesideText(InRows):
    """NAG where the tokens of image and text attend together.

    The rows of the prompt run once more with the negative text. What is not of the text is the same
    in both, so only the streams of the text differ, and attention is asked by the same queries.
    """

    def __init__(
        self, strength: Strength, text: Mapping[str, Any] | None, layers: frozenset[str]
    ) -> None:
        super().__init__(strength, text)
        self._layers = layers

    @override
    def run(self, call: LayerCall, part: AlteredRows) -> Any:
        assert part.added is not None
        pairs = list(zip(_numbers(part.rows), _numbers(part.added), strict=True))
        tokens: Tensor = call.input()
        starts, length = call.site.beside_text(call.name, max(tokens.shape[1], 0))
        modulates = call.site.modulates(call.name)
        if not modulates:
            alone = tokens.shape[1] == length
            tied = _tied(tokens, pairs, (0,) * len(starts) if alone else starts, length)
            # What keys are made of may be told apart from what queries are.
            again = [name for name, value in call.call.named().items() if value is tokens]
            for name in again:
                call = call.with_input(tied, name)
        if not modulates and call.name not in self._layers:
            return call()

        def attend(attention: Attention) -> Tensor:
            if attention.queries == length and attention.has_a_key_for_each_query:
                return attention()  # The text is not among the tokens.
            if modulates:
                found, _ = call.site.beside_text(call.name, attention.queries)
                query, key, value = (
                    _tied(part.transpose(1, 2), pairs, found, length).transpose(1, 2)
                    for part in attention[:3]
                )
                attention = attention._replace(query=query, key=key, value=value)
            output = attention()
            if call.name not in self._layers:
                return output
            _check_heads(output, call.name)
            starts = (0,) * len(output)
            if attention.queries > length:
                starts, _ = call.site.beside_text(call.name, attention.queries)
            changed = output.clone()
            for row, added in pairs:
                first, second = starts[row], starts[added]
                plus = output[row : row + 1, :, first : first + length]
                minus = output[added : added + 1, :, second : second + length]
                changed[row : row + 1, :, first : first + length] = self.strength(plus, minus)
            return changed

        return attend_with(attend, call.call, call.name)


def _tied(
    tokens: Tensor, pairs: Sequence[tuple[int, int]], starts: Sequence[int], length: int
) -> Tensor:
    """Tokens `(B, T, *)` in which added rows have those of the image from the rows they repeat.

    Args:
        tokens: The tokens.
        pairs: Rows, each with the one that was added for it.
        starts: Where the tokens of the image begin, in each row.
        length: How many these are.
    """
    tied = tokens.clone()
    for row, added in pairs:
        first, second = starts[row], starts[added]
        tied[added, second : second + length] = tokens[row, first : first + length]
    return tied


def _numbers(rows: Rows) -> range:
    return range(rows.start, rows.stop)


def _check_heads(output: Tensor, layer: str) -> None:
    if output.ndim != 4:
        raise AttentionBackendError(
            f"layer {layer!r} attends in slices of heads, of which no norm over all can be taken; "
            "expected attention that is not sliced"
        )
