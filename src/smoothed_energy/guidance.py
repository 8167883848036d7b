r"""Guidance methods: what is perturbed, where, when, and how the difference is used.

$$s^\star = s + \gamma\,(s - \tilde s)$$

where $s$ is a prediction of the denoiser and $\tilde s$ the same prediction made with perturbed
attention. $\gamma = 0$ is no guidance. Equation 9 of the paper writes
$\gamma' s - (\gamma' - 1)\,\tilde s$; its released code, and this package, use
$\gamma = \gamma' - 1$.

References:
    | Smoothed Energy Guidance: Guiding Diffusion Models with Reduced Energy Curvature of Attention
    | (Hong, NeurIPS 2024), https://arxiv.org/abs/2408.00760
"""

from __future__ import annotations

__all__ = ["Guidance", "SmoothedEnergyGuidance"]

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from torch import nn

from .attachment import Attachment, attach
from .denoiser import Plan
from .layers import LayerSelection, SelfAttentionLayer, normalise_selection, select_layers
from .perturbation import BlurQueries, Perturbation
from .rows import Formulation
from .smoothing import GaussianBlur, Smoothing, as_smoothing
from .steps import StepPosition, StepSelection, as_steps

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Guidance(ABC):
    r"""What all methods share: layers, steps, scale and formulation.

    Args:
        scale: $\gamma \ge -1$, the factor of the difference of predictions. 0 is no guidance.
            Without CFG, -1 samples from the perturbed prediction alone: it shows what the
            perturbation breaks, which is what guidance moves away from.
        layers: The self-attention layers that are perturbed; see `smoothed_energy.layers`.
        steps: The denoising steps that are guided; see `smoothed_energy.steps`.
        formulation: `"conditional"` perturbs the prediction with the prompt, as the released code
            does; `"unconditional"` the one without, as equation 10 of the paper does. Without CFG
            there is one prediction and no difference.

    Raises:
        ValueError: If a value is outside its set.
    """

    method: ClassVar[str]

    _: KW_ONLY
    scale: float = 3.0
    layers: LayerSelection = "mid"
    steps: StepSelection | str | Sequence[str] = "all"
    formulation: Formulation = "conditional"

    def __post_init__(self) -> None:
        scale = self.scale
        if isinstance(scale, bool) or not isinstance(scale, Real) or not -1 <= scale < math.inf:
            raise ValueError(
                f"scale={scale!r} is not a guidance scale; expected a finite number >= -1 "
                "(0 is no guidance, -1 the perturbed prediction alone; the paper uses 3)"
            )
        object.__setattr__(self, "scale", float(scale))
        if not callable(self.layers):
            object.__setattr__(self, "layers", normalise_selection(self.layers))
        object.__setattr__(self, "steps", as_steps(self.steps))
        if self.formulation not in get_args(Formulation):
            raise ValueError(
                f"formulation={self.formulation!r} is not known; expected one of "
                + ", ".join(map(repr, get_args(Formulation)))
            )

    @property
    @abstractmethod
    def perturbation(self) -> Perturbation:
        """What the second pass changes inside the chosen layers."""

    @property
    def is_off(self) -> bool:
        """Whether the correction is zero whatever the model."""
        return self.scale == 0 or self.perturbation.is_identity

    def is_active(self, position: StepPosition) -> bool:
        """Whether the step at `position` is guided."""
        return not self.is_off and as_steps(self.steps).active(position)

    def select(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        """The layers of `denoiser` that are perturbed, in the order in which they run.

        Raises:
            LayerError: If `denoiser` has no such layers.
        """
        return select_layers(denoiser, self.layers)

    def plan(self, denoiser: nn.Module, *, replay: bool = True) -> Plan:
        """What this guidance does to `denoiser`."""
        return Plan(
            perturbation=self.perturbation,
            scale=self.scale,
            formulation=self.formulation,
            layers=self.select(denoiser),
            replay=replay,
        )

    def attach(self, target: Any, *, replay: bool = True) -> Attachment:
        """Guide a pipeline, or a bare denoiser, until the attachment is detached.

        Args:
            target: A `diffusers` pipeline, or its denoiser for use in your own loop.
            replay: Whether the second pass takes over what was computed before the first
                perturbed layer. False computes it again, for comparison.

        Returns:
            A context manager that detaches when it closes; or call its `detach()`.

        Raises:
            TypeError: If `target` is neither.
            LayerError: If it has no such layers.
            RuntimeError: If an equal guidance is attached to it already.
        """
        return attach(self, target, replay=replay)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values, with the method's name under `"method"`.

        Raises:
            LayerError: If `layers` is a predicate, which has no text.
        """
        settings: dict[str, Any] = {"method": self.method}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "layers":
                value = normalise_selection(value)
            elif isinstance(value, (Smoothing, StepSelection)):
                value = str(value)
            settings[field.name] = value
        return settings

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """The guidance that `to_dict` described.

        Raises:
            ValueError: If a setting is unknown or of another method.
        """
        settings = dict(settings)
        method = settings.pop("method", cls.method)
        if method != cls.method:
            raise ValueError(f"method={method!r} is not {cls.__name__}; expected {cls.method!r}")
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise ValueError(
                    f"{name!r} is not a setting of {cls.__name__}; it has {', '.join(known)}"
                )
        return cls(**settings)

    def to_json(self) -> str:
        """The settings as JSON text."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The guidance that `to_json` wrote.

        Raises:
            ValueError: If the text is not a JSON object of this method's settings.
        """
        settings = json.loads(text)
        if not isinstance(settings, dict):
            raise ValueError(
                f"the settings of a guidance are a JSON object; got {type(settings).__name__}"
            )
        return cls.from_dict(settings)

    def save(self, path: str | Path) -> None:
        """Write the settings to a JSON file."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the settings from a JSON file that `save` wrote."""
        return cls.from_json(Path(path).read_text())


@dataclass(frozen=True)
class SmoothedEnergyGuidance(Guidance):
    r"""Guidance away from a prediction with smoothed attention energy (SEG).

    The second pass computes $\operatorname{softmax}(B Q K^\top / \sqrt d)\, V$ in the chosen
    layers: a blur $B$ of the queries over space, which flattens the energy
    $E = -\sum \operatorname{lse}(Q K^\top)$ of which attention is a gradient step (section 3 of
    the paper).

    Args:
        blur: The operator $B$: a `Smoothing`, or its text form such as `"gaussian:10"`. The
            default is the paper's strongest, $\sigma \to \infty$.
        scale: $\gamma \ge -1$; the paper's default is 3. See `Guidance`.
        layers: The layers in which queries are blurred; the paper's are the middle ones.
        steps: The guided steps: `"all"`, `"begin"` (the first third), `Steps(0, 0.5)`, ...
        formulation: `"conditional"` or `"unconditional"` (equation 10).

    Example:
        >>> guidance = SmoothedEnergyGuidance(blur="gaussian:10", scale=3.0, layers="mid")
        >>> with guidance.attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=5.0).images[0]
    """

    method: ClassVar[str] = "seg"

    blur: Smoothing | str = GaussianBlur(math.inf)  # noqa: RUF009 - immutable

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "blur", as_smoothing(self.blur))

    @property
    def perturbation(self) -> BlurQueries:
        """Attention with blurred queries."""
        return BlurQueries(as_smoothing(self.blur))
