"""The probe of a trace: the metrics of a layer, measured where it runs."""

from __future__ import annotations

__all__ = ["LayerProbe"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ..denoisers.image_tokens import ImageTokens, rows_in_order
from ..guidance.attention_perturbation import (
    AttentionCall,
    AttentionPerturbation,
    by_place,
    of_image,
)
from ..guidance.perturbation import LayerCall, Probe
from ..intercept.attention import Attention, AttentionBackendError, LayerAttention, watch_attention
from .metric import AttentionMetric, MapMetric


class LayerProbe(Probe):
    """Measures the hidden states that an attention module returns, and its attention.

    The hidden states are those after attention: after the output projection, and after the residual
    connection and the division by the module's `rescale_output_factor` in modules that have them.
    Of text and image together, only the image's tokens are measured.

    Args:
        maps: What is measured of the hidden states.
        attention: What is measured of the attention.
        perturbations: By layer, the perturbations of its attention that follow, by the names of
            their guidances.

    Attributes:
        columns: By layer, the names of what was kept of it, in order.
    """

    def __init__(
        self,
        maps: Sequence[MapMetric],
        attention: Sequence[AttentionMetric],
        perturbations: Mapping[str, Mapping[str, AttentionPerturbation]],
    ) -> None:
        self._maps, self._attention, self._perturbations = maps, attention, perturbations
        self.columns: dict[str, list[str]] = {}

    @override
    def run(self, call: LayerCall) -> tuple[Any, Tensor]:
        found: dict[str, Tensor] = {}

        own = LayerAttention(call.call, call.name, own_keys=False)

        @torch.no_grad()
        def see(attention: Attention) -> None:
            if own.takes(attention) and not found:
                found.update(self._of_attention(call, attention))

        output = watch_attention(see, call.call, call.name) if self._attention else call()
        if self._attention:
            own.check_at_once()
        if self._maps:
            with torch.no_grad():
                found.update(self._of_maps(call, output))
        self.columns[call.name] = list(found)
        return output, torch.stack(list(found.values()), dim=1)

    def _of_maps(self, call: LayerCall, output: Any) -> dict[str, Tensor]:
        hidden = _image_stream(call, output)
        if hidden.ndim == 4:  # Attention of U-Nets without text keeps (B, C, H, W).
            return self._measured(hidden)
        if hidden.ndim == 2:
            raise AttentionBackendError(
                f"layer {call.name!r} gives tokens of one sample, without an axis for rows, and "
                "can't be measured; expected no layers (layers=())"
            )
        image = call.image_tokens(call.name, hidden.shape[1])
        if isinstance(image.start, int):
            return self._measured(_maps(hidden, image))
        parts = []
        for rows, found in image.by_start(len(hidden)):
            samples = rows[:: math.prod(found.grids[1])]
            parts.append((samples, self._measured(_maps(hidden[rows], found))))
        return _together(parts)

    def _measured(self, maps: Tensor) -> dict[str, Tensor]:
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        return {metric.name: metric.measure(maps) for metric in self._maps}

    def _of_attention(self, call: LayerCall, attention: Attention) -> dict[str, Tensor]:
        whole = attention._replace(native=_no_attention)
        perturbations = self._perturbations.get(call.name, {})
        parts = []
        for rows, of_rows, image in by_place(whole, call.site, call.name):
            clean = of_image(of_rows, image, call.position)
            entering = {
                name: _entering(perturbation, clean) for name, perturbation in perturbations.items()
            }
            perturbed = {name: item for name, item in entering.items() if item is not None}
            columns: dict[str, Tensor] = {}
            for metric in self._attention:
                columns.update(metric.measure(clean, perturbed))
            sequences = math.prod(image.grids[1])
            means = {
                name: column.reshape(-1, sequences).mean(dim=1) for name, column in columns.items()
            }
            parts.append((rows[::sequences], means))
        return _together(parts)


def _entering(perturbation: AttentionPerturbation, clean: AttentionCall) -> AttentionCall | None:
    """What enters the softmax in the place of a clean attention; None if nothing like it does."""
    seen: list[AttentionCall] = []

    def native(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        seen.append(replace(clean, query=query, key=key, value=value, options=options))
        return _no_attention(query, key, value)

    perturbation.attend(replace(clean, native=native))
    if len(seen) != 1 or seen[0].key.shape != clean.key.shape:
        return None
    queries = seen[0].query.shape[-2]
    return seen[0] if queries in (1, clean.query.shape[-2]) else None


def _no_attention(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """Something of the shape of attention."""
    return value.new_zeros(()).expand(*query.shape[:-1], value.shape[-1])


def _image_stream(call: LayerCall, output: Any) -> Tensor:
    """The stream of what a module returns that the image's tokens are in."""
    if isinstance(output, (tuple, list)):
        names = call.site.outputs(call.name, call.module)
        first = call.call.tokens
        output = output[names.index(first) if first in names else 0]
    assert isinstance(output, Tensor)
    return output


def _maps(hidden: Tensor, image: ImageTokens) -> Tensor:
    """The image's hidden states `(rows, T, C)` as maps `(B, C F, H, W)`."""
    tokens = image.unfold(hidden[:, None, image.slice])[:, 0]
    *frames, height, width = image.grid
    channels = tokens.shape[-1] * math.prod(frames)
    return tokens.mT.reshape(len(tokens), channels, height, width)


def _together(parts: list[tuple[list[int], dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Columns of all samples, from those of some rows each."""
    if len(parts) == 1:
        return parts[0][1]
    order = [row for rows, _ in parts for row in rows]
    ranks = sorted(order)
    places = [[ranks.index(row) for row in rows] for rows, _ in parts]
    return {
        name: rows_in_order(
            [(place, columns[name]) for place, (_, columns) in zip(places, parts, strict=True)]
        )
        for name in parts[0][1]
    }
