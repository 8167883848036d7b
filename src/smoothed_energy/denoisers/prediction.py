"""What a denoiser predicts: its kind, and the predictions of a step by their meaning."""

from __future__ import annotations

__all__ = [
    "OutputKind",
    "Preconditioned",
    "PredictionKind",
    "PredictionType",
    "Predictions",
    "prediction_of",
    "with_prediction",
]

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor

from .latent_layout import LatentLayout

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow", "reversed_flow"]


@dataclass(frozen=True)
class Preconditioned:
    r"""A prediction that the scheduler preconditions (Karras et al. 2022, EDM, section 5).

    Its input is $c_{in}\,(x_0 + \sigma \epsilon)$ with
    $c_{in} = (\sigma^2 + \sigma_{data}^2)^{-1/2}$, and $x_0 = c_{skip}\,x + c_{out}\,F$ is made of
    its output $F$, with $c_{skip} = \sigma_{data}^2 c_{in}^2$ and
    $c_{out} = \pm \sigma\,\sigma_{data}\,c_{in}$. For images and noise levels in units of
    $\sigma_{data}$, $\mp F$ is a velocity.

    Args:
        sigma_data: $\sigma_{data}$.
        negative: Whether $c_{out}$ is negative, as for `"v_prediction"` in these schedulers.
    """

    sigma_data: float
    negative: bool


#: What is predicted; None if it is not known.
PredictionKind: TypeAlias = PredictionType | Preconditioned | None


@dataclass(frozen=True)
class OutputKind:
    """What a denoiser predicts.

    Args:
        learned_variance: Whether the second half of the prediction's channels may be a variance,
            which is not corrected.
        prediction_type: What the rest predicts; None if it is not known.
    """

    learned_variance: bool = False
    prediction_type: PredictionKind = None


@dataclass(frozen=True)
class Predictions:
    r"""What a step predicted without the perturbation.

    Args:
        clean: $s$, the prediction that was perturbed, `(B, C, *)`.
        conditional: $c$, of the same shape.
        unconditional: $u$; None without CFG.
        cfg_scale: $g$; None if it is not known.
        total: What stands for $u + g\,(c - u)$ where a rule says so; None where none does.
    """

    clean: Tensor
    conditional: Tensor
    unconditional: Tensor | None = None
    cfg_scale: float | None = None
    total: Tensor | None = None

    @property
    def text_guidance(self) -> Tensor | None:
        r"""$g\,(c - u)$, or what a rule puts in its place; None without CFG.

        Raises:
            ValueError: If CFG is on but its scale is not known.
        """
        if self.unconditional is None:
            return None
        if self.total is not None:
            return self.total - self.unconditional
        if self.cfg_scale is None:
            raise ValueError(
                "combine=fuse and rescale:AMOUNT need the scale of classifier-free guidance, and "
                "here there is not one that is known (InstructPix2Pix has two, Lumina-Next has it "
                "in three channels, Stable Video Diffusion has one for each frame unless "
                "min_guidance_scale is max_guidance_scale); expected rescale:AMOUNT:partial, "
                "project or no combine=; a loop of your own can tell it by cfg_scale= of step()"
            )
        return self.cfg_scale * (self.conditional - self.unconditional)

    @property
    def combined(self) -> Tensor:
        r"""$D = u + g\,(c - u)$ or what stands for it, and $c$ without CFG."""
        if self.total is not None:
            return self.total
        guidance = self.text_guidance
        if guidance is None or self.unconditional is None:
            return self.conditional
        return self.unconditional + guidance

    def unpacked(self, layout: LatentLayout) -> Predictions:
        """The same as pictures or videos."""
        return Predictions(
            layout.unpack(self.clean),
            layout.unpack(self.conditional),
            None if self.unconditional is None else layout.unpack(self.unconditional),
            self.cfg_scale,
            None if self.total is None else layout.unpack(self.total),
        )


def prediction_of(output: Any) -> Tensor:
    """The prediction in what a denoiser returns: a tensor, first in a tuple, or `.sample`.

    Raises:
        TypeError: If there is none.
    """
    if isinstance(output, Tensor):
        return output
    prediction = output[0] if isinstance(output, tuple) else getattr(output, "sample", None)
    if not isinstance(prediction, Tensor):
        raise TypeError(
            f"a {type(output).__name__} is no prediction of a denoiser; expected a tensor, alone "
            "or first in a tuple, or an output with one as its sample"
        )
    return prediction


def with_prediction(output: Any, prediction: Tensor) -> Any:
    """What a denoiser returned, with another prediction."""
    if isinstance(output, Tensor):
        return prediction
    if isinstance(output, tuple):
        return (prediction, *output[1:])
    return type(output)(**{**output, "sample": prediction})
