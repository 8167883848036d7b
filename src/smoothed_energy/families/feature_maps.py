"""The base class of families whose blocks attend to feature maps, level by level."""

from __future__ import annotations

__all__ = ["FeatureMaps"]

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.image_tokens import GridError, ImageTokens, tokens_of_map
from ..intercept.module_call import unwrap
from .base import Arguments, Family


class FeatureMaps(Family):
    """A denoiser whose blocks get feature maps, and have self-attention as `attention` inside.

    The parts ``"down"`` and ``"up"`` are the paths to and from the coarsest level, which is
    ``"mid"``: its layers have both letters.

    Attributes:
        stacks: A letter for each list of blocks, in the order in which they run.
    """

    stacks: ClassVar[Mapping[str, str]] = {"down_blocks": "d", "up_blocks": "u"}
    sample: ClassVar[str] = "sample"

    def attends(self, block: Any, name: str) -> bool:
        """Whether a block's `attention` is self-attention; `name` is its own in the denoiser."""
        return bool(getattr(block, "self_attn", False))

    @override
    def layers(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        found: list[SelfAttentionLayer] = []
        children = dict(denoiser.named_children())
        for stack, letter in self.stacks.items():
            for name, module in children.get(stack, nn.Module()).named_modules():
                block: Any = unwrap(module)
                attention = getattr(block, "attention", None)
                if attention is None or not self.attends(block, f"{stack}.{name}"):
                    continue
                number = sum(layer.letter == letter for layer in found)
                found.append(
                    SelfAttentionLayer(
                        name=f"{stack}.{name}.attention",
                        part="",
                        letter=letter,
                        index=number,
                        block=number,
                        position=0,
                        heads=attention.heads,
                        width=attention.inner_dim,
                        module=attention,
                    )
                )
        return self.in_parts(denoiser, found)

    def in_parts(
        self, denoiser: nn.Module, layers: Sequence[SelfAttentionLayer]
    ) -> tuple[SelfAttentionLayer, ...]:
        """The same layers with their parts."""
        levels = [self.level(denoiser, layer.name) for layer in layers]
        ways = {"d": "down", "u": "up"}
        return tuple(
            replace(layer, part="mid" if level == max(levels) else ways[layer.letter])
            for layer, level in zip(layers, levels, strict=True)
        )

    def level(self, denoiser: nn.Module, layer: str) -> int:
        """How often the map of a layer was made coarser."""
        stack, number, *_ = layer.split(".")
        levels = len(denoiser.get_submodule(stack)._modules)
        return int(number) if stack == "down_blocks" else levels - 1 - int(number)

    @override
    def feature_modules(
        self, denoiser: nn.Module, layers: Sequence[SelfAttentionLayer]
    ) -> dict[nn.Module, list[str]]:
        """The blocks around them."""
        blocks = [denoiser.get_submodule(layer.name.rpartition(".")[0]) for layer in layers]
        return {unwrap(block): [layer.name] for block, layer in zip(blocks, layers, strict=True)}

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        size = argument.features.get(layer)
        if size is None:
            size = self._grid(denoiser, layer, argument(self.sample).shape)
        return tokens_of_map(layer, count, size)

    @override
    def layer_grid(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, latents: tuple[int, ...]
    ) -> tuple[int, ...]:
        return self._grid(denoiser, layer.name, latents)

    @override
    def multiple(self, denoiser: nn.Module) -> int:
        path = dict(denoiser.named_children()).get("down_blocks")
        return self._patch(denoiser) << (0 if path is None else len(path._modules) - 1)

    def _patch(self, denoiser: nn.Module) -> int:
        config: Any = denoiser.config
        return int(config.get("patch_size", 1))

    def _grid(self, denoiser: nn.Module, layer: str, shape: Sequence[int]) -> tuple[int, int]:
        """The height and width of the map of a layer, for latents whose shape ends in theirs.

        Raises:
            GridError: If there are no such latents.
        """
        patch = self._patch(denoiser)
        if any(size % patch or size < 1 for size in shape[-2:]):
            size = "x".join(map(str, shape[-2:]))
            raise GridError(f"latents of {size} are no whole number of patches of {patch}x{patch}")
        height, width = (int(size) // patch for size in shape[-2:])
        config: Any = denoiser.config
        switched = config.get("switch_level")
        for level in range(self.level(denoiser, layer)):
            if switched is None or switched[level]:
                height, width = height // 2, width // 2
        return height, width
