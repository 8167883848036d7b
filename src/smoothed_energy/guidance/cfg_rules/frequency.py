r"""Frequency-decoupled guidance: CFG with a scale for each level of detail.

References:
    | Guidance in the Frequency Domain Enables High-Fidelity Sampling at Low CFG Scales
    | (Sadat et al. 2025), https://arxiv.org/abs/2506.19713
"""

from __future__ import annotations

__all__ = ["FrequencyDecoupledGuidance"]

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, cast

from torch import Tensor
from typing_extensions import override

from ...settings.checks import check_unit
from ...settings.conversion import set_field
from ..guidance import About
from ..result_guidance import ResultStep
from .laplacian import laplacian, picture_of
from .projection import split
from .rule import SumRule


@dataclass(frozen=True)
class FrequencyDecoupledGuidance(SumRule):
    r"""CFG in a Laplacian pyramid, with a scale of its own for each level.

    $$D^\star_l = u_l + g_l\,(d_\perp + \eta\,d_\parallel), \qquad d = c_l - u_l$$

    for the levels $l$ from fine to coarse, with the projection of $d$ on $c_l$. The pyramid is that
    of `guidance.cfg_rules.laplacian`; frames of a video are pictures of their own.

    Args:
        scales: $g_l$, the finest level first, as a text such as `"10:5"` or as numbers. They take
            the place of the pipeline's scale, which only turns CFG on.
        parallel: $\eta$ in $[0, 1]$, how much of the part along $c_l$ is kept; 1 is all of it.
        steps: The steps at which it acts.

    Raises:
        ValueError: If a value is outside its set; while generating, if predictions have no places,
            or too few for so many levels.

    Example:
        >>> with FrequencyDecoupledGuidance("10:5").attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=7.5).images[0]
    """

    method: ClassVar[str] = "fdg"
    about: ClassVar[About] = About(
        "Frequency-decoupled guidance",
        "nothing; CFG has a scale for each level of detail",
        "no pass beyond CFG",
        "Sadat et al. 2025, arXiv 2506.19713",
        "needs CFG; its scales take the place of the pipeline's",
    )

    scales: str | float | Sequence[float] = "10:5"
    _: KW_ONLY
    parallel: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "scales", ":".join(map(repr, _numbers(self.scales))))
        set_field(self, "parallel", check_unit("parallel", self.parallel))

    @override
    def combined(self, step: ResultStep) -> Tensor:
        c, u = step.conditional, step.unconditional
        if c.ndim not in (4, 5):
            raise ValueError(
                "fdg compares places of a prediction, (B, C, H, W) or (B, C, F, H, W), and this "
                f"one has the shape {tuple(c.shape)}; expected another rule"
            )
        scales = _numbers(self.scales)
        of_c, of_u = (laplacian(_frames(one), len(scales)) for one in (c, u))
        guided = []
        for scale, fine_c, fine_u in zip(scales, of_c, of_u, strict=True):
            update = fine_c - fine_u
            if self.parallel < 1:
                along, across = split(_videos(update, c), _videos(fine_c, c))
                update = _frames(across + self.parallel * along)
            guided.append(fine_u + scale * update)
        return _videos(picture_of(guided), c)


def _numbers(scales: object) -> tuple[float, ...]:
    """The scales of the levels.

    Raises:
        ValueError: If they are none.
    """
    parts = scales.split(":") if isinstance(scales, str) else scales
    parts = parts if isinstance(parts, (list, tuple)) else [parts]
    try:
        numbers = tuple([float(cast(float, part)) for part in parts])
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(
            f"scales={scales!r}: expected finite numbers, the finest level first, such as "
            "'10:5' or (10, 5)"
        )
    return numbers


def _frames(tensor: Tensor) -> Tensor:
    """Frames of videos as pictures."""
    return tensor if tensor.ndim == 4 else tensor.transpose(1, 2).flatten(0, 1)


def _videos(pictures: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_frames`."""
    if like.ndim == 4:
        return pictures
    frames = pictures.reshape(len(like), -1, *pictures.shape[1:])
    return frames.transpose(1, 2)
