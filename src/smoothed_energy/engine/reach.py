"""Whether second passes reach the layers that they are to edit."""

from __future__ import annotations

__all__ = ["Reach"]

from collections.abc import Set
from weakref import WeakKeyDictionary

from torch import nn

from ..guidance.plan import Plan


class Reach:
    """What the passes of a denoiser have reached so far.

    Args:
        name: The denoiser's class, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._reachable: WeakKeyDictionary[Plan, set[str]] = WeakKeyDictionary()

    def check(self, plan: Plan, called: Set[nn.Module], reached: Set[str]) -> None:
        """Check that a perturbed pass reached what the clean pass, or an earlier one, reached.

        Args:
            plan: What it edits.
            called: The modules that were called in the clean pass.
            reached: The names of the layers that it reached.

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
                f"{', '.join(missing)} of this {self._name} was not reached in the second pass, "
                "but in a pass before: something gives the results of one pass to another, a "
                "cache for instance; expected a denoiser without it"
            )
