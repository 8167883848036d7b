"""Which layers the perturbed passes of a denoiser reach, and that none is left out of one."""

from __future__ import annotations

__all__ = ["ReachedLayers"]

from collections.abc import Collection
from weakref import WeakKeyDictionary

from torch import nn

from ..guidance.plan import Plan


class ReachedLayers:
    """What passes of a denoiser reached so far, for each plan.

    Args:
        denoiser: The name of the denoiser's class, for errors.
    """

    def __init__(self, denoiser: str) -> None:
        self._denoiser = denoiser
        self._reachable: WeakKeyDictionary[Plan, set[str]] = WeakKeyDictionary()

    def check(self, plan: Plan, called: Collection[nn.Module], reached: set[str]) -> None:
        """Check that a perturbed pass reached what the clean pass, or an earlier one, reached.

        Args:
            plan: The plan.
            called: The modules that were called in the clean pass.
            reached: The names of the layers that the perturbed pass reached.

        Raises:
            RuntimeError: If it did not.
        """
        reachable = self._reachable.setdefault(plan, set())
        reachable |= reached
        if len(reachable) < len(plan.edits):
            reachable.update(name for module, name in plan.edits.items() if module in called)
        missing = sorted(reachable - reached)
        if missing:
            raise RuntimeError(
                f"{', '.join(missing)} of this {self._denoiser} was not reached in the "
                "second pass, but in a pass before: something gives the results of one pass to "
                "another, a cache for instance; expected a denoiser without it"
            )
