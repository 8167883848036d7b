"""A last chance for a denoiser of no family: what a few calls of it show of its self-attention.

It is called once as it is, and once for each of a few places of the latents, where they are marked.
The queries that answer most to a mark, and the keys, tell where in a sequence that place is. From
the corners follows the grid, and all else must be where it says. Convolutions spread a mark: there
a grid of all tokens counts, if it is the only one in which all answers are next to their places. A
layer that does not answer so is left out, since nobody knows how its tokens lie.
"""

from __future__ import annotations

__all__ = ["FoundDenoiser", "look"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import PARTS, LayerError, SelfAttentionLayer
from ..denoisers.image_tokens import GridError, ImageTokens
from ..denoisers.latent_layout import ChannelsFirst, LatentLayout
from ..intercept.attention import Attention, seeing
from ..intercept.module_call import ModuleCall
from ..intercept.patching import Routers, holding, patched
from .answering_tokens import Answer, Place, TokenGrid, grid_of_answers, marked_places
from .base import Arguments
from .unknown import UnknownDenoiser

_LOOK = Routers("smoothed_energy_look")
# A few numbers of a token are enough to see whether it changed.
_SKETCH = 16
# So many standard deviations of the latents a mark is high.
_MARK = 8.0


class FoundDenoiser(UnknownDenoiser):
    """A denoiser of no family, with the layers that `look` found.

    Args:
        denoiser: The denoiser, not compiled.
        layers: Its layers.
        places: How the tokens of each lie.
        keeping: The modules that return one tensor, of the shape of their first input.
        left_out: Why other attention is none of its layers, by the names of modules.
    """

    name: ClassVar[str] = "found by looking"
    is_unknown: ClassVar[bool] = False

    def __init__(
        self,
        denoiser: nn.Module,
        layers: Sequence[SelfAttentionLayer],
        places: Mapping[str, TokenGrid],
        keeping: frozenset[str],
        left_out: Mapping[str, str],
    ) -> None:
        super().__init__(denoiser)
        self._layers, self._places, self._keeping = tuple(layers), dict(places), keeping
        self.left_out = dict(left_out)

    @override
    def layers(self, denoiser: nn.Module) -> Sequence[SelfAttentionLayer]:
        return self._layers

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        found = self._places[layer]
        grid = self._grid(found, tuple(self.latents(argument).shape[2:]))
        others = count - math.prod(grid)
        if others < 0 or (others > 0 and not found.others):
            raise GridError(
                f"{layer} attends with {count} tokens, but had {'x'.join(map(str, grid))} of the "
                f"image{' and others' if found.others else ' alone'} when it was looked at"
            )
        return ImageTokens(grid, others if found.before else 0)

    @override
    def layer_grid(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, latents: tuple[int, ...]
    ) -> tuple[int, ...]:
        return self._grid(self._places[layer.name], latents)

    def _grid(self, found: TokenGrid, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if len(sizes) != len(found.patch) or any(
            size % part for size, part in zip(sizes, found.patch, strict=True)
        ):
            raise GridError(
                f"latents of {'x'.join(map(str, sizes))} are no whole number of tokens of "
                f"{'x'.join(map(str, found.patch))}"
            )
        return tuple([size // part for size, part in zip(sizes, found.patch, strict=True)])

    @override
    def latent_layout(self, denoiser: nn.Module, argument: Arguments) -> LatentLayout:
        return ChannelsFirst()

    @override
    def multiple(self, denoiser: nn.Module) -> int:
        return math.lcm(*[side for found in self._places.values() for side in found.patch[-2:]])

    @override
    def outputs(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, module: nn.Module
    ) -> tuple[str, ...]:
        name = next(name for name, one in denoiser.named_modules() if one is module)
        if name not in self._keeping:
            raise LayerError(
                f"what {name} ({type(module).__name__}) gives is not of the shape of what it gets, "
                "so it can't be left out; expected another skip=, or another method"
            )
        return super().outputs(denoiser, layer, module)


def look(denoiser: nn.Module, call: ModuleCall) -> FoundDenoiser:
    """What calls like one call show of a denoiser of no family.

    Args:
        denoiser: The denoiser, not compiled.
        call: A call of it, whose forward function is its own.

    Raises:
        LayerError: If no layer could be found, or not how its tokens lie.
    """
    kind, family = type(denoiser).__name__, UnknownDenoiser(denoiser)
    latents = family.latents(Arguments(call.argument))
    if not isinstance(latents, Tensor) or latents.ndim not in (4, 5):
        raise LayerError(
            f"nothing can be found in a {kind} by looking, since it gets no latents (B, C, H, W) "
            f"or (B, C, F, H, W) as {family.sample}=; expected a registered family, see "
            "docs/families.md"
        )
    if denoiser.training:
        raise LayerError(f"a {kind} in training can't be looked at; expected one after eval()")
    sizes = tuple(latents.shape[2:])
    with torch.no_grad():
        clean = _Look(denoiser, call.copied(), len(latents))
        marked = {
            place: _Look(
                denoiser, family.with_latents(call.copied(), _marked(latents, place)), len(latents)
            )
            for place in marked_places(sizes)
        }
    layers: list[SelfAttentionLayer] = []
    places: dict[str, TokenGrid] = {}
    left_out = dict(clean.left_out)
    for name, (seen, shape) in clean.attentions.items():
        answers = {place: other.answer(name, seen) for place, other in marked.items()}
        found = grid_of_answers(answers, sizes, shape[-2])
        if isinstance(found, str):
            left_out[name] = found
            continue
        places[name] = found
        number = len(layers)
        layers.append(
            SelfAttentionLayer(
                name, "", "b", number, number, 0, shape[1], shape[1] * shape[3], clean.modules[name]
            )
        )
    if not layers:
        reasons = "; ".join([f"{name} {reason}" for name, reason in left_out.items()])
        raise LayerError(
            f"no self-attention of a {kind} could be found by looking: "
            f"{reasons or 'nothing calls torch.nn.functional.scaled_dot_product_attention'}; "
            "expected a registered family, see docs/families.md"
        )
    named = [
        replace(layer, part=PARTS[number * len(PARTS) // len(layers)])
        for number, layer in enumerate(layers)
    ]
    return FoundDenoiser(denoiser, named, places, frozenset(clean.keeping), left_out)


class _Look:
    """One call of a denoiser, and what was seen of its attention.

    Args:
        denoiser: The denoiser.
        call: The call.
        batch: The number of rows.

    Attributes:
        modules: The modules by name.
        attentions: For each that may be a layer, in the order in which they ran, sketches of its
            queries and keys, `(B, T, n)`, and the shape of its queries.
        keeping: The modules that return one tensor of the shape of their first input.
        left_out: Why others can't be layers.
    """

    def __init__(self, denoiser: nn.Module, call: ModuleCall, batch: int) -> None:
        names = {module: name for name, module in denoiser.named_modules() if name}
        self.modules = {name: module for module, name in names.items()}
        self.attentions: dict[str, tuple[tuple[Tensor, Tensor], torch.Size]] = {}
        self.keeping: set[str] = set()
        self.left_out: dict[str, str] = {}
        self._batch = batch
        running: list[ModuleCall] = []

        def handle(inner: ModuleCall) -> Any:
            running.append(inner)
            try:
                output = inner()
            finally:
                running.pop()
            given = inner.argument(inner.parameters[0]) if inner.parameters else None
            same = isinstance(output, Tensor) and isinstance(given, Tensor)
            if same and cast(Tensor, output).shape == cast(Tensor, given).shape:
                self.keeping.add(names[inner.module])
            return output

        def see(attention: Attention) -> None:
            if not running:
                return  # in the denoiser's own forward function, where nothing can be patched
            name = names[running[-1].module]
            reason = self._why_no_layer(name, running[-1], attention)
            if reason:
                self.left_out[name] = reason
                self.attentions.pop(name, None)
            elif name not in self.left_out:
                sketches = (_sketch(attention.query), _sketch(attention.key))
                self.attentions[name] = sketches, attention.query.shape

        with patched(names, _LOOK), holding(_LOOK.current, handle), seeing(see):
            call()

    def _why_no_layer(self, name: str, call: ModuleCall, attention: Attention) -> str:
        if name in self.attentions:
            return "attends several times"
        if not attention.has_a_key_for_each_query:
            return "has other keys than its queries"
        if attention.query.ndim != 4 or len(attention.query) != self._batch:
            return "attends in rows that are not those of the batch"
        tokens = call.argument(call.parameters[0]) if call.parameters else None
        counts = (
            (tokens.shape[1], tokens.shape[2:].numel()) if isinstance(tokens, Tensor) else (0, 0)
        )
        is_map = isinstance(tokens, Tensor) and tokens.ndim == 4
        if not isinstance(tokens, Tensor) or attention.queries < counts[is_map]:
            return "does not get its tokens as its first input"
        if not is_map and tokens.ndim != 3:
            return "does not get its tokens as its first input"
        return ""

    def answer(self, name: str, clean: tuple[Tensor, Tensor]) -> Answer | None:
        """What of a layer's tokens changed; None if nothing can be said of it."""
        if name not in self.attentions:
            return None
        most: set[int] = set()
        shares = []
        for before, after in zip(clean, self.attentions[name][0], strict=True):
            if before.shape != after.shape:
                return None
            change = (after - before).square().sum(dim=-1)
            total = change.sum(dim=-1, keepdim=True)
            if not bool((total > 0).all()):
                return None
            most.update(change.argmax(dim=-1).tolist())
            shares.append((change / total).mean(dim=0))
        return Answer(frozenset(most), (shares[0] + shares[1]).cpu() / 2)


def _sketch(heads: Tensor) -> Tensor:
    """A few numbers of every token, `(B, T, n)`, of queries or keys `(B, heads, T, d)`."""
    tokens = heads.float().transpose(1, 2).flatten(2)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(tokens.shape[-1], _SKETCH, generator=generator)
    return tokens @ directions.to(tokens.device)


def _marked(latents: Tensor, place: Place) -> Tensor:
    """Latents that are far from what they were in one place."""
    channels = latents.shape[1]
    signs = torch.randn(channels, generator=torch.Generator().manual_seed(1)).sign()
    marked = latents.clone()
    height = _MARK * (latents.float().std() + 1e-3)
    inside = marked[:, :, place[0]]
    for at in place[1:]:
        inside = inside[:, :, at]
    inside += (height * signs.to(latents.device)).to(latents.dtype)
    return marked
