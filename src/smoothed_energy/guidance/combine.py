r"""How the corrections of a step become one.

A guidance computes $\delta = \gamma\,(s - \tilde s)$ and adds it to $D = u + g\,(c - u)$, the
pipeline's own guidance ($D = c$ without CFG), so that the guided prediction is
$D^\star = D + \delta$. A combination changes $\delta$ before that; several are applied one after
the other. The corrections of several guidances are added up, and those that are fused with CFG are
fused once, as their sum.
"""

from __future__ import annotations

__all__ = ["Combination", "Correction", "compare_places", "total"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..denoisers.latent_layout import ChannelsFirst, LatentLayout
from ..denoisers.prediction import Predictions


class Combination(ABC):
    """A change of a correction: an immutable value whose `str` is read by `as_combinations`."""

    #: Whether it compares places of a prediction: `(B, C, H, W)` or `(B, C, F, H, W)` then.
    compares_places: ClassVar[bool] = False
    #: Whether it may put the correction in the place of CFG, which can happen only once in a step.
    replaces_cfg: ClassVar[bool] = False

    @abstractmethod
    def apply(self, delta: Tensor, predictions: Predictions) -> Tensor:
        """The changed correction.

        Args:
            delta: `(B, C, *)`.
            predictions: What the step predicted.

        Returns:
            `(B, C, *)`, dtype of `delta`.
        """


def compare_places(combinations: Iterable[Combination]) -> bool:
    """Whether one of them compares places of a prediction."""
    return any(one.compares_places for one in combinations)


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

    def unpacked(self, layout: LatentLayout) -> Correction:
        """The same for pictures or videos."""
        return Correction(
            layout.unpack(self.delta), self.combinations, self.predictions.unpacked(layout)
        )


def total(
    corrections: Sequence[Correction], layout: Callable[[], LatentLayout] = ChannelsFirst
) -> Tensor:
    r"""The sum of the corrections of one step, one or more.

    Where a fused correction is more salient than CFG, it takes CFG's place. That can happen only
    once, so several are added up first, and their sum is fused.

    Args:
        corrections: All of them.
        layout: How they lie; asked only if one of their combinations compares places.

    Raises:
        ValueError: If several are fused in different ways, or changed after that.
    """
    if len(corrections) == 1 and not corrections[0].combinations:
        return corrections[0].delta
    if not compare_places([one for item in corrections for one in item.combinations]):
        return _combined(corrections)
    found = layout()
    unpacked = [correction.unpacked(found) for correction in corrections]
    return found.pack(_combined(unpacked), corrections[0].delta)


def _combined(corrections: Sequence[Correction]) -> Tensor:
    fused = [item for item in corrections if any(c.replaces_cfg for c in item.combinations)]
    if len(fused) < 2:
        return _sum([item.combined(item.combinations) for item in corrections])
    fusion = fused[0].combinations[-1]
    if not fusion.replaces_cfg or any(item.combinations[-1] != fusion for item in fused):
        texts = ", ".join([repr("+".join(map(str, item.combinations))) for item in fused])
        raise ValueError(
            f"combine={texts}: guidances that act together are fused with CFG once, as their sum; "
            "expected fuse in one of them only, or the same fuse as the last combination of each"
        )
    together = fusion.apply(
        _sum([item.combined(item.combinations[:-1]) for item in fused]), fused[0].predictions
    )
    return _sum(
        [together, *[item.combined(item.combinations) for item in corrections if item not in fused]]
    )


def _sum(deltas: Sequence[Tensor]) -> Tensor:
    return deltas[0] if len(deltas) == 1 else torch.stack(list(deltas)).sum(0)
