"""What the passes of a run need to know of its denoiser."""

from __future__ import annotations

__all__ = ["RunningDenoiser"]

import functools

from torch import Tensor, nn

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.cfg_batch import related_rows
from ..families import Family, family_or_unknown
from ..intercept.compiled import is_sealed
from ..intercept.module_call import ModuleCall, Rows, unwrap
from ..intercept.regions import Regions
from .caches import CacheStates
from .other_caches import OtherCaches


class RunningDenoiser:
    """What the passes of a run need to know of its denoiser.

    Args:
        denoiser: A `diffusers` denoiser, compiled or not.

    Attributes:
        model: The denoiser, not compiled.
        family: Its family.
        sealed: Whether it is compiled as a whole, so that second passes run it as it was before.
        regions: Its blocks that are compiled one by one.
        other_caches: What may be caches of other packages, as they are when a run begins; None if
            nothing looks like it.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser = denoiser
        self.model = unwrap(denoiser)
        self.family: Family = family_or_unknown(denoiser)
        self.sealed = is_sealed(denoiser)
        self.regions = Regions(self.model)
        self.look_for_other_caches()

    def look_for_other_caches(self) -> None:
        """Look for caches of other packages, as they are before anything is computed."""
        self.other_caches = OtherCaches.found_in(self.model)

    @functools.cached_property
    def caches(self) -> CacheStates | None:
        """The caches in the denoiser, as they are at the first guided call; None without any."""
        self._cache_config = getattr(self.model, "_cache_config", None)
        for module in self.model.modules():
            if getattr(module, "_diffusers_hook", None) is not None:
                found = CacheStates(self.model)
                return found if found.exist else None
        return None

    @functools.cached_property
    def related_rows(self) -> tuple[str, ...]:
        """The processors that are known to relate rows: passes of some rows alone are wrong."""
        return related_rows(self.model)

    @functools.cached_property
    def layers(self) -> dict[str, SelfAttentionLayer]:
        """The layers of the denoiser by their names."""
        return {layer.name: layer for layer in self.family.layers(self.model)}

    def check_caches(self) -> None:
        """Check that the denoiser's caches are those of the first guided call, and of diffusers.

        Raises:
            RuntimeError: If they were enabled or disabled since, or are of another package.
        """
        if self.other_caches is not None:
            self.other_caches.check()
        _ = self.caches
        if getattr(self.model, "_cache_config", None) is not self._cache_config:
            raise RuntimeError(
                f"the cache of this {type(self.model).__name__} was changed while guidance "
                "acted on it; detach the guidance, and attach it again"
            )

    def sample(self, call: ModuleCall) -> Tensor:
        """The latents of a call of the denoiser.

        Raises:
            TypeError: If there are none.
        """
        found = call.argument(self.family.sample)
        if not isinstance(found, Tensor):
            raise TypeError(
                f"the latents of a {type(self.model).__name__} are not known: expected a tensor as "
                f"{self.family.sample}=; a registered family can name it, see docs/families.md"
            )
        return found

    def take_rows(self, call: ModuleCall, rows: Rows) -> ModuleCall:
        """The same call for some rows of its batch, with containers of its own."""
        if rows.is_all:
            return call.copied()
        return call.with_named(self.family.take_rows(call.named(), rows))
