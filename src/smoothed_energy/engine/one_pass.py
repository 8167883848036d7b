"""One pass of a denoiser: what is done at the calls of its modules."""

from __future__ import annotations

__all__ = ["Pass"]

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..denoisers.feature_maps import FeatureMaps
from ..guidance.perturbation import LayerCall, LayerSite
from ..guidance.plan import Plan
from ..intercept.module_call import ModuleCall
from ..intercept.patching import Router


class Pass:
    """One run of a denoiser.

    Args:
        site: What edits and probes may ask.
        features: Notes the sizes of feature maps.
        edited: The plan whose modules are edited; None in the clean pass.
        watched: Plans whose probes observe.
        otherwise: What is done with calls that are not edited: they are recorded, or replayed.

    Attributes:
        reached: The names of the layers that were edited.
        called: The modules that were called, as far as calls of theirs are decided about.
        observed: What the probe of each plan kept of each layer.
    """

    def __init__(
        self,
        site: LayerSite,
        features: FeatureMaps,
        *,
        edited: Plan | None = None,
        watched: Sequence[Plan] = (),
        otherwise: Router = ModuleCall.__call__,
    ) -> None:
        self.site, self._features = site, features
        self.reached: set[str] = set()
        self.called: set[nn.Module] = set()
        self.observed: dict[Plan, dict[str, Tensor]] = {plan: {} for plan in watched}
        self._edits: Mapping[nn.Module, str] = {} if edited is None else edited.edits
        self._perturbation = None if edited is None else edited.perturbation
        self._watched = watched
        self._otherwise = otherwise

    def handle(self, call: ModuleCall) -> Any:
        """One call of a module of the denoiser; see `intercept.patching.Router`."""
        self.called.add(call.module)
        self._features.note(call)
        layer = self._edits.get(call.module)
        if layer is not None and self._perturbation is not None:
            self.reached.add(layer)
            return self._perturbation.run(LayerCall(layer, call, self.site))
        if self._watched:
            call = self._observed(call)
        return self._otherwise(call)

    def _observed(self, call: ModuleCall) -> ModuleCall:
        """The same call, observed by the probes of all plans that watch its module."""
        plans = [plan for plan in self._watched if call.module in plan.probed]
        for probe in dict.fromkeys([plan.probe for plan in plans]):
            alike = [plan for plan in plans if plan.probe == probe]
            call = call.with_forward(functools.partial(self._observe, alike, call))
        return call

    def _observe(self, plans: Sequence[Plan], call: ModuleCall, *args: Any, **kwargs: Any) -> Any:
        """What a module gives, observed by a probe that some plans share."""
        layer, probe = plans[0].probed[call.module], plans[0].probe
        assert probe is not None
        output, kept = probe.run(LayerCall(layer, call, self.site))
        for plan in plans:
            self.observed[plan][layer] = kept
        return output
