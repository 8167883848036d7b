r"""Guidance away from a negative prediction: where, when, and how the difference is used.

$$s^\star = s + \gamma\,(s - \tilde s)$$

where $s$ is a prediction of the denoiser and $\tilde s$ the same prediction with something in the
denoiser perturbed. What that is tells the methods apart; each is a module of
`smoothed_energy.methods`. $\gamma = 0$ is no guidance. Equation 9 of the paper writes
$\gamma' s - (\gamma' - 1)\,\tilde s$; its released code, and this package, use
$\gamma = \gamma' - 1$.

References:
    | Smoothed Energy Guidance: Guiding Diffusion Models with Reduced Energy Curvature of Attention
    | (Hong, NeurIPS 2024), https://arxiv.org/abs/2408.00760
"""

from __future__ import annotations

__all__ = ["LayerGuidance", "NegativeGuidance"]

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, TypeAlias, cast

from torch import nn
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.cfg_batch import Formulation
from ..families.layer_selection import LayerSelection, normalise_selection, select_layers
from ..intercept.module_call import unwrap
from ..schedule import (
    ALL_STEPS_ANEW,
    EveryStep,
    Refresh,
    ScaleSchedule,
    StepPosition,
    Steps,
    StepSelection,
    as_refresh,
    as_scale,
    as_steps,
)
from ..settings.checks import check_choice, check_count
from ..settings.conversion import set_field
from .combine import Combination
from .combine_text import as_combinations
from .guidance import Guidance
from .perturbation import Perturbation
from .plan import Plan
from .within import PerturbedWithin, check_rows_alone

#: Which prediction is perturbed, and whether by a pass of its own; see `NegativeGuidance`.
Place: TypeAlias = "Formulation | Literal['within']"

_ALL_STEPS = Steps()


