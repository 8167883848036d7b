"""One run of a denoiser, and what its modules do in it.

At a guided step the denoiser runs as it is, and again for each negative prediction. All of these
are one kind of pass: what a module does in it is edited, observed, recorded or replayed.
"""

from __future__ import annotations

__all__ = ["PASS", "Pass", "PassSite"]

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.image_tokens import ImageTokens
from ..families import Arguments, Family
from ..guidance.perturbation import LayerCall
from ..guidance.plan import Plan
from ..intercept.module_call import ModuleCall
from ..intercept.patching import Router, Routers
from ..intercept.rows import Rows
from ..schedule import StepPosition
from .context import StepContext

#: Who decides about the calls of a denoiser's modules: the pass that is running.
PASS = Routers("smoothed_energy_pass")


class PassSite:
    """What an edited or observed layer may ask of its pass; see `LayerSite`.

    Args:
        family: The family of the denoiser.
        model: The denoiser, not compiled.
        arguments: The arguments of its call, all rows.
        rows: The rows of the pass.
        context: The step.
    """

    def __init__(
        self,
        family: Family,
        model: nn.Module,
        arguments: Arguments,
        rows: Rows,
        context: StepContext,
    ) -> None:
        self.family, self.model, self.arguments = family, model, arguments
        self.rows, self.context = rows, context

    def image_tokens(self, layer: str, count: int) -> ImageTokens:
        """Which of the `count` tokens of a layer are the image's, in the rows of the pass."""
        found = self.family.tokens(self.model, self.arguments, layer, count)
        if isinstance(found.start, int):
            return found
        return replace(found, start=found.start[self.rows.start : self.rows.stop])

    def position(self) -> StepPosition:
        """Where the step is in its schedule."""
        return self.context.position()

    def outputs(self, layer: str, module: nn.Module) -> tuple[str, ...]:
        """The names of a module's inputs, in the order in which it returns what became of them."""
        layers: dict[str, SelfAttentionLayer] = {
            item.name: item for item in self.family.layers(self.model)
        }
        return self.family.outputs(self.model, layers[layer], module)


class Pass:
    """One run of a denoiser.

    Args:
        site: What edits and probes may ask.
        edited: The plan whose modules are edited; None in the clean pass.
        watched: Plans whose probes observe.
        run: Makes a module's call that is not edited: records it, or replays it.

    Attributes:
        reached: The names of the layers that were edited.
        observed: What the probe of each plan kept of each layer.
    """

    def __init__(
        self,
        site: PassSite,
        *,
        edited: Plan | None = None,
        watched: Sequence[Plan] = (),
        run: Router = ModuleCall.__call__,
    ) -> None:
        self.site = site
        self.reached: set[str] = set()
        self.observed: dict[Plan, dict[str, Tensor]] = {plan: {} for plan in watched}
        self._edits: Mapping[nn.Module, str] = {} if edited is None else edited.edits
        self._perturbation = None if edited is None else edited.perturbation
        self._watched = watched
        self._run = run

    def handle(self, call: ModuleCall) -> Any:
        """One call of a module of the denoiser; see `intercept.patching.Router`."""
        layer = self._edits.get(call.module)
        if layer is not None and self._perturbation is not None:
            self.reached.add(layer)
            return self._perturbation.run(LayerCall(layer, call, self.site))
        for plan in self._watched:
            if call.module in plan.probed:
                call = call.with_forward(functools.partial(self._observe, plan, call))
        return self._run(call)

    def _observe(self, plan: Plan, call: ModuleCall, *args: Any, **kwargs: Any) -> Any:
        """What a module gives, observed by the probe of a plan; the arguments are the call's."""
        layer = plan.probed[call.module]
        assert plan.probe is not None
        output, self.observed[plan][layer] = plan.probe.run(LayerCall(layer, call, self.site))
        return output
