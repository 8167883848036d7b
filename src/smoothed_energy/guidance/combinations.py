"""Combinations that scale or project a correction."""

from __future__ import annotations

__all__ = ["Projection", "Rescale"]

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from ..denoisers.prediction import Predictions
from ..settings.checks import check_unit
from ..settings.conversion import set_field
from .combine import Combination

Extent = Literal["full", "partial"]


@dataclass(frozen=True)
class Rescale(Combination):
    r"""Scales the correction so that the result has a spread closer to that of $c$.

    $\delta \left(\varphi\, \frac{\operatorname{std} c}{\operatorname{std} r} + 1 - \varphi\right)$
    with $r = D + \delta$ (full) or $r = c + \delta$ (partial), for every sample by itself. After
    Lin et al. 2023 (https://arxiv.org/abs/2305.08891), applied to the correction alone, as PAG and
    SEG are rescaled in ComfyUI.

    Args:
        amount: $\varphi$ in $[0, 1]$.
        extent: `"full"` or `"partial"`.

    Raises:
        ValueError: If a value is outside its set.
    """

    amount: float
    extent: Extent = "full"

    def __post_init__(self) -> None:
        set_field(self, "amount", check_unit("amount", self.amount))
        if self.extent not in get_args(Extent):
            raise ValueError(
                f"extent={self.extent!r}: expected one of {', '.join(get_args(Extent))}"
            )

    @override
    def apply(self, delta: Tensor, predictions: Predictions) -> Tensor:
        base = predictions.combined if self.extent == "full" else predictions.conditional
        dims = tuple(range(1, delta.ndim))
        wanted = predictions.conditional.float().std(dim=dims, keepdim=True)
        found = (base + delta).float().std(dim=dims, keepdim=True)
        factor = self.amount * wanted / found + (1 - self.amount)
        return delta * factor.to(delta.dtype)

    def __str__(self) -> str:
        return f"rescale:{self.amount!r}" + (":partial" if self.extent == "partial" else "")


@dataclass(frozen=True)
class Projection(Combination):
    r"""Keeps the part of the correction that is orthogonal to the clean prediction.

    $\delta_\perp + \eta\,\delta_\parallel$, where $\delta_\parallel$ is the projection of $\delta$
    on $s$, for every sample by itself, over all its numbers, in float64. The parallel part mostly
    raises contrast and saturation (adaptive projected guidance, Sadat et al. 2024,
    https://arxiv.org/abs/2410.02416, there for predictions of the clean image).

    Args:
        parallel: $\eta$ in $[0, 1]$.

    Raises:
        ValueError: If it is outside.
    """

    parallel: float = 0.0

    def __post_init__(self) -> None:
        set_field(self, "parallel", check_unit("parallel", self.parallel))

    @override
    def apply(self, delta: Tensor, predictions: Predictions) -> Tensor:
        flat, onto = delta.double().flatten(1), predictions.clean.double().flatten(1)
        onto = torch.nn.functional.normalize(onto, dim=1)
        along = (flat * onto).sum(dim=1, keepdim=True) * onto
        return (flat - (1 - self.parallel) * along).reshape(delta.shape).to(delta.dtype)

    def __str__(self) -> str:
        return "project" if self.parallel == 0 else f"project:{self.parallel!r}"
