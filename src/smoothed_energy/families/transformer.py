"""The base class of families of transformers: stacks of blocks over patches of the latents."""

from __future__ import annotations

__all__ = [
    "FramesFirstTransformer",
    "Transformer",
    "block_of",
    "heads_and_width",
    "stacked_layers",
    "submodule",
]

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import nn
from typing_extensions import override

from ..denoisers.attention_layer import PARTS, LayerError, SelfAttentionLayer
from ..denoisers.image_tokens import GridError, ImageTokens, unknown_grid
from ..denoisers.latent_layout import FramesFirst, LatentLayout, Packed
from .base import Arguments, Family


class Transformer(Family):
    """A denoiser that is stacks of transformer blocks.

    It has no path down and up: ``"down"``, ``"mid"`` and ``"up"`` are the first, the middle and the
    last third of its blocks.

    Attributes:
        stacks: A letter for each list of blocks, as a path from the denoiser, in the order in
            which they run.
        attention: The self-attention modules of a block, as paths from it (`"attn"`,
            `"block.attn1"`); blocks need not have all.
        text: Where attention has the text's tokens beside the image's; None if it has none.
        cross: The attention of a block to the text alone, as a path from it; None: it is not known.
        packed: Whether latents come as tokens, `(B, T, C)`, those of the grid first.
        returns: For each stack, the inputs that a block returns, in this order.
    """

    stacks: ClassVar[Mapping[str, str]] = {"b": "transformer_blocks"}
    attention: ClassVar[tuple[str, ...]] = ("attn",)
    text: ClassVar[Literal["before", "after"] | None] = None
    cross: ClassVar[str | None] = None
    packed: ClassVar[bool] = False
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def patch(self, denoiser: nn.Module) -> tuple[int, ...]:
        """The size of a token in latents, `(H, W)` or `(F, H, W)`; by default as configured."""
        config: Any = denoiser.config
        if isinstance(config.patch_size, (list, tuple)):
            return tuple(config.patch_size)
        sides = (config.patch_size, config.patch_size)
        return (config.patch_size_t or 1, *sides) if hasattr(config, "patch_size_t") else sides

    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        """The grid of the image's tokens in a call; by default, all patches of the latents."""
        patch = self.patch(denoiser)
        shape = self.latents(argument).shape[-len(patch) :]
        return tuple(size // part for size, part in zip(shape, patch, strict=True))

    @override
    def latent_layout(self, denoiser: nn.Module, argument: Arguments) -> LatentLayout:
        if not self.packed:
            return super().latent_layout(denoiser, argument)
        return Packed(argument.once(self.grid, denoiser), self.patch(denoiser))

    def length(self, denoiser: nn.Module, argument: Arguments) -> int:
        """The number of tokens made of the latents; those after the image's are of other images."""
        latents = self.latents(argument)
        if latents.ndim == 3:  # `(B, T, C)`, tokens already
            return int(latents.shape[1])
        return math.prod(argument.once(self.grid, denoiser))

    @override
    def layers(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        blocks = [
            (letter, number, f"{name}.{number}", block)
            for letter, name in self.stacks.items()
            for number, block in enumerate(_stack(denoiser, name))
        ]
        measure = functools.partial(heads_and_width, denoiser)
        return stacked_layers(blocks, lambda letter: self.attention, measure)

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        grid = argument.once(self.grid, denoiser)
        length = self.length(denoiser, argument)
        text = count - length
        if text < 0 or (text > 0 and self.text is None):
            size = "x".join(map(str, grid))
            kind = type(denoiser).__name__
            made = f"a {kind} makes {length} of these latents, on a grid of {size}"
            if self.text is None and text < 0:
                return unknown_grid(layer, count, made)
            raise GridError(
                f"{layer} attends with {count} tokens, but {made}; which are the image's is not "
                "known; expected a denoiser whose tokens nothing merges, drops or adds to, or "
                "other layers"
            )
        return ImageTokens(grid, text if self.text == "before" else 0)

    @override
    def cross_attention(self, denoiser: nn.Module, layer: SelfAttentionLayer) -> nn.Module | None:
        if self.cross is None:
            return None
        return submodule(denoiser.get_submodule(block_of(layer.name)), self.cross)

    @override
    def attends_beside_text(self, denoiser: nn.Module) -> bool:
        return self.text is not None

    @override
    def beside_text(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> tuple[int | tuple[int, ...], int]:
        """Those made of the latents, with pictures that follow the image."""
        start = self.tokens(denoiser, argument, layer, count).start
        return start, self.length(denoiser, argument)

    @override
    def layer_grid(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, latents: tuple[int, ...]
    ) -> tuple[int, ...]:
        patch = self.patch(denoiser)
        if len(latents) < len(patch):
            latents = (*[1] * (len(patch) - len(latents)), *latents)
        latents = latents[-len(patch) :]
        if any(size % part or size < 1 for size, part in zip(latents, patch, strict=True)):
            raise GridError(
                f"latents of {'x'.join(map(str, latents))} are no whole number of patches of "
                f"{'x'.join(map(str, patch))}"
            )
        return tuple(size // part for size, part in zip(latents, patch, strict=True))

    @override
    def multiple(self, denoiser: nn.Module) -> int:
        return math.lcm(*self.patch(denoiser)[-2:])

    @override
    def outputs(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, module: nn.Module
    ) -> tuple[str, ...]:
        if module is denoiser.get_submodule(self.block(layer.name)):
            return self.returns.get(layer.letter, ("hidden_states",))
        if module is layer.module and self.text is not None:
            return ("hidden_states", "encoder_hidden_states")
        return super().outputs(denoiser, layer, module)


class FramesFirstTransformer(Transformer):
    """A stack of blocks over videos whose latents are `(B, F, C, H, W)`."""

    @override
    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        _, frames, _, height, width = argument(self.sample).shape
        sizes = zip((frames, height, width), self.patch(denoiser), strict=True)
        return tuple(size // part for size, part in sizes)

    @override
    def latent_layout(self, denoiser: nn.Module, argument: Arguments) -> LatentLayout:
        return FramesFirst()


def block_of(layer: str) -> str:
    """The name of the block that a layer is in, by its name: stacks are lists of blocks."""
    return ".".join(layer.split(".")[:2])


def _stack(denoiser: nn.Module, path: str) -> Iterable[nn.Module]:
    """The blocks of a stack; none if there is no such stack."""
    found: Any = submodule(denoiser, path)
    return () if found is None else found


def stacked_layers(
    blocks: Sequence[tuple[str, int, str, nn.Module]],
    attention: Callable[[str], Sequence[str]],
    measure: Callable[[nn.Module, str], tuple[int, int]],
) -> tuple[SelfAttentionLayer, ...]:
    """The self-attention layers of blocks, in the order in which they run.

    Args:
        blocks: For each block the letter of its stack, its number there, its name, and itself.
        attention: The paths of attention modules in blocks of a stack, which need not be there; an
            empty one is the block itself.
        measure: The number of heads and the channels of queries of a module with a name.
    """
    found: list[SelfAttentionLayer] = []
    for place, (letter, number, name, block) in enumerate(blocks):
        position = 0
        for path in attention(letter):
            module = submodule(block, path) if path else block
            if module is None:
                continue
            full = f"{name}.{path or 'attention'}"
            heads, width = measure(module, full)
            found.append(
                SelfAttentionLayer(
                    name=full,
                    part=PARTS[place * len(PARTS) // len(blocks)],
                    letter=letter,
                    index=sum(layer.letter == letter for layer in found),
                    block=number,
                    position=position,
                    heads=heads,
                    width=width,
                    module=module,
                )
            )
            position += 1
    return tuple(found)


def submodule(module: nn.Module, path: str) -> nn.Module | None:
    """What lies inside of a module at a path such as `"block.attn1"`; None if nothing does."""
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, nn.Module) else None


def heads_and_width(denoiser: nn.Module, module: nn.Module, name: str) -> tuple[int, int]:
    """The number of heads of an attention module, and of channels of its queries.

    Args:
        denoiser: The denoiser, whose configuration is asked for what the module doesn't tell.
        module: The attention module.
        name: Its name, for the message.

    Raises:
        LayerError: If neither tells one of them.
    """
    heads = next(_told(denoiser, module, _HEADS), None)
    width = _width_of_queries(module)
    if width is None and heads is not None:
        size = next(_told(denoiser, module, _HEAD_SIZES), None)
        width = None if size is None else heads * size
    if heads is None or width is None:
        what = "number of heads" if heads is None else "number of channels"
        raise LayerError(
            f"the {what} of {name} ({type(module).__name__}) is not known; expected one of "
            f"{', '.join((*_QUERIES, *_FUSED) if heads else _HEADS)}"
        )
    return heads, width


_HEADS = ("heads", "num_heads", "n_heads", "num_attention_heads")
_HEAD_SIZES = ("head_dim", "attention_head_dim", "dim_head")
_QUERIES = ("to_q", "to_query", "q_proj")
_FUSED = ("to_qkv", "qkv_proj", "qkv")


def _told(denoiser: nn.Module, module: nn.Module, names: tuple[str, ...]) -> Iterator[int]:
    """The whole numbers of these names: those of a module, then those of the configuration."""
    for owner in (module, getattr(denoiser, "config", None)):
        for name in names:
            value = getattr(owner, name, None)
            if isinstance(value, int):
                yield value


def _width_of_queries(module: nn.Module) -> int | None:
    """How many channels the queries of an attention module have; None if it does not tell."""
    for name in _QUERIES:
        width = getattr(getattr(module, name, None), "out_features", None)
        if isinstance(width, int):
            return width
    # Queries, keys and values of one projection may differ in width, and more may be in it.
    width = getattr(module, "inner_dim", None)
    if isinstance(width, int):
        return width
    for name in _FUSED:
        width = getattr(getattr(module, name, None), "out_features", None)
        if isinstance(width, int):
            return width // 3
    return None
