r"""The passes of a denoiser at a guided step, and what they predict.

The denoiser runs as it is and gives the clean prediction $s$; then the rows that need it run again
with some modules edited, or something else makes a negative prediction, and give $\tilde s$. All of
these runs are one kind of pass: what a module does in it is edited, observed, recorded or replayed.
"""

from __future__ import annotations

__all__ = ["PassRunner"]

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.prediction import prediction_of
from ..families import Arguments
from ..guidance.plan import Plan
from ..intercept.attention import AttentionBackendError
from ..intercept.compiled import eagerly
from ..intercept.module_call import ModuleCall, Rows
from ..intercept.patching import Router, Routers, holding, patched
from ..intercept.replay import Recorder, Stem
from .context import StepContext
from .one_pass import FeatureMaps, Outcome, Pass
from .perturbed_prediction import PassSite, PerturbedPrediction
from .reach import Reach
from .running_denoiser import RunningDenoiser

#: Who decides about the calls of a denoiser's modules: the pass that is running.
_PASS = Routers("smoothed_energy_pass")


class PassRunner(RunningDenoiser):
    """Runs the passes of one denoiser.

    Args:
        denoiser: A `diffusers` denoiser, compiled or not.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__(denoiser)
        self._stems: dict[Plan, Stem] = {}
        self._entered_by: WeakKeyDictionary[Plan, dict[nn.Module, list[str]]] = WeakKeyDictionary()
        self._reach = Reach(type(self.model).__name__)

    def forget(self, plan: Plan) -> None:
        """Forget what is kept of a plan whose modules were replaced."""
        self._stems.pop(plan, None)
        self._entered_by.pop(plan, None)
        vars(self).pop("layers", None)

    def run(
        self,
        call: ModuleCall,
        plans: Sequence[Plan],
        layout: BatchLayout,
        context: StepContext,
        watching: Sequence[Plan] = (),
        needs: Callable[[Plan, Tensor], bool] | None = None,
    ) -> Outcome:
        """One call of the denoiser, and the negative predictions of some plans for it.

        Args:
            call: The call.
            plans: The plans.
            layout: The meaning of the rows of its batch.
            context: The step.
            watching: Plans of observers, who probe the clean pass alone.
            needs: Whether the negative prediction of a plan is needed after all, once the clean
                one is known; by default all are.

        Raises:
            AttentionBackendError: If a plan observes what a compiled denoiser does not show.
            RuntimeError: If the call fills a cache of keys and values.
        """
        # Some U-Nets consume the lists they are given (T2I-Adapter's residuals), so what follows
        # needs its own.
        kept = call.copied()
        # Probes of observers see a module itself, below what other probes make of its call.
        probing = [plan for plan in (*watching, *plans) if plan.probed]
        if not plans and not probing:
            outcome = self._outcome(kept, call(), context)
            outcome.observed.update({plan: {} for plan in watching})
            return outcome
        self._check(call, plans, probing)
        replays = not (self.sealed or self.regions.overwrites)
        stems = {plan: self._stem(plan) for plan in plans if plan.replay and replays}
        recorder = Recorder(list(stems.values())) if stems else None
        batch = len(self.sample(kept))
        arguments = Arguments(kept.argument)
        features = FeatureMaps(*map(self._entered, [*watching, *plans]))
        everything = PassSite(
            self, arguments.in_pass(features.sizes), Rows(0, batch, batch), context
        )
        clean_pass = Pass(
            everything,
            features,
            watched=probing,
            otherwise=ModuleCall.__call__ if recorder is None else recorder.run,
        )
        patches = () if self.sealed else self._patched_by([*watching, *plans], stems.values())
        with patched(patches, _PASS):
            with holding(_PASS.current, clean_pass.handle):
                output = call()
            if plans and self.other_caches is not None:
                # What was empty before has something now.
                self.other_caches.check()
            outcome = self._outcome(kept, output, context)
            for plan in (*watching, *plans):
                outcome.observed[plan] = clean_pass.observed.get(plan, {})
            clean = _Clean(kept, layout, everything, clean_pass.called, outcome, recorder, stems)
            for plan in plans:
                needed = layout.rows(plan.formulation, batch)
                predicted = needed.of(outcome.prediction)[:, : outcome.channels]
                if needs is None or needs(plan, predicted):
                    self._perturb(plan, needed, clean, is_last=plan is plans[-1])
        if recorder is not None:
            recorder.learn()
        return outcome

    def _perturb(self, plan: Plan, needed: Rows, clean: _Clean, *, is_last: bool) -> None:
        """Make the negative prediction of a plan, and note it in the outcome.

        Args:
            plan: The plan.
            needed: The rows that it perturbs.
            clean: The clean pass of the step.
            is_last: Whether no other pass follows.
        """
        outcome, before = clean.outcome, clean.site
        whole = plan.rows == "all" or bool(self.related_rows)
        rows = before.rows if whole else needed
        # A probe's layers entered the clean pass; edited ones enter theirs before they run.
        features = FeatureMaps(self._entered(plan))
        features.sizes |= {name: before.arguments.features[name] for name in features.sizes}
        site = PassSite(self, before.arguments.in_pass(features.sizes), rows, before.context)
        otherwise: Router = ModuleCall.__call__
        if clean.recorder is not None and plan in clean.stems:
            otherwise = clean.recorder.replay(clean.stems[plan], rows, is_last=is_last).run
        perturbed_pass = Pass(site, features, edited=plan, otherwise=otherwise)
        decide: Router = perturbed_pass.handle
        if self.regions.modules:
            seen = {*plan.edits, *self._entered(plan)}
            decide = self.regions.router(seen, _PASS, decide, has_all_rows=rows.is_all)
        run = functools.partial(self._perturbed, plan, decide)
        negative = PerturbedPrediction(plan, self.take_rows(clean.call, rows), site, run)
        negative.clean = rows.of(outcome.prediction)[:, : outcome.channels]
        observed = outcome.observed[plan]
        negative.observed = {layer: rows.of(value) for layer, value in observed.items()}
        if plan.negative is None:
            predicted = negative.predict(negative.call)
            if self.caches is None:
                self._reach.check(plan, clean.called, perturbed_pass.reached)
        else:
            predicted = plan.negative(negative)
        difference = negative.clean - predicted[:, : outcome.channels]
        if whole:
            difference, negative.clean = needed.of(difference), needed.of(negative.clean)
        outcome.clean[plan], outcome.differences[plan] = negative.clean, difference
        outcome.reached[plan] = perturbed_pass.reached | set(observed)
        outcome.runs[plan] = max(1, negative.passes) * (clean.layout.groups if whole else 1)

    def _check(self, call: ModuleCall, plans: Sequence[Plan], probing: Sequence[Plan]) -> None:
        if plans and call.kwargs.get("kv_cache") is not None:
            raise RuntimeError(
                "the denoiser is given a kv_cache, which a perturbed pass would change; "
                "expected a run without one"
            )
        if not probing or not (self.sealed or self.regions.modules):
            return
        seen = [module for plan in probing for module in plan.probed]
        if not self.sealed and not any(self.regions.covers(module) for module in seen):
            return
        if any(plan.probed for plan in plans):
            raise AttentionBackendError(
                "a guidance that looks at the attention of the first pass can't see into a "
                "compiled denoiser; use one that is not compiled, or another guidance"
            )
        raise AttentionBackendError(
            "the layers of a compiled denoiser can't be looked into; use one that is not compiled, "
            "or look at no layers"
        )

    def _outcome(self, call: ModuleCall, output: Any, context: StepContext) -> Outcome:
        prediction = prediction_of(output)
        channels = prediction.shape[1]
        of_latents = self.sample(call).shape[1]
        if channels == 2 * of_latents and (
            self.family.learned_variance or context.output_kind().learned_variance
        ):
            channels = of_latents
        latent_layout = functools.partial(
            self.family.latent_layout, self.model, Arguments(call.argument)
        )
        return Outcome(output, prediction, channels, latent_layout)

    def _stem(self, plan: Plan) -> Stem:
        if plan not in self._stems:
            self._stems[plan] = Stem(self.model, set(map(self.regions.outermost, plan.edits)))
        return self._stems[plan]

    def _entered(self, plan: Plan) -> dict[nn.Module, list[str]]:
        """The modules that feature maps enter before the layers of a plan; see `FeatureMaps`."""
        if plan not in self._entered_by:
            names = {*plan.edits.values(), *plan.probed.values()}
            layers = [self.layers[name] for name in names if name in self.layers]
            self._entered_by[plan] = self.family.feature_modules(self.model, layers)
        return self._entered_by[plan]

    def _patched_by(self, plans: Sequence[Plan], stems: Collection[Stem]) -> set[nn.Module]:
        """The modules whose calls some pass decides about."""
        modules: set[nn.Module] = set()
        for plan in plans:
            modules.update(plan.edits, plan.probed, self._entered(plan))
        modules = set(map(self.regions.outermost, modules)) | self.regions.modules
        for stem in stems:
            modules |= stem.modules
        return modules

    def _perturbed(self, plan: Plan, decide: Router, call: ModuleCall, number: int) -> Any:
        """One call of the denoiser with the modules of a plan edited.

        Args:
            plan: The plan.
            decide: What is done with the calls of its modules.
            call: The call.
            number: Which of the plan's calls at this step it is.
        """
        # A compiled first pass must not trace the patches, so they are there only now.
        modules = {*plan.edits, *self._entered(plan)} if self.sealed else ()
        patches = patched(modules, _PASS)
        eager = eagerly() if self.sealed else nullcontext()
        states = nullcontext() if self.caches is None else self.caches.of((plan, number))
        with patches, eager, states, holding(_PASS.current, decide):
            call.show_to_pre_hooks(self.denoiser)
            return call()


@dataclass(frozen=True, eq=False)
class _Clean:
    """The clean pass of a step, and what its perturbed passes take from it.

    Args:
        call: The call of the denoiser, as it was before it was made.
        layout: The meaning of its rows.
        site: The pass.
        called: The modules that were called in it.
        outcome: What it gave.
        recorder: What is replayed, if anything.
        stems: The stem of each plan that replays.
    """

    call: ModuleCall
    layout: BatchLayout
    site: PassSite
    called: set[nn.Module]
    outcome: Outcome
    recorder: Recorder | None
    stems: Mapping[Plan, Stem]
