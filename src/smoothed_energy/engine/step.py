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
from collections.abc import Callable, Collection
from typing import Any

import torch
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
        # What differences were made from that this step has made.
        self._made_from: dict[ParticipantState, tuple[Formulation, torch.Size]] = {}

    def reuse(
        self, member: ParticipantState, branch: Formulation, shape: torch.Size | None = None
    ) -> bool:
        """Use the difference of an earlier step again, if that is to be done.

        Args:
            member: Whose difference it is.
            branch: Which prediction it is of.
            shape: The shape of that prediction; None if it is not known yet.
        """
        made_from: Any = (branch, shape)
        if shape is None and member.history.made_from is not None:
            # `combine` compares the shapes when they are known.
            _, known = member.history.made_from
            made_from = (branch, known)
        if not member.history.holds(made_from):
            return False
        self.differences[member] = member.history.use()
        member.reused_calls += 1
        return True

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
        fresh: list[ParticipantState] = []
        for member in self.scales:
            formulation = member.plan_in(runner).formulation
            if formulation not in branches or member in self.differences:
                continue
            rows = layout.rows(formulation, shape[0])
            # Without CFG there is one prediction, and both formulations mean it.
            branch = formulation if layout.has_cfg else "conditional"
            made_from = branch, torch.Size((rows.stop - rows.start, *shape[1:]))
            if not self.reuse(member, *made_from):
                fresh.append(member)
                self._made_from[member] = made_from
        outcome = runner.run(call, [member.plan_in(runner) for member in fresh], layout, context)
        for member in fresh:
            plan = member.plan_in(runner)
            member.guided_calls += 1
            member.layers |= outcome.reached[plan]
            member.history.note(functools.partial(outcome.similarity, plan))
            self.differences[member] = outcome.differences[plan]
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

        Raises:
            RuntimeError: If a difference of an earlier step is of another shape.
        """
        corrections = []
        for member, scale in self.scales.items():
            difference = self.differences[member]
            guidance = member.history.guidance
            found = predictions(guidance.formulation)
            if difference.shape != found.clean.shape:
                raise RuntimeError(
                    f"{guidance!r} uses a difference of predictions again, of "
                    f"shape {tuple(difference.shape)}, and this step predicts "
                    f"{tuple(found.clean.shape)}; expected pictures of one size in a run"
                )
            if member in self._made_from:
                member.history.keep(difference, self._made_from[member])
            corrections.append(Correction(scale * difference, member.combinations, found))
        return total(corrections, latent_layout)
