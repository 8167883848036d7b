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
from ..guidance.beside import check_apart
from ..guidance.plan import Plan
from ..intercept.compiled import eagerly, is_compiled, is_sealed
from ..intercept.module_call import ModuleCall, Rows, unwrap
from ..intercept.patching import Router, Routers, holding, patched
from ..intercept.regions import Regions
from ..intercept.replay import Recorder, Stem
from .altered import Acting, AlteredPass, check_altered, refuse_hidden, told
from .caches import CacheStates
from .context import StepContext
from .joined import JoinedRows, may_join
from .one_pass import (
    CleanPass,
    FeatureMaps,
    Outcome,
    Pass,
    PassSite,
    PerturbedPrediction,
    check_reached,
)
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
        batch = len(self.sample(kept))
        joins, apart, stems = self._arranged(plans, acting, probing)
        joined = None if joins is None else JoinedRows(joins, layout, batch)
        recorder = Recorder(list(stems.values())) if stems else None
        whole = seen = Rows(0, batch, batch)
        arguments, altered = Arguments(kept.argument), None
        if acting or joined is not None:
            altered = self._altered(kept, plans, acting, joined)
            arguments, seen = Arguments(altered.with_added(kept).argument), altered.rows
            call = altered.around(call)
        altering = [one.plan for one in acting] if acting else []
        features = FeatureMaps(*map(self._entered, [*watching, *plans, *altering]))
        everything = self._site(arguments.in_pass(features.sizes), seen, context)
        clean_pass = Pass(
            everything,
            features,
            watched=probing,
            otherwise=ModuleCall.__call__ if recorder is None else recorder.run,
            altered=altered,
        )
        decide: Router = clean_pass.handle
        if joined is not None and self.regions is not None:
            decide = self._opened(self.regions, joined.plan, decide, has_all_rows=False)
        patched_for = [*watching, *plans, *altering]
        patches = () if self.sealed else self._patched_by(patched_for, stems.values())
        with patched(patches, PASS):
            with holding(PASS.current, decide):
                output = call()
            if plans and self.other_caches is not None:
                # What was empty before has something now.
                self.other_caches.check()
            outcome = self._outcome(kept, output, context)
            seen_by = clean_pass.observed
            outcome.observed.update({plan: seen_by.get(plan, {}) for plan in (*watching, *plans)})
            if altered is not None:
                outcome.reached.update(altered.reached)
            if joined is not None:
                joined.note(outcome, altered, self.take_rows(kept, joined.acting.rows))
                known = self._reachable.setdefault(joined.plan, set())
                check_reached(joined.plan, known, clean_pass.called, outcome.reached[joined.plan])
                own = Arguments(kept.argument).in_pass(features.sizes)  # of passes without its rows
                everything = self._site(own, whole, context)
            clean = CleanPass(
                kept, layout, everything, clean_pass.called, outcome, recorder, stems, acting
            )
            for plan in apart:
                needed = layout.rows(plan.formulation, batch)
                predicted = needed.of(outcome.prediction)[:, : outcome.channels]
                if needs is None or needs(plan, predicted):
                    self._perturb(plan, needed, clean, is_last=plan is apart[-1])
        if recorder is not None:
            recorder.learn()
        return outcome

    def altered_pass(self, acting: Sequence[Acting], rows: Rows) -> AlteredPass:
        """What alterations do in a pass of some rows."""
        return AlteredPass(self.family, acting, rows)

    def tell(self, one: Acting, call: ModuleCall) -> None:
        """Find out what an alteration asks for, before a call is made."""
        told(self.family, one, call, PASS)

    def _opened(
        self, regions: Regions, plan: Plan, decide: Router, *, has_all_rows: bool
    ) -> Router:
        """Who decides about calls, those in blocks that are compiled one by one included."""
        edited = {*plan.edits, *self._entered(plan)}
        return regions.router(edited, PASS, decide, has_all_rows=has_all_rows)

    def _arranged(
        self, plans: Sequence[Plan], acting: Sequence[Acting], probing: Sequence[Plan]
    ) -> tuple[Plan | None, Sequence[Plan], dict[Plan, Stem]]:
        """Whose rows join the clean pass; the other plans, and what their passes take over."""
        stems: dict[Plan, Stem] = {}
        replays = not self.sealed and (self.regions is None or not self.regions.overwrites)
        for plan in plans:
            if plan.joined and may_join(plan, acting, probing):
                return plan, [one for one in plans if one is not plan], {}
            if plan.replay and replays:
                stems[plan] = self._stem(plan)
        return None, plans, stems

    def _site(self, arguments: Arguments, rows: Rows, context: StepContext) -> PassSite:
        return PassSite(self.model, self.family, lambda: self.layers, arguments, rows, context)

    def _perturb(self, plan: Plan, needed: Rows, clean: CleanPass, *, is_last: bool) -> None:
        """Make the negative prediction of a plan for some rows, and note it in the outcome."""
        outcome, before = clean.outcome, clean.site
        whole = plan.rows == "all" or bool(self.related_rows)
        rows = Rows(0, needed.batch, needed.batch) if whole else needed
        altered, seen = None, rows
        if clean.acting:
            altered = self.altered_pass(clean.acting, rows)
            seen = altered.rows
        # A probe's layers entered the clean pass; edited ones enter theirs before they run.
        altering = [one.plan for one in clean.acting] if clean.acting else []
        features = FeatureMaps(*map(self._entered, [plan, *altering]))
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
            decide = self._opened(self.regions, plan, decide, has_all_rows=rows.is_all)
        run = functools.partial(self._perturbed, plan, decide, altered)
        call = self.family.isolated(self.take_rows(clean.call, rows))
        if self.model is not self.denoiser:
            call = call.with_forward(self.model)
        branch = plan.formulation if clean.layout.has_cfg else "conditional"
        negative = PerturbedPrediction(plan, call, site, run, branch, altered)
        negative.clean = rows.of(outcome.prediction)[:, : outcome.channels]
        observed = outcome.observed[plan]
        negative.observed = {layer: rows.of(value) for layer, value in observed.items()}
        if plan.negative is None:
            predicted = negative.predict(negative.call)
            if self.caches is None:
                reachable = self._reachable.setdefault(plan, set())
                check_reached(plan, reachable, clean.called, perturbed_pass.reached)
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
        if any(map(self._hides, probed)):
            refuse_hidden(by_guidance=any(plan.probed for plan in plans))

    def _altered(
        self,
        call: ModuleCall,
        plans: Sequence[Plan],
        acting: Sequence[Acting],
        joined: JoinedRows | None,
    ) -> AlteredPass:
        """What changes a clean pass, once it is known that it may, and what is asked for it."""
        check_apart([*plans, *[one.plan for one in acting]])
        inside = acting if joined is None else (joined.acting, *acting)
        # Blocks that are compiled one by one are opened for rows that join.
        closed = inside if self.sealed else acting
        hidden = any(self._hides(module) for one in closed for module in one.plan.edits)
        arguments = Arguments(call.argument)
        keeps = self.family.is_needed_later(arguments) or self.family.keeps_keys(arguments)
        cached, related = self.caches is not None, bool(self.related_rows)
        check_altered(inside, hidden=hidden, cached=cached, related=related, keeps=keeps)
        for one in inside:
            self.tell(one, call)
        batch = len(self.sample(call))
        return self.altered_pass(inside, Rows(0, batch, batch))

    def _hides(self, module: nn.Module) -> bool:
        """Whether what a module computes in the clean pass is inside of compiled code."""
        return self.sealed or (self.regions is not None and self.regions.covers(module))

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
        self, plan: Plan, decide: Router, altered: AlteredPass | None, call: ModuleCall, number: int
    ) -> Any:
        """One call of the denoiser with the modules of a plan edited, the `number`-th of a step."""
        # A compiled first pass must not trace the patches, so they are there only now.
        modules = {*plan.edits, *self._entered(plan)} if self.sealed else ()
        patches = patched(modules, PASS)
        eager = eagerly() if self.sealed else nullcontext()
        states = nullcontext() if self.caches is None else self.caches.of((plan, number))
        with patches, eager, states, holding(PASS.current, decide):
            call.show_to_pre_hooks(self.denoiser)
            return call() if altered is None else altered.made(call)
