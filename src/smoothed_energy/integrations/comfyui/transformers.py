"""Diffusion transformers in ComfyUI: Flux, Chroma, Qwen-Image, Wan, Z-Image and Lumina 2."""

from __future__ import annotations

__all__ = [
    "ComfyChroma",
    "ComfyFlux",
    "ComfyNextDiT",
    "ComfyQwenImage",
    "ComfyTransformer",
    "ComfyWan",
    "patches_of",
]

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from ...denoisers.attention_layer import SelfAttentionLayer
from ...denoisers.image_tokens import GridError, ImageTokens, unknown_grid
from ...families import Arguments
from ...families.transformer import stacked_layers
from .family import ComfyFamily, network_of


class ComfyTransformer(ComfyFamily):
    """A network that is stacks of transformer blocks over patches of the latents.

    Attention has the text's tokens first, if it has any, then those of the picture or video, and
    then those of pictures that it refers to.

    Attributes:
        stacks: A letter for each list of blocks, in the order in which they run.
        attention: For each stack, the name of the self-attention in a block; empty where blocks
            attend themselves.
        returns: For each stack, the inputs that a block returns, in this order.
        has_text: Whether the text attends beside the picture.
        text_is_first: Whether it comes before the picture there, and not last.
        cross: The attention of a block to the text alone; None: it has none that is known.
    """

    stacks: ClassVar[Mapping[str, str]]
    attention: ClassVar[Mapping[str, str]]
    returns: ClassVar[Mapping[str, tuple[str, ...]]]
    has_text: ClassVar[bool] = True
    text_is_first: ClassVar[bool] = True
    cross: ClassVar[str | None] = None

    def patch(self, network: Any) -> tuple[int, ...]:
        """The size of a token in latents, along their last axes."""
        return (int(network.patch_size),) * 2

    @override
    def layers_in(self, network: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        blocks = [
            (letter, number, f"diffusion_model.{name}.{number}", block)
            for letter, name in self.stacks.items()
            for number, block in enumerate(getattr(network, name))
        ]
        return stacked_layers(
            blocks,
            lambda letter: (self.attention[letter],),
            lambda module, name: self.heads_and_width(module),
        )

    def heads_and_width(self, module: Any) -> tuple[int, int]:
        """The number of heads of what attends, and the channels of its queries."""
        return int(module.num_heads), int(module.hidden_size)

    def counts(self, denoiser: nn.Module) -> tuple[tuple[int, ...], int, int]:
        """The grid of the run of the network that lasts, and its tokens of text and references."""
        network = network_of(denoiser)
        arguments = network.inner[-1].arguments
        patch = self.patch(network.diffusion_model)
        text = int(arguments["context"].shape[1]) if self.has_text else 0
        others = arguments.get("ref_latents") or ()
        references = sum(math.prod(patches_of(one.shape, patch)) for one in others)
        return patches_of(arguments["x"].shape, patch), text, references

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        grid, text, references = self.counts(denoiser)
        own = math.prod(grid) + references
        if count == own:
            return ImageTokens(grid)
        if text and count == text + own:
            return ImageTokens(grid, text if self.text_is_first else 0)
        size = "x".join(map(str, grid))
        made = f"there are {text} of the text, {size} of the picture and {references} of others"
        if not self.has_text:
            return unknown_grid(layer, count, made)
        raise GridError(
            f"{layer} attends with {count} tokens, but {made}; which are the picture's is not "
            "known; expected a model whose tokens no other node adds to, merges or drops"
        )

    @override
    def cross_attention(self, denoiser: nn.Module, layer: SelfAttentionLayer) -> nn.Module | None:
        if self.cross is None:
            return None
        block = denoiser.get_submodule(layer.name.rpartition(".")[0])
        return getattr(block, self.cross, None)

    @override
    def modulates(self, layer: SelfAttentionLayer) -> bool:
        return not self.attention[layer.letter]

    @override
    def attends_beside_text(self, denoiser: nn.Module) -> bool:
        return self.has_text

    @override
    def beside_text(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> tuple[int | tuple[int, ...], int]:
        grid, _, references = self.counts(denoiser)
        start = self.tokens(denoiser, argument, layer, count).start
        return start, math.prod(grid) + references

    @override
    def layer_grid(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, latents: tuple[int, ...]
    ) -> tuple[int, ...]:
        return patches_of(latents, self.patch(network_of(denoiser).diffusion_model))

    @override
    def multiple(self, denoiser: nn.Module) -> int:
        return math.lcm(*self.patch(network_of(denoiser).diffusion_model)[-2:])

    @override
    def outputs(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, module: nn.Module
    ) -> tuple[str, ...]:
        if module is denoiser.get_submodule(layer.name.rpartition(".")[0]):
            return self.returns[layer.letter]
        return super().outputs(denoiser, layer, module)


class ComfyFlux(ComfyTransformer):
    """Flux: blocks of two streams, then blocks of one, which attend themselves."""

    name: ClassVar[str] = "ComfyUI Flux"
    networks: ClassVar[tuple[str, ...]] = ("Flux",)
    stacks: ClassVar[Mapping[str, str]] = {"b": "double_blocks", "s": "single_blocks"}
    attention: ClassVar[Mapping[str, str]] = {"b": "", "s": ""}
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"b": ("img", "txt"), "s": ("x",)}
    texts: ClassVar[Mapping[str, str]] = {
        "c_crossattn": "context",
        "y": "y",
        "attention_mask": "attention_mask",
    }


class ComfyChroma(ComfyFlux):
    """Chroma, whose blocks are Flux's."""

    name: ClassVar[str] = "ComfyUI Chroma"
    networks: ClassVar[tuple[str, ...]] = ("Chroma",)


class ComfyQwenImage(ComfyTransformer):
    """Qwen-Image and its models for editing."""

    name: ClassVar[str] = "ComfyUI Qwen-Image"
    networks: ClassVar[tuple[str, ...]] = ("QwenImageTransformer2DModel",)
    stacks: ClassVar[Mapping[str, str]] = {"b": "transformer_blocks"}
    attention: ClassVar[Mapping[str, str]] = {"b": "attn"}
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "b": ("encoder_hidden_states", "hidden_states")
    }
    texts: ClassVar[Mapping[str, str]] = {
        "c_crossattn": "context",
        "attention_mask": "attention_mask",
    }
    masks: ClassVar[Mapping[str, str]] = {"context": "attention_mask"}

    @override
    def heads_and_width(self, module: Any) -> tuple[int, int]:
        return int(module.heads), int(module.inner_dim)

    @override
    def outputs(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, module: nn.Module
    ) -> tuple[str, ...]:
        if module is layer.module:
            return ("hidden_states", "encoder_hidden_states")
        return super().outputs(denoiser, layer, module)


