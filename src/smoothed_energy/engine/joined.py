r"""Perturbed rows that run in the call of the clean pass, beside its own rows.

A second call starts the denoiser's kernels once more. Where a device waits for these and not for
arithmetic, one call of more rows takes less time than two, though nothing is taken over from one
to the other.
"""

from __future__ import annotations

__all__ = ["JoinedRows", "check_joins", "join_plan", "may_join"]

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from ..denoisers.attention_layer import LayerError
from ..denoisers.cfg_batch import BatchLayout, RowChoice
from ..families import Arguments, family_or_unknown
from ..guidance.guidance import Guidance
from ..guidance.negative_guidance import NegativeGuidance
from ..guidance.plan import Plan
from ..guidance.within import PerturbedBeside, check_rows_alone
from ..intercept.module_call import ModuleCall, unwrap
from .altered import Acting, AlteredPass
from .one_pass import Outcome

_NO_PASS = (
    "joined=True: {!r} has no pass that differs from the first in some modules alone; expected "
    "joined=False, or a guidance that perturbs layers in a second pass"
)


class JoinedRows:
    """The perturbed rows of one plan in one call of the denoiser.

    Args:
        plan: The plan; it has a perturbation, and no negative of its own.
        layout: The meaning of the rows of the batch.
        batch: How many there are.

    Attributes:
        acting: What is done with these rows in the clean pass.
    """

    def __init__(self, plan: Plan, layout: BatchLayout, batch: int) -> None:
        assert plan.perturbation is not None
        self.plan = plan
        beside = replace(plan, alteration=PerturbedBeside(plan.perturbation))
        self.acting = Acting(beside, layout.rows(plan.formulation, batch), None, {})

    def note(self, outcome: Outcome, altered: AlteredPass | None, call: ModuleCall) -> None:
        """Note in the outcome what was predicted for them.

        Args:
            outcome: That of the clean pass.
            altered: What was done in the pass.
            call: The call of the denoiser with these rows alone, as they were.
        """
        plan, family, rows = self.plan, outcome.family, self.acting.rows
        assert altered is not None and altered.added is not None
        added = family.with_prediction(outcome.output, altered.added)
        predicted = family.prediction_in(added, Arguments(call.argument))
        outcome.clean[plan] = rows.of(outcome.prediction)[:, : outcome.channels]
        outcome.differences[plan] = outcome.clean[plan] - predicted[:, : outcome.channels]
        outcome.reached[plan] = altered.reached[self.acting.plan]
        outcome.runs[plan] = 1


def may_join(plan: Plan, acting: Sequence[Acting], probing: Sequence[Plan]) -> bool:
    """Whether the rows of a plan may join this call; else they have a pass, which gives the same.

    Args:
        plan: The plan.
        acting: Alterations of all passes: rows are added once, and another text is known for the
            call's own rows.
        probing: Plans that look at modules: a module that is perturbed for some rows runs twice.
    """
    texts = [one for one in acting if one.alteration.adds_rows or one.alteration.reads_text]
    looked_at = [module for one in probing for module in one.probed if module in plan.edits]
    return not texts and not looked_at


def check_joins(guidance: Guidance, rows: RowChoice) -> None:
    """Check that what a guidance perturbs may run in the call of the clean pass.

    Raises:
        ValueError: If it perturbs nothing there, decides after it, or needs all rows again.
    """
    if rows == "all":
        raise ValueError(
            'joined=True with rows="all": rows that depend on each other can\'t be added to; '
            "expected one of them"
        )
    if not isinstance(guidance, NegativeGuidance):
        raise ValueError(_NO_PASS.format(guidance))
    if guidance.second_passes.needs_clean:
        raise ValueError(
            f"joined=True with refresh={guidance.refresh!r}, which decides after the first pass "
            "whether there is a second one; expected another refresh"
        )


def join_plan(guidance: Guidance, plan: Plan, denoiser: nn.Module) -> Plan:
    """The plan of a guidance, with the perturbed rows in the call of the clean pass.

    Raises:
        LayerError: If modules of the denoiser can't be perturbed for some rows alone.
        ValueError: If the guidance does not perturb modules.
    """
    if plan.negative is not None or plan.alteration is not None or plan.perturbation is None:
        raise ValueError(_NO_PASS.format(guidance))
    family = family_or_unknown(denoiser)
    if not family.has_rows:
        raise LayerError(
            f"a call of a {type(unwrap(denoiser)).__name__} has one sample and no rows, so none "
            "can be added to it; expected joined=False"
        )
    check_rows_alone(denoiser, plan.edits, "joined=False")
    return replace(plan, joined=True)
