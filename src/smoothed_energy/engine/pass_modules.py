"""The modules of a denoiser that its passes have to do with, for each plan."""

from __future__ import annotations

__all__ = ["PassModules"]

from collections.abc import Callable, Collection, Mapping, Sequence
from weakref import WeakKeyDictionary

from torch import nn

from ..denoisers.attention_layer import SelfAttentionLayer
from ..families import Family
from ..guidance.plan import Plan
from ..intercept.regions import Regions
from ..intercept.replay import Stem


class PassModules:
    """Which modules of a denoiser are patched, looked at as maps enter them, or replayed.

    Args:
        denoiser: The denoiser, not compiled.
        family: Its family.
        regions: Its blocks that are compiled one by one; None if there are none.
        layers: Gives its layers by their names.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        family: Family,
        regions: Regions | None,
        layers: Callable[[], Mapping[str, SelfAttentionLayer]],
    ) -> None:
        self._denoiser, self._family, self._regions, self._layers = (
            denoiser,
            family,
            regions,
            layers,
        )
        self._stems: dict[Plan, Stem] = {}
        self._entered_by: WeakKeyDictionary[Plan, dict[nn.Module, list[str]]] = WeakKeyDictionary()

    def forget(self, plan: Plan) -> None:
        """Forget what is kept of a plan whose modules were replaced."""
        self._stems.pop(plan, None)
        self._entered_by.pop(plan, None)

    def stem(self, plan: Plan) -> Stem:
        """What comes before the modules that a plan edits."""
        if plan not in self._stems:
            modules = self._outermost(plan.edits)
            self._stems[plan] = Stem(self._denoiser, modules, self._family.module_lists)
        return self._stems[plan]

    def entered(self, plan: Plan) -> dict[nn.Module, list[str]]:
        """The modules that feature maps enter before the layers of a plan; see `FeatureMaps`."""
        if plan not in self._entered_by:
            names = {*plan.edits.values(), *plan.probed.values()}
            known = self._layers()
            layers = [known[name] for name in names if name in known]
            self._entered_by[plan] = self._family.feature_modules(self._denoiser, layers)
        return self._entered_by[plan]

    def patched_by(self, plans: Sequence[Plan], stems: Collection[Stem]) -> set[nn.Module]:
        """The modules whose calls some pass decides about."""
        modules: set[nn.Module] = set()
        for plan in plans:
            modules.update(plan.edits, plan.probed, self.entered(plan))
        modules = self._outermost(modules)
        if self._regions is not None:
            modules |= self._regions.modules
        for stem in stems:
            modules |= stem.modules
        return modules

    def _outermost(self, modules: Collection[nn.Module]) -> set[nn.Module]:
        """What is patched for the sake of modules: those, or compiled blocks around them."""
        if self._regions is None:
            return set(modules)
        return set(map(self._regions.outermost, modules))
