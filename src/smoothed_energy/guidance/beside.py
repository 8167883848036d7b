"""What guidances can't do beside each other, refused when the second of them is attached."""

from __future__ import annotations

__all__ = ["check_apart", "check_beside"]

from collections.abc import Iterable, Sequence

from torch import nn

from ..intercept.module_call import modules_of
from .cfg_rules.rule import check_one_sum
from .guidance import Guidance
from .negative_guidance import NegativeGuidance
from .pass_guidance import PassGuidance
from .plan import Plan


def check_beside(guidances: Sequence[Guidance]) -> None:
    """Check that guidances can act together, whatever the model.

    Raises:
        RuntimeError: If they can't.
    """
    check_one_sum(guidances)
    acting = [one for one in guidances if not one.is_off]
    for one in acting:
        if not (isinstance(one, NegativeGuidance) and one.predicts_elsewhere):
            continue
        for other in acting:
            within = isinstance(other, NegativeGuidance) and other.is_within
            if isinstance(other, PassGuidance) or (within and one.formulation == "unconditional"):
                kind = f"{other.method} (formulation=within)" if within else other.method
                instead = "formulation=conditional" if within else "one of the two"
                raise RuntimeError(
                    f"{one.method} compares this denoiser with another one, and {kind} changes "
                    "what this one predicts and not the other, so that their difference would "
                    f"be that change as well; expected {instead}"
                )


def check_apart(plans: Iterable[Plan]) -> None:
    """Check that nobody perturbs or looks at layers that are perturbed within the passes.

    Args:
        plans: Of all guidances that act in a denoiser.

    Raises:
        RuntimeError: If somebody does.
    """
    plans = list(plans)
    within = [one for one in plans if one.alteration is not None and one.alteration.perturbs]
    perturbed: set[nn.Module] = set()
    for one in within:
        for module in one.edits:
            perturbed.update(modules_of(module))
    for one in plans if perturbed else ():
        # Second passes of the other rows are as they would be alone.
        second = one.alteration is None and one.formulation == "unconditional"
        for module, layer in {**(one.edits if second else {}), **one.probed}.items():
            if module in perturbed:
                looks = module in one.probed
                raise RuntimeError(
                    f"{layer} is {'looked at' if looks else 'perturbed'} where formulation=within "
                    "of another guidance perturbs it, or the block around it, already; expected "
                    f"other layers in one of them{'' if looks else ', or formulation=conditional'}"
                )
