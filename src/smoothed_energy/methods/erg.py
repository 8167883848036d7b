r"""Entropy rectifying guidance (ERG): away from attention of a higher temperature.

References:
    | Entropy Rectifying Guidance for Diffusion and Flow Models
    | (Ifriqi et al., NeurIPS 2025), https://arxiv.org/abs/2504.13987

    | [Re] Smoothed Energy Guidance for Diffusion Models (MLRC 2025), its released code
"""

from __future__ import annotations

__all__ = ["AnnealedTemperature", "EntropyRectifyingGuidance", "TemperedAttention"]

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor
from typing_extensions import override

from ..guidance.attention_perturbation import AttentionCall, AttentionPerturbation
from ..guidance.guidance import SECOND_PASS, About
from ..guidance.negative_guidance import LayerGuidance
from ..schedule import StepPosition
from ..settings.checks import check_choice, check_positive
from ..settings.conversion import set_field

Scheme = Literal["linear", "cosine", "exponential"]


@dataclass(frozen=True)
class AnnealedTemperature:
    r"""A temperature that falls from `start` at the first step towards 1.

    $\tau = 1 + (\tau_0 - 1)\,f(t / T)$ at step $t$ of $T$, with $f(s) = 1 - s$ (linear),
    $(1 + \cos \pi s) / 2$ (cosine) or $e^{-\lambda s}$ (exponential): the formulas that the
    published study's code documents. Its last version computes the cosine with the factor 0.1234
    in place of 1/2, so that it starts at $1 + 0.2468\,(\tau_0 - 1)$ and not at $\tau_0$; here it is
    as documented. (Earlier versions have the same formulas, but multiply the logits by
    $\tau \sqrt d$ instead of dividing them, which sharpens attention.)

    Args:
        scheme: How it falls.
        start: $\tau_0 > 0$.
        rate: $\lambda > 0$ of the exponential; 5 is the study's. The other schemes have none.

    Raises:
        ValueError: If a value is outside its set.
    """

    scheme: Scheme
    start: float = 1.5
    rate: float = 5.0

    def __post_init__(self) -> None:
        check_choice("scheme", self.scheme, get_args(Scheme))
        set_field(self, "start", check_positive("start", self.start))
        set_field(self, "rate", check_positive("rate", self.rate))
        if self.scheme != "exponential" and self.rate != 5.0:
            raise ValueError(
                f"rate={self.rate!r} with scheme={self.scheme!r}: expected it with "
                "scheme='exponential', the only one that has a rate"
            )

    def at(self, position: StepPosition) -> float:
        """The temperature of the step at this position."""
        passed = position.index / position.count
        left = {
            "linear": 1 - passed,
            "cosine": (1 + math.cos(math.pi * passed)) / 2,
            "exponential": math.exp(-self.rate * passed),
        }[self.scheme]
        return 1 + (self.start - 1) * left

    def __str__(self) -> str:
        rate = f":{self.rate!r}" if self.scheme == "exponential" else ""
        return f"{self.scheme}:{self.start!r}{rate}"


@dataclass(frozen=True)
class TemperedAttention(AttentionPerturbation):
    r"""Attention of another temperature, $\operatorname{softmax}(Q K^\top c / \tau)\, V$.

    Args:
        temperature: $\tau$; above 1 every token attends more evenly.
    """

    temperature: float | AnnealedTemperature

    needs_own_keys: ClassVar[bool] = False

    @override
    def attend(self, call: AttentionCall) -> Tensor:
        temperature = self.temperature
        if isinstance(temperature, AnnealedTemperature):
            temperature = temperature.at(call.position())
        return call.with_query(call.query / temperature)()

    @property
    @override
    def is_identity(self) -> bool:
        """Whether the temperature stays 1."""
        temperature = self.temperature
        return (
            temperature.start if isinstance(temperature, AnnealedTemperature) else temperature
        ) == 1


@dataclass(frozen=True)
class EntropyRectifyingGuidance(LayerGuidance):
    r"""Guidance away from a prediction with attention of a higher temperature (ERG).

    The same energy view as SEG's: the second pass descends the energy
    $-\tau \operatorname{lse}(Q K^\top c / \tau)$, which is flatter for $\tau > 1$. This is the
    paper's temperature in the denoiser; its changed step sizes, and its temperature in the text
    encoder, are not included.

    Args:
        scale: $\gamma \ge -1$.
        layers: The layers whose attention is tempered.
        steps: The guided steps.
        formulation: `"conditional"` or `"unconditional"`.
        temperature: $\tau > 0$: a number, an `AnnealedTemperature`, or the text of either
            (`"cosine:1.5"`, `"exponential:1.5:5"`). The inverse of the factor that the paper puts
            before the logits.

    Raises:
        ValueError: If a value is outside its set.

    Example:
        >>> with EntropyRectifyingGuidance(scale=3.0, temperature=4.0).attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=5.0).images[0]
    """

    method: ClassVar[str] = "erg"
    about: ClassVar[About] = About(
        "Entropy rectifying guidance",
        "attention has a higher temperature",
        SECOND_PASS,
        "Ifriqi et al. 2025, arXiv 2504.13987; annealed: [Re] SEG 2025",
        "the paper's temperature in the denoiser only",
    )

    temperature: float | AnnealedTemperature | str = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "temperature", as_temperature(self.temperature))

    @property
    @override
    def perturbation(self) -> TemperedAttention:
        """Attention of another temperature."""
        return TemperedAttention(as_temperature(self.temperature))


def as_temperature(value: float | AnnealedTemperature | str) -> float | AnnealedTemperature:
    """A temperature from a number, an `AnnealedTemperature`, or the text of either.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(value, AnnealedTemperature):
        return value
    if not isinstance(value, str):
        return check_positive("temperature", value)
    kind, *rest = (part.strip() for part in value.split(":"))
    try:
        if not rest:
            return check_positive("temperature", float(kind))
        check_choice("scheme", kind, get_args(Scheme))
        if len(rest) > (2 if kind == "exponential" else 1):
            raise ValueError(f"{len(rest)} numbers")
        numbers = [float(number) for number in rest]
        return AnnealedTemperature(kind, *numbers)  # type: ignore[arg-type]  # checked above
    except ValueError as error:
        raise ValueError(
            f"temperature={value!r} is not a temperature ({error}); expected a finite number > 0, "
            "linear:START, cosine:START or exponential:START:RATE"
        ) from None