class ComfyWan(ComfyTransformer):
    """Wan 2: text to video, image to video, and VACE."""

    name: ClassVar[str] = "ComfyUI Wan"
    networks: ClassVar[tuple[str, ...]] = ("WanModel", "VaceWanModel")
    stacks: ClassVar[Mapping[str, str]] = {"b": "blocks"}
    attention: ClassVar[Mapping[str, str]] = {"b": "self_attn"}
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"b": ("x",)}
    has_text: ClassVar[bool] = False
    cross: ClassVar[str | None] = "cross_attn"

    @override
    def patch(self, network: Any) -> tuple[int, ...]:
        return tuple(network.patch_size)

    @override
    def heads_and_width(self, module: Any) -> tuple[int, int]:
        return int(module.num_heads), int(module.dim)

    @override
    def counts(self, denoiser: nn.Module) -> tuple[tuple[int, ...], int, int]:
        """Frames that are given beside the video follow it, and make its grid longer."""
        grid, text, _ = super().counts(denoiser)
        more = network_of(denoiser).inner[-1].arguments.get("time_dim_concat")
        frames = 0 if more is None else int(more.shape[2])
        return (grid[0] + frames, *grid[1:]), text, 0


class ComfyNextDiT(ComfyTransformer):
    """Z-Image and Lumina 2, in whose first blocks the picture attends to itself.

    Text and picture are each filled up to a multiple of so many tokens.
    """

    name: ClassVar[str] = "ComfyUI Z-Image"
    networks: ClassVar[tuple[str, ...]] = ("NextDiT",)
    stacks: ClassVar[Mapping[str, str]] = {"n": "noise_refiner", "b": "layers"}
    attention: ClassVar[Mapping[str, str]] = {"n": "attention", "b": "attention"}
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"n": ("x",), "b": ("x",)}

    @override
    def refuse(self, network: nn.Module) -> str:
        if hasattr(network, "pad_tokens_multiple"):
            return ""
        return "this ComfyUI lets rows have text of different lengths; expected 0.3.75 or newer"

    @override
    def filling(self, network: Any) -> tuple[nn.Module, Tensor] | None:
        if not network.pad_tokens_multiple:
            return None
        return network.cap_embedder, network.cap_pad_token[0]

    @override
    def heads_and_width(self, module: Any) -> tuple[int, int]:
        heads = int(module.n_local_heads)
        return heads, heads * int(module.head_dim)

    @override
    def counts(self, denoiser: nn.Module) -> tuple[tuple[int, ...], int, int]:
        """With what fills up the picture in the place of references, which are refused."""
        grid, text, references = super().counts(denoiser)
        if references:
            raise GridError(
                "pictures that Z-Image refers to come before its own, and where is not known here; "
                "expected a run without them"
            )
        network: Any = network_of(denoiser).diffusion_model
        multiple = network.pad_tokens_multiple or 1
        return grid, text + -text % multiple, -math.prod(grid) % multiple


def patches_of(shape: Sequence[int], patch: tuple[int, ...]) -> tuple[int, ...]:
    """The number of patches along the last axes of latents; ComfyUI fills up what is no patch."""
    sizes = shape[-len(patch) :]
    return tuple(-(-int(size) // part) for size, part in zip(sizes, patch, strict=True))