@dataclass(frozen=True)
class NegativeGuidance(Guidance):
    r"""What all methods with a negative share: steps, scale, formulation and combination.

    Args:
        scale: $\gamma \ge -1$, the factor of the difference of predictions. 0 is no guidance.
            Without CFG, -1 samples from the perturbed prediction alone: it shows what the
            perturbation breaks, which is what guidance moves away from. A schedule, or its text,
            changes it over the steps; see `smoothed_energy.schedule.scales`.
        steps: The denoising steps that are guided; see `smoothed_energy.schedule.steps`.
        formulation: `"conditional"` perturbs the prediction with the prompt, as the released code
            does; `"unconditional"` the one without, as equation 10 of the paper does. Without CFG
            there is one prediction and no difference. Guidances of layers have `"within"`, too: the
            unconditional rows are perturbed in the pass that CFG makes anyway. That is what
            `"unconditional"` gives at a scale of $g - 1$, $g$ being CFG's: `scale` then only says
            whether a step is guided.
        combine: How the correction is combined with the prediction; see
            `smoothed_energy.guidance.combine_text`. By default it is added.
        refresh: The guided steps that have a second pass; in between, earlier differences of
            predictions stand for it. See `smoothed_energy.schedule.refresh`.
        every: The same as `refresh="every:N"`: the first guided step and every n-th after it.

    Raises:
        ValueError: If a value is outside its set.
    """

    #: The formulations that it has.
    formulations: ClassVar[tuple[str, ...]] = ("conditional", "unconditional")
    #: Whether another denoiser predicts, in which nothing is changed that is changed in this one.
    predicts_elsewhere: ClassVar[bool] = False

    _: KW_ONLY
    scale: float | ScaleSchedule | str = 3.0
    steps: StepSelection | str | Sequence[str] = "all"
    formulation: Place = "conditional"
    combine: Combination | str | Sequence[Combination | str] = ()
    every: int = 1
    refresh: Refresh | str | int = 1

    def __post_init__(self) -> None:
        set_field(self, "scale", as_scale(self.scale))
        set_field(self, "steps", as_steps(self.steps))
        check_choice("formulation", self.formulation, self.formulations)
        set_field(self, "combine", as_combinations(self.combine))
        set_field(self, "every", check_count("every", self.every))
        set_field(self, "refresh", as_refresh(self.refresh))
        if self.every > 1 and self.refresh != ALL_STEPS_ANEW:
            raise ValueError(
                f"every={self.every} and refresh={str(self.refresh)!r} both say which guided steps "
                "have a second pass; expected one of them"
            )
        if self.formulation == "within":
            self._check_within()

    def _check_within(self) -> None:
        """Check that nothing is asked of a second pass or a correction where there is none.

        Raises:
            ValueError: If something is.
        """
        for name, is_asked in {
            "combine": bool(self.combine),
            "refresh": self.second_passes != ALL_STEPS_ANEW,
            "steps": self.needs_similarity,
        }.items():
            if is_asked:
                raise ValueError(
                    f"{name}={str(getattr(self, name))!r} with formulation='within': there is no "
                    "second pass and no correction; expected formulation='unconditional'"
                )

    @property
    def is_within(self) -> bool:
        """Whether it perturbs a pass that is made anyway, and has none of its own."""
        return self.formulation == "within"

    @property
    @override
    def is_off(self) -> bool:
        return self.scale == 0

    @property
    @override
    def needs_similarity(self) -> bool:
        return cast(StepSelection, self.steps).needs_similarity

    @property
    @override
    def depends_on_batch(self) -> bool:
        return self.needs_similarity or self.second_passes.needs_clean

    @property
    def is_uniform(self) -> bool:
        """Whether all steps are guided alike, so that the position of a step does not matter."""
        alike = self.steps == _ALL_STEPS and isinstance(self.scale, float)
        return alike and self.second_passes == ALL_STEPS_ANEW

    @property
    def second_passes(self) -> Refresh:
        """Which guided steps have a second pass: what `refresh` or `every` says."""
        return EveryStep(self.every) if self.every > 1 else cast(Refresh, self.refresh)

    def scale_at(self, position: StepPosition) -> float:
        """The scale of the step at `position`: 0 where it is not guided."""
        if not cast(StepSelection, self.steps).active(position):
            return 0.0
        scale = cast("float | ScaleSchedule", self.scale)
        return scale.at(position) if isinstance(scale, ScaleSchedule) else scale

    @override
    def select(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        return ()

    @abstractmethod
    def plan(self, denoiser: nn.Module, *, replay: bool = True) -> Plan:
        """What this guidance does in `denoiser`.

        Args:
            denoiser: The denoiser, compiled or not.
            replay: Whether the perturbed pass takes over what was computed before the first
                perturbed layer, where it can.

        Raises:
            LayerError: If `denoiser` has no such layers.
        """

    def _plan(self, **parts: Any) -> Plan:
        """A plan with what these methods share, and the method's own parts."""
        return Plan(formulation=cast(Formulation, self.formulation), **parts)


@dataclass(frozen=True)
class LayerGuidance(NegativeGuidance):
    r"""Guidance away from a prediction in which some layers compute something else.

    Args:
        layers: The self-attention layers that are perturbed; see
            `smoothed_energy.families.layer_selection`.
    """

    formulations: ClassVar[tuple[str, ...]] = ("conditional", "unconditional", "within")

    _: KW_ONLY
    layers: LayerSelection = "mid"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.layers):
            set_field(self, "layers", normalise_selection(self.layers))

    @property
    @abstractmethod
    def perturbation(self) -> Perturbation:
        """What the perturbed pass computes in the chosen layers."""

    @property
    @override
    def is_off(self) -> bool:
        return self.scale == 0 or self.perturbation.is_identity

    @override
    def select(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        layers, _, _ = self._found(denoiser)
        return layers

    @override
    def plan(self, denoiser: nn.Module, *, replay: bool = True) -> Plan:
        _, perturbation, modules = self._found(denoiser)
        if self.formulation == "within":
            check_rows_alone(
                denoiser, modules, "formulation=unconditional, or a guidance of attention"
            )
            return Plan(alteration=PerturbedWithin(perturbation), edits=modules)
        return self._plan(perturbation=perturbation, edits=modules, replay=replay)

    def _found(
        self, denoiser: nn.Module
    ) -> tuple[tuple[SelfAttentionLayer, ...], Perturbation, Mapping[nn.Module, str]]:
        """The layers, what is perturbed in them, and the modules that are edited for it."""
        layers = select_layers(denoiser, self.layers)
        perturbation = self.perturbation
        return (
            layers,
            perturbation.on(layers),
            perturbation.modules(unwrap(denoiser), layers),
        )
