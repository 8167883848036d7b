r"""How a correction is combined with the prediction that it corrects.

A guidance computes $\delta = \gamma\,(s - \tilde s)$ and adds it to $D = u + g\,(c - u)$, the
pipeline's own guidance ($D = c$ without CFG). A combination changes $\delta$ before that; several
are applied one after the other. The corrections of several guidances are added up, and those that
are fused with CFG are fused once, as their sum.

| text | value | what it does |
|---|---|---|
| `"rescale:0.7"` | `Rescale(0.7)` | tames the contrast of the whole result |
| `"rescale:0.7:partial"` | `Rescale(0.7, "partial")` | ... of $c + \delta$ alone |
| `"project"`, `"project:0.5"` | `Projection(0.5)` | drops (half of) what is parallel to $s$ |
| `"fuse"` | `SaliencyFusion()` | everywhere the more salient of $\delta$ and $g\,(c - u)$ |
"""

from __future__ import annotations

__all__ = [
    "Combination",
    "Correction",
    "Predictions",
    "Projection",
    "Rescale",
    "SaliencyFusion",
    "as_combinations",
    "combinations_text",
    "need_places",
    "total",
]

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..denoisers.latent_layout import ChannelsFirst, Places
from ..denoisers.prediction import Predictions
from ..settings.checks import check_positive, check_unit
from ..smoothing import GaussianBlur

Extent = Literal["full", "partial"]

# The + between two combinations, not the one in 1e+20.
_PLUS = re.compile(r"(?<![\d.]e)\+", re.IGNORECASE)


class Combination(ABC):
    """A change of a correction: an immutable value whose `str` is read by `as_combinations`."""

    #: Whether it compares places of a prediction: `(B, C, H, W)` or `(B, C, F, H, W)` then.
    needs_places: ClassVar[bool] = False

    @abstractmethod
    def apply(self, delta: Tensor, predictions: Predictions) -> Tensor:
        """The changed correction.

        Args:
            delta: `(B, C, *)`.
            predictions: What the step predicted.

        Returns:
            `(B, C, *)`, dtype of `delta`.
        """


def need_places(combinations: Iterable[Combination]) -> bool:
    """Whether one of them compares places of a prediction."""
    return any(one.needs_places for one in combinations)


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
        object.__setattr__(self, "amount", check_unit("amount", self.amount))
        if self.extent not in get_args(Extent):
            raise ValueError(
                f"extent={self.extent!r}: expected one of {', '.join(get_args(Extent))}"
            )

    def apply(self, delta: Tensor, predictions: Predictions) -> Tensor:
        """See `Combination.apply`."""
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
        object.__setattr__(self, "parallel", check_unit("parallel", self.parallel))

    def apply(self, delta: Tensor, predictions: Predictions) -> Tensor:
        """See `Combination.apply`."""
        flat, onto = delta.double().flatten(1), predictions.clean.double().flatten(1)
        onto = torch.nn.functional.normalize(onto, dim=1)
        along = (flat * onto).sum(dim=1, keepdim=True) * onto
        return (flat - (1 - self.parallel) * along).reshape(delta.shape).to(delta.dtype)

    def __str__(self) -> str:
        return "project" if self.parallel == 0 else f"project:{self.parallel!r}"


@dataclass(frozen=True)
class SaliencyFusion(Combination):
    r"""Saliency-adaptive noise fusion: at every place the stronger of the two guidances.

    $D + \delta$ becomes $u + f$ with $f$, at every place and channel, the one of $g\,(c - u)$ and
    $\delta$ that has the higher saliency: the softmax over space (all frames of a video) of its
    blurred magnitude (Wang et al. 2023, https://arxiv.org/abs/2311.10329). Without CFG there is one
    guidance, and nothing changes. Several fused guidances are one $\delta$, their sum; see `total`.

    Args:
        sigma: Width of the blur of the magnitudes, in latent pixels of a picture or frame.

    Raises:
        ValueError: If it is not a finite number above 0; from `apply`, if the prediction has no
            places, or CFG's scale is not known.
    """

    needs_places: ClassVar[bool] = True

    sigma: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", check_positive("sigma", self.sigma))

    def apply(self, delta: Tensor, predictions: Predictions) -> Tensor:
        """See `Combination.apply`."""
        if delta.ndim < 4:
            raise ValueError(
                f"combine={self} compares places of a prediction, (B, C, H, W) or (B, C, F, H, W), "
                f"and this one has the shape {tuple(delta.shape)}; expected project, "
                "rescale:AMOUNT or no combine="
            )
        text = predictions.text_guidance
        if text is None:
            return delta
        stronger = self._saliency(delta) > self._saliency(text)
        # The pipeline adds text guidance by itself, so where ours is taken it is taken back.
        return torch.where(stronger, delta - text, torch.zeros_like(delta))

    def _saliency(self, guidance: Tensor) -> Tensor:
        grid = tuple(guidance.shape[2:])
        tokens = guidance.float().abs().flatten(2).mT
        blurred = GaussianBlur(self.sigma, padding="symmetric").apply(tokens, grid)
        return blurred.softmax(dim=-2).mT.reshape(guidance.shape)

    def __str__(self) -> str:
        return "fuse" if self.sigma == 1 else f"fuse:{self.sigma!r}"


