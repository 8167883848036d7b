"""The families of Wuerstchen and Stable Cascade: pictures of few tokens, in stages."""

from __future__ import annotations

__all__ = ["StableCascade", "Wuerstchen", "WuerstchenPrior"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import PARTS, SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import GridError, ImageTokens, unknown_grid
from ..intercept.module_call import unwrap
from .base import Arguments, Family, Setting, Step

_LETTERS = {"down_blocks": "d", "up_blocks": "u", "blocks": "b"}


class StableCascade(Family):
    """Attention of feature maps, whose keys are the places of the map and the text's tokens.

    The parts ``"down"`` and ``"up"`` are the paths to and from the coarsest level, which is
    ``"mid"``: its layers have both letters. Prior and decoder are of one kind.
    """

    name: ClassVar[str] = "Stable Cascade"
    denoisers: ClassVar[tuple[str, ...]] = ("StableCascadeUNet",)
    sample: ClassVar[str] = "sample"
    time: ClassVar[str] = "timestep_ratio"
    tied_to_size: ClassVar[tuple[str, ...]] = ("effnet", "pixels")

    @override
    def layers(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        found: list[SelfAttentionLayer] = []
        stacks = dict(denoiser.named_children())
        for stack, letter in _LETTERS.items():
            for name, block in stacks.get(stack, nn.Module()).named_modules():
                attention: Any = getattr(unwrap(block), "attention", None)
                if attention is None or not getattr(unwrap(block), "self_attn", False):
                    continue
                before = [layer for layer in found if layer.letter == letter]
                found.append(
                    SelfAttentionLayer(
                        name=f"{stack}.{name}.attention",
                        part="",
                        letter=letter,
                        index=len(before),
                        block=len(before),
                        position=0,
                        heads=attention.heads,
                        width=attention.inner_dim,
                        module=attention,
                    )
                )
        coarsest = max([_level(denoiser, layer.name) for layer in found], default=0)
        return tuple(
            replace(layer, part=self._part(denoiser, layer, place / len(found), coarsest))
            for place, layer in enumerate(found)
        )

    def _part(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, place: float, coarsest: int
    ) -> str:
        """The part of a layer; `place` is how far it is in the denoiser, from 0 to 1."""
        if _level(denoiser, layer.name) == coarsest:
            return "mid"
        return "down" if layer.letter == "d" else "up"

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
            size = _grid(denoiser, layer, argument(self.sample).shape)
        if math.prod(size) != count:
            return unknown_grid(layer, count, "its feature map is {}x{}".format(*size))
        return ImageTokens(size)

    @override
    def layer_grid(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, latents: tuple[int, ...]
    ) -> tuple[int, ...]:
        return _grid(denoiser, layer.name, latents)

    @override
    def multiple(self, denoiser: nn.Module) -> int:
        config: Any = denoiser.config
        levels = len(getattr(denoiser, "down_blocks", (None,)))
        return int(config.get("patch_size", 1)) * 2 ** (levels - 1)

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """The pipelines stack `[c, u]`."""
        layout = super().layout(denoiser, setting, step)
        return layout if layout.groups == 1 else replace(layout, conditional=0, unconditional=1)

    @override
    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        """Schedulers of other kinds have timesteps that the denoiser is told as ratios."""
        if not hasattr(scheduler, "betas"):
            return value
        given = float(torch.as_tensor(value).flatten()[0])
        times = torch.as_tensor(scheduler.timesteps)
        alphas = torch.cumprod(1.0 - scheduler.betas, 0)[times.long().cpu()].clamp(0, 1)
        # The time at which a cosine schedule has as much noise.
        start = math.cos(0.008 / 1.008 * math.pi / 2)
        ratios = (alphas.sqrt() * start).acos() / (math.pi / 2) * 1.008 - 0.008
        found: Tensor = times[(ratios - given).abs().argmin()]
        return found


class Wuerstchen(StableCascade):
    """The decoder, as Stable Cascade's."""

    name: ClassVar[str] = "Wuerstchen"
    denoisers: ClassVar[tuple[str, ...]] = ("WuerstchenDiffNeXt",)
    sample: ClassVar[str] = "x"
    time: ClassVar[str] = "r"


class WuerstchenPrior(Wuerstchen):
    """The prior has one stack at one level, whose parts are thirds."""

    name: ClassVar[str] = "Wuerstchen, prior"
    denoisers: ClassVar[tuple[str, ...]] = ("WuerstchenPrior",)

    @override
    def _part(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, place: float, coarsest: int
    ) -> str:
        return PARTS[int(place * len(PARTS))]


def _level(denoiser: nn.Module, layer: str) -> int:
    """How often the map of a layer was made coarser."""
    stack, number, *_ = layer.split(".")
    if stack == "blocks":
        return 0
    levels = len(getattr(denoiser, stack))
    return int(number) if stack == "down_blocks" else levels - 1 - int(number)


def _grid(denoiser: nn.Module, layer: str, shape: Sequence[int]) -> tuple[int, int]:
    """The height and width of the map of a layer, for latents of a shape that ends in theirs.

    Raises:
        GridError: If there are no such latents.
    """
    config: Mapping[str, Any] = denoiser.config  # type: ignore[assignment]
    patch = config.get("patch_size", 1)
    if any(size % patch or size < 1 for size in shape[-2:]):
        raise GridError(f"latents of {tuple(shape[-2:])} are no whole number of patches of {patch}")
    height, width = (int(size) // patch for size in shape[-2:])
    switched = config.get("switch_level")
    for level in range(_level(denoiser, layer)):
        if switched is None or switched[level]:
            height, width = height // 2, width // 2
    return height, width
