"""The batches of a guider's steps, over the step engine."""

from __future__ import annotations

__all__ = ["Batch", "StepBatches"]

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...denoisers.cfg_batch import BatchLayout, Formulation
from ...denoisers.latent_layout import ChannelsFirst, LatentLayout
from ...denoisers.prediction import Predictions
from ...engine.finite import check_finite
from ...engine.observer import Observer
from ...engine.participant import Participant, ParticipantState, note_call
from ...engine.passes import PassRunner
from ...engine.results import Combined
from ...engine.step import BRANCHES, GuidedStep, Members
from ...engine.summary import warn_if_idle
from ...guidance.combine import compare_places
from ...intercept.module_call import ModuleCall
from .guider_step import GuiderStep


@dataclass(frozen=True)
class Batch:
    """A batch of a step.

    Args:
        name: The name of its prediction.
        branch: Whether it has the prompt.
        perturbed_by: The guidance that perturbs it; None if none does.
    """

    name: str
    branch: Formulation
    perturbed_by: ParticipantState | None = None

    @property
    def condition(self) -> int:
        """The index of its inputs: 0 with the prompt, 1 without."""
        return 0 if self.branch == "conditional" else 1


class StepBatches:
    """The batches of a run's steps: clean ones, and one for each negative prediction.

    A negative is predicted during the call for the clean batch that it belongs to, and handed out
    as the result of the call for its own batch. This is also done where an earlier difference is
    used again: batches are made before the denoiser is known, so only the call can show whether
    it may be.

    Args:
        participants: The guidances.
        observers: Who looks at the steps.
    """

    def __init__(
        self, participants: Sequence[Participant], observers: Sequence[Observer] = ()
    ) -> None:
        self.participants = participants
        self.batches: list[Batch] = []
        self._members = Members(observers=observers)
        self._runner: PassRunner | None = None
        self._step = GuidedStep({})
        self._latent_layout: LatentLayout = ChannelsFirst()
        self._layout_of: Callable[[], LatentLayout] = ChannelsFirst
        self._raw: Tensor | None = None
        self._outputs: dict[ParticipantState, Any] = {}
        self._given: set[ParticipantState] = set()
        self._finished = False

    def prepare(self, step: GuiderStep, *, enabled: bool) -> None:
        """Begin a step: find out which batches it needs.

        Args:
            step: The step.
            enabled: Whether anything is guided.
        """
        self._outputs.clear()
        self._given.clear()
        limiting = self._members.without_cfg(self.participants, step) if step.has_cfg else []
        note_call(map(self._members.of, self.participants), limiting, has_cfg=step.run_has_cfg)
        self._step = self._members.step(self.participants if enabled else (), step)
        self.batches = [Batch("pred_cond", "conditional")]
        if step.has_cfg and not limiting:
            self.batches.append(Batch("pred_uncond", "unconditional"))
        for number, participant in enumerate(self.participants):
            member = self._members.of(participant)
            if member in self._step.scales:
                name = f"pred_perturbed_{number}"
                self.batches.append(Batch(name, self._branch(member), member))

    @property
    def has_cfg(self) -> bool:
        """Whether the step has a batch without the prompt."""
        return len(self.batches) > 1 and self.batches[1].name == "pred_uncond"

    def _branch(self, member: ParticipantState) -> Formulation:
        """The branch of the batch that a guidance perturbs at this step."""
        return member.formulation if self.has_cfg else "conditional"

    def needs(self, batch: Batch) -> bool:
        """Whether somebody perturbs what a clean batch predicts, or looks at it."""
        acting = self._step.results and batch.branch == "conditional"
        altering = bool(self._step.altering)
        return bool(self._perturbing(batch) or acting or altering or self._members.observers)

    def _perturbing(self, batch: Batch) -> list[ParticipantState]:
        """The guidances that perturb what a clean batch predicts."""
        found = [other.perturbed_by for other in self.batches if other.branch == batch.branch]
        return [member for member in found if member is not None]

    def predict(self, batch: Batch, step: GuiderStep, call: ModuleCall) -> Any:
        """The call for a clean batch, and the negatives of its prediction.

        Args:
            batch: The batch.
            step: The step.
            call: The call of the denoiser.

        Raises:
            RuntimeError: If the denoiser was called for it before.
        """
        pending = self._perturbing(batch)
        if any(member in self._outputs for member in pending):
            raise RuntimeError(
                "the denoiser was called twice for one batch; expected a block that calls it once "
                "for each"
            )
        if self._runner is None or self._runner.denoiser is not call.module:
            self._runner = PassRunner(call.module)
        # All rows of a batch have one condition. Without CFG there is one batch for both branches.
        layout, branches = BatchLayout(), BRANCHES
        if self.has_cfg:
            layout = BatchLayout(separate=True, cfg_scale=step.cfg_scale)
            branches = (batch.branch,)
        time = call.argument(self._runner.family.time)
        self._members.progress.note("latents", self._runner.sample(call), time)
        outcome = self._step.predict(self._runner, call, layout, step, branches)
        compares = compare_places([one for member in pending for one in member.combinations])
        if compares or self._step.results:
            # Steps without a second pass ask for it, too.
            self._latent_layout = outcome.latent_layout()
        self._layout_of = outcome.latent_layout
        if batch.branch == "conditional":
            self._raw = outcome.prediction[:, : outcome.channels]
        for member in pending:
            negative = outcome.prediction[:, : outcome.channels] - self._step.differences[member]
            variance = outcome.prediction[:, outcome.channels :]
            prediction = torch.cat([negative, variance], dim=1)
            self._outputs[member] = outcome.with_prediction(prediction)
        return outcome.output

    def hand_out(self, batch: Batch, call: ModuleCall) -> Any:
        """The call for a perturbed batch, whose prediction is known by now.

        Raises:
            RuntimeError: If the denoiser was not called for the batch that it perturbs.
        """
        member = batch.perturbed_by
        if member is None or member not in self._outputs:
            raise RuntimeError(
                f"the denoiser was called for {batch.name}, but not before for the batch that it "
                "perturbs; expected a block that calls it once for each batch, in their order"
            )
        self._given.add(member)
        return self._outputs.pop(member)

    def check(self, names: Sequence[str]) -> None:
        """Check that these are the names of the step's predictions, all of them made.

        Raises:
            RuntimeError: If the denoiser was not called for a perturbed batch.
            ValueError: If they are others.
        """
        expected = [batch.name for batch in self.batches]
        if list(names) != expected:
            raise ValueError(
                f"expected the predictions {', '.join(expected)} of this step, in order"
            )
        for batch in self.batches:
            if batch.perturbed_by is not None and batch.perturbed_by not in self._given:
                raise RuntimeError(
                    f"the denoiser's forward function was not called for {batch.name}, so the "
                    "result would be unguided; expected a block that calls the denoiser it prepares"
                )

    def next(self, count: int) -> Batch:
        """The batch after the first `count`.

        Raises:
            RuntimeError: If there is none.
        """
        if count >= len(self.batches):
            raise RuntimeError(
                f"the denoiser is prepared for batch {count + 1} of {len(self.batches)}; expected "
                "prepare_inputs, then prepare_models for each of its batches"
            )
        return self.batches[count]

    def combined(
        self, c: Tensor, u: Tensor | None, step: GuiderStep, perturbed: dict[str, Tensor]
    ) -> Combined:
        r"""What the step comes to.

        Args:
            c: The prediction with the prompt, `(B, *)`.
            u: The one without it; None without CFG.
            step: The step.
            perturbed: The perturbed predictions by the names of their batches.
        """
        if self._raw is not None and self._raw.shape == (1, *c.shape):
            # The block has taken the only row out of the batch.
            rows = {name: item[None] for name, item in perturbed.items()}
            found = self.combined(c[None], None if u is None else u[None], step, rows)
            delta, guided = (x if x is None else x[0] for x in (found.delta, found.guided))
            return Combined(delta, guided)

        def predictions(formulation: Formulation) -> Predictions:
            clean = u if u is not None and formulation == "unconditional" else c
            return Predictions(clean, c, u, step.cfg_scale)

        for batch in self.batches:
            if batch.perturbed_by is not None:
                clean = predictions(batch.branch).clean
                self._step.differences[batch.perturbed_by] = clean - perturbed[batch.name]
        if self._step.results is not None:
            self._step.results.is_raw = functools.partial(_is_same, self._raw, c)
        combined = self._step.combine(predictions, lambda: self._latent_layout)
        delta = combined.delta
        if delta is not None:
            self._members.progress.note("guided", delta)
        # Where CFG is taken away, its scale is 1; in a run without it there is none.
        scale = step.cfg_scale if u is not None else 1.0 if step.run_has_cfg else None
        self._step.show(predictions, delta, self._layout_of, scale, step)
        return combined

    def finish(self, guided: Tensor, cfg_scale: float, *, is_last: bool) -> None:
        """Forget what one step alone needs; after the last one, say what is wrong with the run.

        Args:
            guided: The guided prediction.
            cfg_scale: CFG's scale.
            is_last: Whether it was the last step.

        Raises:
            NonFiniteError: If something in the run is not finite.
        """
        self._outputs.clear()
        self._raw = None
        self._step, self._layout_of = GuidedStep({}), ChannelsFirst
        self._members.progress.note("combined", guided)
        if not is_last or self._finished:
            return
        self._finished = True
        for participant in self.participants:
            warn_if_idle(participant.guidance, self._members.of(participant).summary())
        check_finite(self._members.progress.seen, cfg_scale)


def _is_same(raw: Tensor | None, given: Tensor) -> bool:
    return raw is not None and raw.shape == given.shape and bool(torch.equal(raw, given))
