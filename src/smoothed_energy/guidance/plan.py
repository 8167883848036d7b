"""Plans: what one guidance does in one denoiser."""

from __future__ import annotations

__all__ = ["Memory", "Negative", "NegativeContext", "Plan"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor, nn

from ..denoisers.cfg_batch import Formulation, RowChoice
from ..denoisers.image_tokens import ImageTokens
from ..denoisers.prediction import PredictionKind
from ..intercept.module_call import ModuleCall
from ..schedule import StepPosition
from .alteration import Alteration
from .perturbation import Perturbation, Probe

#: What a plan keeps from step to step of a run, by names of its own; empty when other images begin.
Memory: TypeAlias = dict[str, Any]


class NegativeContext(ABC):
    """What a negative prediction may be made from.

    Attributes:
        call: The call of the denoiser, with the rows that are predicted again.
        sample: Its noisy latents.
        clean: The clean prediction of the same rows, without a learned variance.
        observed: What the probe of the plan kept of each layer in the clean pass, the same rows.
    """

    call: ModuleCall
    sample: Tensor
    clean: Tensor
    observed: Mapping[str, Tensor]

    @property
    @abstractmethod
    def prediction_type(self) -> PredictionKind:
        """What the denoiser predicts; see `OutputKind`."""

    @property
    @abstractmethod
    def memory(self) -> Memory:
        """What the plan kept in earlier steps of this run, and keeps for later ones.

        What was kept of predictions with the prompt is apart from what was of those without it.

        Raises:
            RuntimeError: If the plan remembers nothing.
        """

    @abstractmethod
    def predict(self, call: ModuleCall) -> Tensor:
        """The denoiser's prediction for a call, with the plan's modules edited."""

    @abstractmethod
    def of_sample(self, sample: Tensor) -> Tensor:
        """The denoiser's prediction for other latents."""

    @abstractmethod
    def told_later(self, by: float) -> ModuleCall:
        """The same call with a time of more noise, by so many of 1000 timesteps, at most the last.

        Raises:
            ValueError: If it is not known how the denoiser is told the time.
        """

    @abstractmethod
    def image_tokens(self, layer: str, count: int) -> ImageTokens:
        """Which of the `count` tokens of a layer are the image's."""

    @abstractmethod
    def position(self) -> StepPosition:
        """Where the step is in its schedule."""

    @property
    @abstractmethod
    def tied_to_size(self) -> tuple[str, ...]:
        """The names of those given arguments that hold for this size of the latents only."""

    @property
    @abstractmethod
    def multiple(self) -> int:
        """What height and width of other latents must be multiples of."""


#: Makes the prediction that guidance moves away from, the same rows as the clean one.
Negative: TypeAlias = Callable[[NegativeContext], Tensor]


@dataclass(frozen=True, eq=False)
class Plan:
    r"""What one guidance does in one denoiser.

    Args:
        formulation: Which prediction is perturbed: the conditional or the unconditional one.
        perturbation: What the perturbed pass edits in the modules, if there are any.
        edits: The modules that are edited, and the layer that each belongs to.
        replay: Whether the perturbed pass takes over what was computed before the first of them.
        negative: How the prediction is made that guidance moves away from; by default the denoiser
            makes it on the same input, with its modules edited.
        probe: What is observed in the clean pass, if anything.
        probed: The modules that are observed, and the layer that each belongs to.
        remembers: Whether `negative` keeps something from step to step.
        memory: What it keeps; a run gives each of its plans that remember one of its own.
        rows: Which rows of the batch its passes have.
        alteration: What changes the edited modules in all passes; then it has no pass of its own.
        joined: Whether the perturbed rows run in the call of the clean pass, beside the others.
    """

    formulation: Formulation = "conditional"
    perturbation: Perturbation | None = None
    edits: Mapping[nn.Module, str] = field(default_factory=dict)
    replay: bool = False
    negative: Negative | None = None
    probe: Probe | None = None
    probed: Mapping[nn.Module, str] = field(default_factory=dict)
    remembers: bool = False
    memory: Memory | None = None
    rows: RowChoice = "needed"
    alteration: Alteration | None = None
    joined: bool = False
