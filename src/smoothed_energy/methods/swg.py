r"""Sliding window guidance (SWG) and its masked form (M-SWG).

References:
    | Guiding a Diffusion Model with Itself Using Sliding Windows
    | (Adaloglou et al., BMVC 2025), https://arxiv.org/abs/2411.10257
"""

from __future__ import annotations

__all__ = ["SlidingWindowGuidance", "windows"]

import math
from dataclasses import KW_ONLY, dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..guidance.guidance import About
from ..guidance.negative_guidance import NegativeGuidance
from ..guidance.plan import NegativeContext, Plan
from ..schedule import ScaleSchedule
from ..settings.checks import check_count, number_or_nan
from ..settings.conversion import set_field


def windows(length: int, fraction: float, count: int, multiple: int = 1) -> list[slice]:
    """Overlapping windows that cover an axis, the first at its start and the last at its end.

    Args:
        length: The number of places.
        fraction: The part of them in one window.
        count: The number of windows; less if a window is all of it.
        multiple: The size of a window is rounded up to a multiple of this.
    """
    size = min(length, math.ceil(fraction * length / multiple) * multiple)
    if size == length:
        return [slice(0, length)]
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    return [slice(start, start + size) for start in starts]


@dataclass(frozen=True)
class _ThroughWindows:
    """The mean of the predictions for the windows of the input."""

    window: float
    count: int
    masked: bool

    def __call__(self, second: NegativeContext) -> Tensor:
        if second.tied_to_size:
            raise ValueError(
                f"sliding window guidance can't cut {', '.join(second.tied_to_size)} into windows; "
                "expected another guidance, or, where a ControlNet or T2I-Adapter gives this, a "
                "pipeline without"
            )
        clean = second.clean
        if clean.ndim < 4 or clean.shape[-2:] != second.sample.shape[-2:]:
            raise ValueError(
                "sliding window guidance cuts pictures; expected latents (B, C, H, W), and this "
                f"denoiser's are of shape {tuple(second.sample.shape)}"
            )
        total, seen = torch.zeros_like(clean), torch.zeros_like(clean)
        height, width = second.sample.shape[-2:]
        axes = (windows(side, self.window, self.count, second.multiple) for side in (height, width))
        for rows, columns in product(*axes):
            prediction = second.of_sample(second.sample[..., rows, columns])
            total[..., rows, columns] += prediction[:, : clean.shape[1]]
            seen[..., rows, columns] += 1
        mean = total / seen
        # Masked: a place that only one window covers gets no correction.
        return torch.where(seen > 1, mean, clean) if self.masked else mean


@dataclass(frozen=True)
class SlidingWindowGuidance(NegativeGuidance):
    r"""Guidance away from predictions that see only a window of the input.

    It strengthens dependencies over long distances. Each guided step costs one pass for every
    window, `count` squared, each of them `window` squared as large as the whole.

    Args:
        scale: $\gamma \ge -1$; the sources use 0.2 to 1.5, less than for other methods.
        steps: The guided steps.
        formulation: `"conditional"` or `"unconditional"`.
        window: The part of each side that a window has, above 0 and at most 1; the released code's
            is 0.625.
        count: Windows along each side; 2 in the released code.
        masked: Whether only places that several windows see are corrected (M-SWG).

    Raises:
        ValueError: If a value is outside its set, or the windows leave gaps.

    Example:
        >>> with SlidingWindowGuidance(scale=0.5).attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=5.0).images[0]
    """

    method: ClassVar[str] = "swg"
    about: ClassVar[About] = About(
        "Sliding window guidance",
        "the denoiser sees one window at a time",
        "a pass for every window: 1.56 passes by default",
        "Adaloglou et al. 2025, arXiv 2411.10257",
        "not with ControlNet or T2I-Adapter",
    )

    needs_softmax: ClassVar[bool] = False

    window: float = 0.625
    count: int = 2
    masked: bool = True
    _: KW_ONLY
    scale: float | ScaleSchedule | str = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        window, count = self.window, check_count("count", self.count, 2)
        if not 0 < number_or_nan(window) <= 1:
            raise ValueError(f"window={window!r}: expected a number above 0 and at most 1")
        if window * count < 1:
            raise ValueError(
                f"window={window!r} and count={count!r} leave gaps: {count} windows of that size "
                "do not cover a side; expected window * count >= 1"
            )
        if not isinstance(self.masked, (bool, float)) or self.masked not in (False, True):
            raise ValueError(f"masked={self.masked!r}: expected True or False")
        set_field(self, "window", float(window))
        set_field(self, "count", count)
        set_field(self, "masked", bool(self.masked))

    @property
    @override
    def is_off(self) -> bool:
        return super().is_off or self.window == 1

    @override
    def plan(self, denoiser: nn.Module, *, replay: bool = True) -> Plan:
        """Every window is another input, so nothing is replayed."""
        return self._plan(
            negative=_ThroughWindows(self.window, self.count, self.masked),
        )
