"""What edits of layers and negative predictions may ask of the pass that they are part of."""

from __future__ import annotations

__all__ = ["PassSite", "PerturbedPrediction"]

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.image_tokens import ImageTokens
from ..denoisers.prediction import PredictionKind, prediction_of
from ..families import Arguments
from ..guidance.plan import Memory, NegativeContext, Plan
from ..intercept.module_call import ModuleCall, Rows
from ..schedule import StepPosition
from .context import StepContext
from .running_denoiser import RunningDenoiser


class PassSite:
    """What an edited or observed layer may ask of its pass; see `LayerSite`.

    Args:
        denoiser: The denoiser.
        arguments: The arguments of the denoiser's call, all rows, in the pass.
        rows: The rows of the pass.
        context: The step.
    """

    def __init__(
        self,
        denoiser: RunningDenoiser,
        arguments: Arguments,
        rows: Rows,
        context: StepContext,
    ) -> None:
        self.denoiser, self.arguments = denoiser, arguments
        self.rows, self.context = rows, context

    def image_tokens(self, layer: str, count: int) -> ImageTokens:
        """Which of the `count` tokens of a layer are the image's, in the rows of the pass."""
        denoiser = self.denoiser
        found = denoiser.family.tokens(denoiser.model, self.arguments, layer, count)
        if isinstance(found.start, int):
            return found
        return replace(found, start=found.start[self.rows.start : self.rows.stop])

    def position(self) -> StepPosition:
        """Where the step is in its schedule."""
        return self.context.position()

    def outputs(self, layer: str, module: nn.Module) -> tuple[str, ...]:
        """The names of the inputs that a module returns changed, in the order of its outputs."""
        denoiser = self.denoiser
        return denoiser.family.outputs(denoiser.model, denoiser.layers[layer], module)


class PerturbedPrediction(NegativeContext):
    """What the negative prediction of a plan is made from, in one call of a denoiser.

    Args:
        plan: The plan.
        call: The call, with the rows of the pass.
        site: What the pass may be asked.
        run: Makes a call in which the modules of the plan are edited; it is told the number of the
            call in this step, from 1.

    Attributes:
        passes: How many such calls there were.
    """

    def __init__(
        self,
        plan: Plan,
        call: ModuleCall,
        site: PassSite,
        run: Callable[[ModuleCall, int], Any],
    ) -> None:
        denoiser = site.denoiser
        self.call = call
        if denoiser.model is not denoiser.denoiser:
            self.call = call.with_forward(denoiser.model)
        self.sample = denoiser.sample(call)
        self.observed: Mapping[str, Tensor] = {}
        self._plan, self._site, self._run = plan, site, run
        self.passes = 0

    @property
    @override
    def prediction_type(self) -> PredictionKind:
        return self._site.context.output_kind().prediction_type

    @property
    @override
    def memory(self) -> Memory:
        if self._plan.memory is None:
            raise RuntimeError("this plan remembers nothing; expected one with remembers=True")
        return self._plan.memory

    @override
    def predict(self, call: ModuleCall) -> Tensor:
        self.passes += 1
        # Lists of arguments may be consumed, and there may be another pass.
        return prediction_of(self._run(call.copied(), self.passes))

    @override
    def of_sample(self, sample: Tensor) -> Tensor:
        return self.predict(self.call.replace(self._site.denoiser.family.sample, sample))

    @override
    def image_tokens(self, layer: str, count: int) -> ImageTokens:
        return self._site.image_tokens(layer, count)

    @override
    def position(self) -> StepPosition:
        return self._site.position()

    @property
    @override
    def tied_to_size(self) -> tuple[str, ...]:
        return self._site.denoiser.family.tied(self._site.arguments)

    @property
    @override
    def multiple(self) -> int:
        return self._site.denoiser.family.multiple(self._site.denoiser.model)