@dataclass(frozen=True, eq=False)
class Correction:
    r"""What one guidance adds to a prediction.

    Args:
        delta: $\delta$ before its combinations, `(B, C, *)`.
        combinations: What changes it.
        predictions: What the step predicted.
    """

    delta: Tensor
    combinations: tuple[Combination, ...]
    predictions: Predictions

    def combined(self, combinations: Sequence[Combination]) -> Tensor:
        """The correction after these combinations."""
        delta = self.delta
        for combination in combinations:
            delta = combination.apply(delta, self.predictions)
        return delta

    def unpacked(self, places: Places) -> Correction:
        """The same, laid out by its places."""
        return Correction(
            places.unpack(self.delta), self.combinations, self.predictions.unpacked(places)
        )


def total(
    corrections: Sequence[Correction], places: Callable[[], Places] = ChannelsFirst
) -> Tensor:
    r"""The sum of the corrections of one step, one or more.

    Where a fused correction is the more salient, it takes the place of CFG. That can happen only
    once: of several, the sum is fused.

    Args:
        corrections: All of them.
        places: How they are laid out; asked only if one of their combinations compares places.

    Raises:
        ValueError: If several are fused in different ways, or changed after that.
    """
    if not need_places(one for correction in corrections for one in correction.combinations):
        return _combined(corrections)
    found = places()
    unpacked = [correction.unpacked(found) for correction in corrections]
    return found.pack(_combined(unpacked), corrections[0].delta)


def _combined(corrections: Sequence[Correction]) -> Tensor:
    fused = [
        correction
        for correction in corrections
        if any(isinstance(one, SaliencyFusion) for one in correction.combinations)
    ]
    if len(fused) < 2:
        return _sum([one.combined(one.combinations) for one in corrections])
    fusion = fused[0].combinations[-1]
    if not isinstance(fusion, SaliencyFusion) or any(
        one.combinations[-1] != fusion for one in fused
    ):
        texts = ", ".join(repr(combinations_text(one.combinations)) for one in fused)
        raise ValueError(
            f"combine={texts}: guidances that act together are fused with CFG once, as their sum; "
            "expected fuse in one of them only, or the same fuse as the last combination of each"
        )
    together = fusion.apply(
        _sum([one.combined(one.combinations[:-1]) for one in fused]), fused[0].predictions
    )
    return _sum(
        [together, *(one.combined(one.combinations) for one in corrections if one not in fused)]
    )


def _sum(deltas: Sequence[Tensor]) -> Tensor:
    return deltas[0] if len(deltas) == 1 else torch.stack(list(deltas)).sum(0)


def as_combinations(
    value: Combination | str | Sequence[Combination | str],
) -> tuple[Combination, ...]:
    """Combinations from one, several, or texts joined by `+`.

    Raises:
        ValueError: If a text is not understood, or `fuse` comes twice.
    """
    found = _flattened(value)
    if sum(isinstance(one, SaliencyFusion) for one in found) > 1:
        raise ValueError(
            f"combine={combinations_text(found)!r} fuses twice, and CFG can be replaced only once; "
            "expected fuse at most once"
        )
    return found


def _flattened(value: Combination | str | Sequence[Combination | str]) -> tuple[Combination, ...]:
    if isinstance(value, Combination):
        return (value,)
    if isinstance(value, str):
        return tuple(_parse(part.strip()) for part in _PLUS.split(value)) if value.strip() else ()
    return tuple(found for item in value for found in _flattened(item))


def combinations_text(combinations: Sequence[Combination]) -> str:
    """The text of several, `""` for none."""
    return "+".join(map(str, combinations))


def _parse(text: str) -> Combination:
    kind, *rest = text.split(":")
    try:
        if kind == "rescale" and 1 <= len(rest) <= 2:
            return Rescale(float(rest[0]), *rest[1:])  # type: ignore[arg-type]  # checked there
        if kind == "project" and len(rest) <= 1:
            return Projection(*map(float, rest))
        if kind == "fuse" and len(rest) <= 1:
            return SaliencyFusion(*map(float, rest))
        raise ValueError("unknown")
    except ValueError as error:
        raise ValueError(
            f"combine={text!r} is not understood ({error}); expected rescale:AMOUNT, "
            "rescale:AMOUNT:partial, project, project:PARALLEL or fuse, joined by +"
        ) from None
