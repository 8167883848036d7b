r"""The passes of a denoiser at a guided step, and what they predict.

The denoiser runs as it is and gives the clean prediction $s$; then the rows that need it run again
with some modules edited, or something else makes a negative prediction, and give $\tilde s$. All of
these runs are one kind of pass: what a module does in it is edited, observed, recorded or replayed.
"""

from __future__ import annotations

__all__ = ["PASS", "PassRunner"]

import functools
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout, related_rows
from ..families import Arguments, Family, family_or_unknown
from ..guidance.plan import Plan
from ..intercept.attention import AttentionBackendError
from ..intercept.compiled import eagerly, is_compiled, is_sealed
from ..intercept.module_call import ModuleCall, Rows, unwrap
from ..intercept.patching import Router, Routers, holding, patched
from ..intercept.regions import Regions
from ..intercept.replay import Recorder, Stem
from .altered import Acting, AlteredPass, check_altered, told
from .caches import CacheStates
from .context import StepContext
from .one_pass import CleanPass, FeatureMaps, Outcome, Pass, PassSite, PerturbedPrediction
from .other_caches import OtherCaches

#: Who decides about the calls of a denoiser's modules: the pass that is running.
PASS = Routers("smoothed_energy_pass")


class PassRunner:
    """Runs the passes of one denoiser.

    Args:
        denoiser: A `diffusers` denoiser, compiled or not.

    Attributes:
        model: The denoiser, not compiled.
        family: Its family.
        sealed: Whether it is compiled as a whole, so that second passes run it as it was before.
        regions: Its blocks that are compiled one by one; None if there are none.
        other_caches: What may be caches of other packages, as they are when a run begins; None if
            nothing looks like it.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser = denoiser
        self.model = unwrap(denoiser)
        self.family: Family = family_or_unknown(denoiser)
        self.sealed = is_sealed(denoiser)
        compiled = not self.sealed and is_compiled(self.model)
        self.regions = Regions(self.model) if compiled else None
        self.look_for_other_caches()
        self._stems: dict[Plan, Stem] = {}
        self._entered_by: WeakKeyDictionary[Plan, dict[nn.Module, list[str]]] = WeakKeyDictionary()
        self._reachable: WeakKeyDictionary[Plan, set[str]] = WeakKeyDictionary()

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
        found = self.family.latents(Arguments(call.argument))
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

    def forget(self, plan: Plan) -> None:
        """Forget what is kept of a plan whose modules were replaced."""
        self._stems.pop(plan, None)
        self._entered_by.pop(plan, None)
        vars(self).pop("layers", None)

    def run(  # noqa: PLR0913 - what a step may ask of a call
        self,
        call: ModuleCall,
        plans: Sequence[Plan],
        layout: BatchLayout,
        context: StepContext,
        watching: Sequence[Plan] = (),
        needs: Callable[[Plan, Tensor], bool] | None = None,
        *,
        acting: Sequence[Acting] = (),
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
            acting: Alterations of all passes.

        Raises:
            AttentionBackendError: If a plan observes what a compiled denoiser does not show.
            RuntimeError: If the call fills a cache of keys and values, or is of another denoiser.
        """
        # Some U-Nets consume the lists they are given (T2I-Adapter's residuals), so what follows
        # needs its own.
        kept = call.copied()
        # Probes of observers see a module itself, below what other probes make of its call.
        probing = [plan for plan in (*watching, *plans) if plan.probed]
        if not plans and not probing and not acting:
            outcome = self._outcome(kept, call(), context)
            outcome.observed.update({plan: {} for plan in watching})
            return outcome
        self._check(call, plans, probing)
        arguments = Arguments(kept.argument)
        if acting:
            self._prepare(kept, arguments, acting)
        regions = self.regions
        replays = not self.sealed and (regions is None or not regions.overwrites)
        stems = {plan: self._stem(plan) for plan in plans if plan.replay and replays}
        recorder = Recorder(list(stems.values())) if stems else None
        batch = len(self.sample(kept))
        whole = seen = Rows(0, batch, batch)
        altered = None
        if acting:
            altered = self.altered_pass(acting, whole)
            arguments, seen = Arguments(altered.with_added(kept).argument), altered.rows
            call = altered.around(call)
        features = FeatureMaps(*map(self._entered, [*watching, *plans]))
        everything = self._site(arguments.in_pass(features.sizes), seen, context)
        clean_pass = Pass(
            everything,
            features,
            watched=probing,
            otherwise=ModuleCall.__call__ if recorder is None else recorder.run,
            altered=altered,
        )
        altering = [one.plan for one in acting]
        patched_for = [*watching, *plans, *altering]
        patches = () if self.sealed else self._patched_by(patched_for, stems.values())
        with patched(patches, PASS):
            with holding(PASS.current, clean_pass.handle):
                output = call()
            if plans and self.other_caches is not None:
                # What was empty before has something now.
                self.other_caches.check()
            outcome = self._outcome(kept, output, context)
            for plan in (*watching, *plans):
                outcome.observed[plan] = clean_pass.observed.get(plan, {})
            clean = CleanPass(
                kept, layout, everything, clean_pass.called, outcome, recorder, stems, acting
            )
            if altered is not None:
                outcome.reached.update(altered.reached)
            for plan in plans:
                needed = layout.rows(plan.formulation, batch)
                predicted = needed.of(outcome.prediction)[:, : outcome.channels]
                if needs is None or needs(plan, predicted):
                    self._perturb(plan, needed, clean, is_last=plan is plans[-1])
        if recorder is not None:
            recorder.learn()
        return outcome

    def altered_pass(self, acting: Sequence[Acting], rows: Rows) -> AlteredPass:
        """What alterations do in a pass of some rows."""
        return AlteredPass(self.family, acting, rows)

    def tell(self, one: Acting, call: ModuleCall) -> None:
        """Find out what an alteration asks for, before a call is made."""
        told(self.family, one, call, PASS)

    def _site(self, arguments: Arguments, rows: Rows, context: StepContext) -> PassSite:
        return PassSite(self.model, self.family, lambda: self.layers, arguments, rows, context)

    def _perturb(self, plan: Plan, needed: Rows, clean: CleanPass, *, is_last: bool) -> None:
        """Make the negative prediction of a plan, and note it in the outcome.

        Args:
            plan: The plan.
            needed: The rows that it perturbs.
            clean: The clean pass of the step.
            is_last: Whether no other pass follows.
        """
        outcome, before = clean.outcome, clean.site
        whole = plan.rows == "all" or bool(self.related_rows)
        rows = Rows(0, needed.batch, needed.batch) if whole else needed
        altered, seen = None, rows
        if clean.acting:
            altered = self.altered_pass(clean.acting, rows)
            seen = altered.rows
        # A probe's layers entered the clean pass; edited ones enter theirs before they run.
        features = FeatureMaps(self._entered(plan))
        features.sizes |= {name: before.arguments.features[name] for name in features.sizes}
        site = self._site(before.arguments.in_pass(features.sizes), seen, before.context)
        otherwise: Router = ModuleCall.__call__
        replays = clean.recorder is not None and plan in clean.stems
        if replays and self.family.keeps_rows(self.model):
            assert clean.recorder is not None
            otherwise = clean.recorder.replay(clean.stems[plan], seen, is_last=is_last).run
        perturbed_pass = Pass(site, features, edited=plan, otherwise=otherwise, altered=altered)
        decide: Router = perturbed_pass.handle
        if self.regions is not None:
            inside = {*plan.edits, *self._entered(plan)}
            decide = self.regions.router(inside, PASS, decide, has_all_rows=rows.is_all)
        run = functools.partial(self._perturbed, plan, decide, altered)
        call = self.family.isolated(self.take_rows(clean.call, rows))
        if self.model is not self.denoiser:
            call = call.with_forward(self.model)
        negative = PerturbedPrediction(plan, call, site, run)
        negative.clean = rows.of(outcome.prediction)[:, : outcome.channels]
        observed = outcome.observed[plan]
        negative.observed = {layer: rows.of(value) for layer, value in observed.items()}
        if plan.negative is None:
            predicted = negative.predict(negative.call)
            if self.caches is None:
                self._check_reached(plan, clean.called, perturbed_pass.reached)
        else:
            predicted = plan.negative(negative)
        difference = negative.clean - predicted[:, : outcome.channels]
        if whole:
            difference, negative.clean = needed.of(difference), needed.of(negative.clean)
        outcome.clean[plan], outcome.differences[plan] = negative.clean, difference
        outcome.reached[plan] = perturbed_pass.reached | set(observed)
        outcome.runs[plan] = max(1, negative.passes) * (clean.layout.groups if whole else 1)

    def _check(self, call: ModuleCall, plans: Sequence[Plan], probing: Sequence[Plan]) -> None:
        if plans:
            self.family.isolated(call)
            if unwrap(call.module) is not self.model:
                raise RuntimeError(
                    f"another {type(self.model).__name__} predicts without the prompt, and is not "
                    'perturbed; expected formulation="conditional"'
                )
        probed = [module for plan in probing for module in plan.probed]
        if not any(map(self._hides, probed)):
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

    def _prepare(self, call: ModuleCall, arguments: Arguments, acting: Sequence[Acting]) -> None:
        """Check that a call may be altered, and find out what alterations ask for."""
        hidden = any(self._hides(module) for one in acting for module in one.plan.edits)
        adding = [one for one in acting if one.alteration.adds_rows]
        relates = len(adding) > 1 or (bool(adding) and bool(self.related_rows))
        keeps = self.family.is_needed_later(arguments) or self.family.keeps_keys(arguments)
        check_altered(hidden=hidden, cached=self.caches is not None, relates=relates, keeps=keeps)
        for one in acting:
            self.tell(one, call)

    def _hides(self, module: nn.Module) -> bool:
        """Whether what a module computes in the clean pass is inside of compiled code."""
        return self.sealed or (self.regions is not None and self.regions.covers(module))

    def _check_reached(self, plan: Plan, called: set[nn.Module], reached: set[str]) -> None:
        """Check that a perturbed pass reached what the clean pass, or an earlier one, reached.

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
                f"{', '.join(missing)} of this {type(self.model).__name__} was not reached in the "
                "second pass, but in a pass before: something gives the results of one pass to "
                "another, a cache for instance; expected a denoiser without it"
            )

    def _outcome(self, call: ModuleCall, output: Any, context: StepContext) -> Outcome:
        arguments = Arguments(call.argument)
        prediction = self.family.prediction_in(output, arguments)
        channels, of_latents = prediction.shape[1], self.sample(call).shape[1]
        # Without as many channels, there is no question of a variance.
        learned = channels == 2 * of_latents and context.output_kind().learned_variance
        channels = self.family.channels(self.model, of_latents, channels, learned)
        latent_layout = functools.partial(self.family.latent_layout, self.model, arguments)
        return Outcome(output, prediction, channels, latent_layout, self.family)

    def _stem(self, plan: Plan) -> Stem:
        if plan not in self._stems:
            modules = self._outermost(plan.edits)
            self._stems[plan] = Stem(self.model, modules, self.family.module_lists)
        return self._stems[plan]

    def _outermost(self, modules: Collection[nn.Module]) -> set[nn.Module]:
        """What is patched for the sake of modules: those, or compiled blocks around them."""
        if self.regions is None:
            return set(modules)
        return set(map(self.regions.outermost, modules))

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
        modules = self._outermost(modules)
        if self.regions is not None:
            modules |= self.regions.modules
        for stem in stems:
            modules |= stem.modules
        return modules

    def _perturbed(
        self,
        plan: Plan,
        decide: Router,
        altered: AlteredPass | None,
        call: ModuleCall,
        number: int,
    ) -> Any:
        """One call of the denoiser with the modules of a plan edited.

        Args:
            plan: The plan.
            decide: What is done with the calls of its modules.
            altered: What else is changed in the pass.
            call: The call.
            number: Which of the plan's calls at this step it is.
        """
        # A compiled first pass must not trace the patches, so they are there only now.
        modules = {*plan.edits, *self._entered(plan)} if self.sealed else ()
        patches = patched(modules, PASS)
        eager = eagerly() if self.sealed else nullcontext()
        states = nullcontext() if self.caches is None else self.caches.of((plan, number))
        with patches, eager, states, holding(PASS.current, decide):
            call.show_to_pre_hooks(self.denoiser)
            return call() if altered is None else altered.made(call)
