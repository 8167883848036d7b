"""Guidance that changes what the denoiser computes in passes that are made anyway."""

from __future__ import annotations

__all__ = ["PassGuidance"]

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import cast

from torch import nn
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..families.layer_selection import LayerSelection, normalise_selection, select_layers
from ..schedule import StepPosition, Steps, StepSelection, as_steps_without_similarity
from ..settings.conversion import set_field
from .guidance import Guidance
from .plan import Plan

_ALL_STEPS = Steps()


@dataclass(frozen=True)
class PassGuidance(Guidance):
    """Guidance that changes what the denoiser computes, and so makes no correction.

    Args:
        layers: The layers in whose blocks it acts; see
            `smoothed_energy.families.layer_selection`.
        steps: The steps at which it acts; see `smoothed_energy.schedule.steps`.

    Raises:
        ValueError: If a value is outside its set, or the steps depend on a perturbed prediction.
    """

    _: KW_ONLY
    layers: LayerSelection = "all"
    steps: StepSelection | str | Sequence[str] = "all"

    def __post_init__(self) -> None:
        if not callable(self.layers):
            set_field(self, "layers", normalise_selection(self.layers))
        set_field(self, "steps", as_steps_without_similarity(self.steps, self.method))

    @override
    def select(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        return select_layers(denoiser, self.layers)

    def acts_at(self, position: Callable[[], StepPosition]) -> bool:
        """Whether it acts at a step.

        Args:
            position: Where the step is in its schedule; asked only if it matters.
        """
        return self.steps == _ALL_STEPS or cast(StepSelection, self.steps).active(position())

    @abstractmethod
    def plan(self, denoiser: nn.Module, *, replay: bool = True) -> Plan:
        """What it does in a denoiser: a plan with an alteration, and the modules for that.

        Raises:
            LayerError: If `denoiser` has no such layers.
        """
