r"""Token perturbation guidance (TPG).

References:
    | Token Perturbation Guidance for Diffusion Models (Rajabi et al., NeurIPS 2025)
    | https://arxiv.org/abs/2506.10036
"""

from __future__ import annotations

__all__ = ["ShuffleTokens", "TokenPerturbationGuidance"]

import zlib
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ..denoisers.attention_layer import LayerError
from ..denoisers.image_tokens import rows_in_order
from ..families.layer_selection import LayerSelection
from ..guidance.guidance import SECOND_PASS, About
from ..guidance.negative_guidance import LayerGuidance
from ..guidance.perturbation import BlockPerturbation, LayerCall
from ..settings.checks import check_count
from ..settings.conversion import set_field


@dataclass(frozen=True)
class ShuffleTokens(BlockPerturbation):
    """The image's tokens enter the transformer blocks of the chosen layers in another order.

    Every layer and step has its own permutation, which the seed decides: the random numbers of the
    run are not touched.

    Args:
        seed: Of the permutations.
    """

    seed: int

    def permutation(self, name: str, index: int, count: int) -> Tensor:
        """The order of `count` tokens in a layer at the step `index`, on the CPU."""
        text = f"{self.seed} {name} {index}"
        generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
        return torch.randperm(count, generator=generator)

    @override
    def run(self, call: LayerCall) -> Any:
        given: Tensor = call.input()
        if given.ndim < 3:
            raise LayerError(
                f"the block of {call.name} gets tokens of shape {tuple(given.shape)}, with no axis "
                "for rows, so they can't be shuffled; expected another guidance than TPG"
            )
        # Some blocks get their tokens as a feature map, `(B, C, H, W)`.
        tokens = given.flatten(2).mT if given.ndim == 4 else given
        parts = []
        for rows, image in call.image_tokens(call.name, tokens.shape[1]).by_start(len(tokens)):
            order = self.permutation(call.name, call.position().index, image.count)
            shuffled = tokens[rows]
            shuffled[:, image.slice] = shuffled[:, image.slice][:, order.to(tokens.device)]
            parts.append((rows, shuffled))
        entering = rows_in_order(parts)
        if given.ndim == 4:
            entering = entering.mT.reshape(given.shape)
        return call.with_input(entering)()


@dataclass(frozen=True)
class TokenPerturbationGuidance(LayerGuidance):
    r"""Guidance away from a prediction with shuffled tokens (TPG).

    Shuffling keeps the norm of every token, and all that does not depend on where a token is.

    Args:
        scale: $\gamma \ge -1$; 3 in the released code.
        layers: The layers whose blocks get shuffled tokens. The released code, for SDXL, shuffles
            in the inner part of the path down, `"d6-d23"`.
        steps: The guided steps.
        formulation: `"conditional"` or `"unconditional"`.
        seed: Of the permutations.

    Raises:
        ValueError: If a value is outside its set.

    Example:
        >>> with TokenPerturbationGuidance(scale=3.0, layers="down").attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=5.0).images[0]
    """

    method: ClassVar[str] = "tpg"
    about: ClassVar[About] = About(
        "Token perturbation guidance",
        "tokens enter the blocks in a random order",
        SECOND_PASS,
        "Rajabi et al. 2025, arXiv 2506.10036",
        "random: another seed gives another picture",
    )

    needs_softmax: ClassVar[bool] = False

    seed: int = 0
    _: KW_ONLY
    layers: LayerSelection = "down"

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "seed", check_count("seed", self.seed, 0))

    @property
    @override
    def perturbation(self) -> ShuffleTokens:
        """Shuffled tokens."""
        return ShuffleTokens(self.seed)

    @property
    @override
    def is_uniform(self) -> bool:
        """Every step has its own permutations."""
        return False
