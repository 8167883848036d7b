r"""History-guided sampling: the details in which a prediction differs from those before it.

References:
    | HiGS: History-Guided Sampling for Plug-and-Play Enhancement of Diffusion Models
    | (Sadat et al., ICLR 2026), https://arxiv.org/abs/2509.22300
"""

from __future__ import annotations

__all__ = ["HistoryGuidedSampling"]

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ..guidance.cfg_rules.projection import split
from ..guidance.clean_estimate import clean_and_noise, clean_slope, signal_and_noise
from ..guidance.guidance import About
from ..guidance.result_guidance import ResultGuidance, ResultStep
from ..settings.checks import check_number, check_unit, number_or_nan, refusal
from ..settings.conversion import set_field

#: How steep the high-pass filter is.
_SHARPNESS = 50.0


@dataclass(frozen=True)
class HistoryGuidedSampling(ResultGuidance):
    r"""The guided prediction goes on in the direction in which it left its own history.

    $$\hat x_0^\star = \hat x_0 + w(t)\,F\left(d_\perp + \eta\,d_\parallel\right), \qquad
      d = \hat x_0 - m, \qquad m \leftarrow \alpha\,\hat x_0 + (1 - \alpha)\,m$$

    where $\hat x_0$ is the clean picture of the guided prediction (CFG and all corrections), $m$
    starts at 0, $d_\parallel$ is the projection of $d$ on $\hat x_0$, $F$ keeps the details by a
    cosine transform of height and width, and

    $$w(t) = w \sqrt{\frac{t - t_{min}}{t_{max} - t_{min}}}$$

    for the share of noise $t = \sigma / (1 + \sigma)$ within $(t_{min}, t_{max}]$, 0 outside. The
    first step only begins the history.

    Args:
        scale: $w$, a finite number from 0; 0 is no guidance.
        eta: $\eta$ in $[0, 1]$; 0 drops what is parallel, against saturation.
        alpha: $\alpha$ in $[0, 1]$, the weight of the newest prediction in the history.
        cutoff: Where the details begin, as a share of the highest frequency: 0 nearly keeps all.
        least: $t_{min}$ in $[0, 1]$.
        most: $t_{max}$ in $[0, 1]$, above `least`.
        steps: The steps at which it acts.

    Raises:
        ValueError: If a value is outside its set; while generating, if the noise level or the kind
            of prediction is not known, or the prediction has no places.

    Example:
        >>> with HistoryGuidedSampling().attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=3.0).images[0]
    """

    method: ClassVar[str] = "higs"
    about: ClassVar[About] = About(
        "History-guided sampling",
        "nothing; what is new against earlier steps is extrapolated",
        "no pass",
        "Sadat et al. 2025, arXiv 2509.22300",
        "for few steps and low CFG; less under schedulers of several steps",
    )
    remembers: ClassVar[bool] = True

    scale: float = 1.75
    _: KW_ONLY
    eta: float = 1.0
    alpha: float = 0.75
    cutoff: float = 0.05
    least: float = 0.4
    most: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= number_or_nan(self.scale) < math.inf:
            raise refusal(self.scale, f"scale={self.scale!r}: expected a finite number >= 0")
        set_field(self, "scale", check_number("scale", self.scale))
        for name in ("eta", "alpha", "cutoff", "least", "most"):
            set_field(self, name, check_unit(name, getattr(self, name)))
        if self.least >= self.most:
            raise ValueError(
                f"least={self.least!r} and most={self.most!r}: expected shares of noise that rise"
            )

    @property
    @override
    def is_off(self) -> bool:
        return self.scale == 0

    @override
    def result(self, step: ResultStep) -> Tensor:
        output = step.result
        if output.ndim not in (4, 5):
            raise ValueError(
                f"{self.method} compares places of a prediction, (B, C, H, W) or (B, C, F, H, W), "
                f"and this one has the shape {tuple(output.shape)}; expected another method"
            )
        levels, kind = signal_and_noise(step, self.method), step.prediction_type
        x = step.latents(self.method)
        clean, _ = clean_and_noise(kind, x, output, levels, self.method)
        history = step.memory.get("history")
        if history is None or history.shape != clean.shape:
            step.memory["history"] = self.alpha * clean
            return output
        step.memory["history"] = self.alpha * clean + (1 - self.alpha) * history
        weight = self._weight(*levels)
        if not weight:
            return output
        along, across = split(clean - history, clean)
        change = weight * _details(across + self.eta * along, self.cutoff)
        return output + change / clean_slope(kind, *levels, self.method)

    def _weight(self, signal: float, noise: float) -> float:
        share = noise / (signal + noise)
        if not self.least < share <= self.most:
            return 0.0
        return self.scale * math.sqrt((share - self.least) / (self.most - self.least))


def _details(pictures: Tensor, cutoff: float) -> Tensor:
    """The high frequencies of the last two axes, by an orthonormal cosine transform."""
    height, width = pictures.shape[-2:]
    rows, columns = (_cosines(size).to(pictures) for size in (height, width))
    radius = torch.hypot(
        (torch.arange(height) / height)[:, None], (torch.arange(width) / width)[None, :]
    )
    kept = torch.sigmoid(_SHARPNESS * (radius - cutoff)).to(pictures)
    return rows.mT @ (kept * (rows @ pictures @ columns.mT)) @ columns


def _cosines(size: int) -> Tensor:
    """The matrix of the cosine transform (DCT-II) with orthonormal rows, `(size, size)`."""
    places = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (places + 0.5) * places[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix
