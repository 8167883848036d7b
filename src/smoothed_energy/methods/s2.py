r"""Stochastic self-guidance (S2-Guidance): away from what a random part of the denoiser predicts.

References:
    | S2-Guidance: Stochastic Self Guidance for Training-Free Enhancement of Diffusion Models
    | (Chen et al. 2025), https://arxiv.org/abs/2508.12880
"""

from __future__ import annotations

__all__ = ["SkipAtRandom", "StochasticSelfGuidance"]

import zlib
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar

import torch
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..families.layer_selection import LayerSelection
from ..guidance.guidance import SECOND_PASS, About
from ..guidance.negative_guidance import LayerGuidance
from ..guidance.perturbation import BlockPerturbation, LayerCall, Perturbation
from ..settings.checks import check_count, check_unit
from ..settings.conversion import set_field


@dataclass(frozen=True)
class SkipAtRandom(BlockPerturbation):
    """Some transformer blocks return their input: at every step others, which the seed decides.

    The random numbers of the run are not touched.

    Args:
        share: How many of the blocks are skipped, at least one.
        seed: Of the choices.
        blocks: The names of all blocks that may be, once the layers are known.
    """

    share: float
    seed: int
    blocks: tuple[str, ...] = ()

    @override
    def on(self, layers: Sequence[SelfAttentionLayer]) -> Perturbation:
        names = dict.fromkeys([_block_of(layer.name) for layer in layers])
        return replace(self, blocks=tuple(names))

    def skipped(self, index: int) -> frozenset[str]:
        """The names of the blocks that are skipped at the step `index`."""
        count = max(1, round(self.share * len(self.blocks)))
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {index}".encode()))
        order = torch.randperm(len(self.blocks), generator=generator).tolist()
        return frozenset([self.blocks[number] for number in order[:count]])

    @override
    def run(self, call: LayerCall) -> Any:
        if _block_of(call.name) in self.skipped(call.position().index):
            return call.untouched()
        return call()


def _block_of(layer: str) -> str:
    return layer.rpartition(".")[0]


@dataclass(frozen=True)
class StochasticSelfGuidance(LayerGuidance):
    r"""Guidance away from a prediction in which random transformer blocks are skipped.

    At every step it is other blocks, so that no layers have to be found that suit the model. The
    same seed and step skip the same ones.

    Args:
        scale: $\gamma \ge -1$; 0.25 is small, since blocks that matter may be among those skipped.
        layers: The layers whose blocks may be skipped.
        steps: The guided steps.
        formulation: `"conditional"` or `"unconditional"`.
        share: How many of these blocks are skipped, in $[0, 1]$; at least one is.
        seed: Of the choices.

    Raises:
        ValueError: If a value is outside its set.

    Example:
        >>> with StochasticSelfGuidance(scale=0.25).attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=5.0).images[0]
    """

    method: ClassVar[str] = "s2"
    about: ClassVar[About] = About(
        "Stochastic self-guidance",
        "random transformer blocks are skipped, others at every step",
        SECOND_PASS,
        "after Chen et al. 2025, arXiv 2508.12880",
        "random: another seed gives another picture; made for transformers",
    )

    needs_softmax: ClassVar[bool] = False

    share: float = 0.1
    seed: int = 0
    _: KW_ONLY
    scale: float = 0.25
    layers: LayerSelection = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "share", check_unit("share", self.share))
        set_field(self, "seed", check_count("seed", self.seed, 0))

    @property
    @override
    def perturbation(self) -> SkipAtRandom:
        """Blocks skipped at random."""
        return SkipAtRandom(self.share, self.seed)

    @property
    @override
    def is_uniform(self) -> bool:
        """Every step skips other blocks."""
        return False
