"""U-Nets in ComfyUI: Stable Diffusion 1 and 2, SDXL, Stable Video Diffusion and their kin."""

from __future__ import annotations

__all__ = ["ComfyUNet"]

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ...denoisers.attention_layer import SelfAttentionLayer
from ...denoisers.image_tokens import GridError, ImageTokens, tokens_of_map
from ...families import Arguments
from .family import ComfyFamily

# The lists of blocks, in the order in which they run, and the part of the U-Net that each is.
_PARTS = {"input_blocks": "down", "middle_block": "mid", "output_blocks": "up"}


class ComfyUNet(ComfyFamily):
    """A path down, a middle and a path up of convolutions and transformers.

    Layers are called as in `diffusers`: blocks there run in the same order, and have the same
    transformers. Of Stable Video Diffusion they are those within frames.
    """

    name: ClassVar[str] = "ComfyUI U-Net"
    networks: ClassVar[tuple[str, ...]] = ("UNetModel",)
    changes_text: ClassVar[tuple[str, ...]] = ("attn2_patch",)
    module_lists: ClassVar[tuple[str, ...]] = ("TimestepEmbedSequential",)

    @override
    def layers_in(self, network: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        found: list[SelfAttentionLayer] = []
        for name, part in _PARTS.items():
            inside: Any = getattr(network, name, None)
            if inside is not None:
                found.extend(_of_part(part, f"diffusion_model.{name}", inside))
        return tuple(found)

    @override
    def cross_attention(self, denoiser: nn.Module, layer: SelfAttentionLayer) -> nn.Module | None:
        path = layer.name.rpartition(".")[0]
        around: Any = denoiser.get_submodule(path.rpartition(".transformer_blocks.")[0])
        # What a video's frames attend to is a picture.
        if hasattr(around, "time_stack"):
            return None
        return getattr(denoiser.get_submodule(path), "attn2", None)

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        return tokens_of_map(layer, count, argument.features.get(layer))

    @override
    def feature_modules(
        self, denoiser: nn.Module, layers: Sequence[SelfAttentionLayer]
    ) -> dict[nn.Module, list[str]]:
        found: dict[nn.Module, list[str]] = {}
        for layer in layers:
            transformer = denoiser.get_submodule(layer.name.rpartition(".transformer_blocks.")[0])
            found.setdefault(transformer, []).append(layer.name)
        return found

    @override
    def layer_grid(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, latents: tuple[int, ...]
    ) -> tuple[int, ...]:
        raise GridError("the grids of a U-Net of ComfyUI are seen in its runs only")

    @override
    def multiple(self, denoiser: nn.Module) -> int:
        """The size is halved by every downsampling."""
        network: Any = denoiser.diffusion_model
        return int(2 ** (len(network.channel_mult) - 1))


def _of_part(part: str, prefix: str, inside: nn.Module) -> Iterator[SelfAttentionLayer]:
    """The layers of a part, counted in all of it and in their transformers."""
    index, transformers = 0, -1
    for name, module in inside.named_modules():
        blocks = getattr(module, "transformer_blocks", None)
        if not isinstance(blocks, nn.ModuleList):
            continue
        transformers += 1
        position = 0
        for number, block in enumerate(blocks):
            attention: Any = getattr(block, "attn1", None)
            if attention is None or getattr(block, "disable_self_attn", False):
                continue
            yield SelfAttentionLayer(
                name=f"{prefix}.{name}.transformer_blocks.{number}.attn1",
                part=part,
                letter=part[0],
                index=index,
                block=transformers,
                position=position,
                heads=int(attention.heads),
                width=int(attention.heads * attention.dim_head),
                module=attention,
            )
            index, position = index + 1, position + 1
