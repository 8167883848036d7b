r"""The step engine: what happens at the calls of a run's denoisers.

A step has two phases. `predict` collects what the denoiser predicts: $c$, $u$ and the negatives,
in one call with the batch `[u, c]`, in two calls, or in one call for each. `combine` makes the
total correction $\delta$ of them, so that the guided prediction is
$D^\star = u + g\,(c - u) + \delta$. Whoever runs the denoiser writes it back: into the batch that a
pipeline reads (`engine.run`), or as the result (a guider).
"""

from __future__ import annotations

__all__ = ["GuidedStep"]

import functools
from collections.abc import Callable, Collection, Hashable

from torch import Tensor

from ..denoisers.cfg_batch import BatchLayout, Formulation
from ..denoisers.latent_layout import LatentLayout
from ..denoisers.prediction import Predictions
from ..guidance.combine import Correction, total
from ..intercept.module_call import ModuleCall
from .context import StepContext
from .participant import ParticipantState
from .runner import Outcome, PassRunner

_BRANCHES: tuple[Formulation, ...] = ("conditional", "unconditional")


class GuidedStep:
    r"""A step in which some guidances act, and what was predicted in it so far.

    Args:
        scales: $\gamma$ of each of them.

    Attributes:
        differences: $s - \tilde s$ of those whose negative is known.
        conditional: What the call with the prompt gave, where that without it is another call.
    """

    def __init__(self, scales: dict[ParticipantState, float]) -> None:
        self.scales = scales
        self.differences: dict[ParticipantState, Tensor] = {}
        self.conditional: Outcome | None = None

    def predict(
        self,
        runner: PassRunner,
        call: ModuleCall,
        layout: BatchLayout,
        context: StepContext,
        branches: Collection[Formulation] = _BRANCHES,
    ) -> Outcome:
        """One call of the denoiser, and the negatives of what it predicts.

        Args:
            runner: Runs the passes of the denoiser.
            call: The call.
            layout: The meaning of its rows.
            context: The step.
            branches: The predictions that are perturbed in this call.
        """
        runner.caches.check()
        shape = runner.sample(call).shape
        fresh: dict[ParticipantState, Hashable] = {}
        for member in self.scales:
            formulation = member.plan_in(runner).formulation
            if formulation not in branches:
                continue
            rows = layout.rows(formulation, shape[0])
            # Without CFG there is one prediction, and both formulations mean it.
            branch = formulation if layout.has_cfg else "conditional"
            made_from: Hashable = (runner, branch, rows.stop - rows.start, shape[1:])
            if member.history.holds(made_from):
                self.differences[member] = member.history.use()
                member.reused_calls += 1
            else:
                fresh[member] = made_from
        outcome = runner.run(call, [member.plan_in(runner) for member in fresh], layout, context)
        for member, source in fresh.items():
            plan = member.plan_in(runner)
            difference = outcome.differences[plan]
            member.guided_calls += 1
            member.layers |= outcome.reached[plan]
            member.history.keep(difference, source)
            member.history.note(functools.partial(outcome.similarity, plan))
            self.differences[member] = difference
        return outcome

    def combine(
        self,
        predictions: Callable[[Formulation], Predictions],
        latent_layout: Callable[[], LatentLayout],
    ) -> Tensor:
        r"""The correction $\delta$ of the whole step, without a learned variance.

        Args:
            predictions: What the step predicted, for the prediction that a guidance perturbs.
            latent_layout: How a prediction lies; asked only if that matters.
        """
        corrections = []
        for member, scale in self.scales.items():
            delta = scale * self.differences[member]
            found = predictions(member.history.guidance.formulation)
            corrections.append(Correction(delta, member.combinations, found))
        return total(corrections, latent_layout)
