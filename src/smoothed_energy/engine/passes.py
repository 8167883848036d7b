r"""The passes of a denoiser at a guided step, and what they predict.

The denoiser runs as it is and gives the clean prediction $s$; then the rows that need it run again
with some modules edited, or something else makes a negative prediction, and give $\tilde s$. All of
these runs are one kind of pass: what a module does in it is edited, observed, recorded or replayed.
"""

from __future__ import annotations

__all__ = ["PassRunner", "PassSite"]

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import ImageTokens
from ..denoisers.prediction import PredictionKind, prediction_of
from ..families import Arguments, Family, family_of
from ..guidance.plan import Memory, NegativeContext, Plan
from ..intercept.attention import AttentionBackendError
from ..intercept.compiled import eagerly, is_compiled
from ..intercept.module_call import ModuleCall, Rows, unwrap
from ..intercept.patching import Router, Routers, holding, patched
from ..intercept.replay import Recorder, Stem
from ..schedule import StepPosition
from .caches import CacheStates
from .context import StepContext
from .one_pass import FeatureMaps, Outcome, Pass
from .other_caches import OtherCaches

#: Who decides about the calls of a denoiser's modules: the pass that is running.
_PASS = Routers("smoothed_energy_pass")


class PassSite:
    """What an edited or observed layer may ask of its pass; see `LayerSite`.

    Args:
        runner: Runs the passes of the denoiser.
        arguments: The arguments of the denoiser's call, all rows, in the pass.
        rows: The rows of the pass.
        context: The step.
    """

    def __init__(
        self, runner: PassRunner, arguments: Arguments, rows: Rows, context: StepContext
    ) -> None:
        self.runner, self.arguments, self.rows, self.context = runner, arguments, rows, context

    def image_tokens(self, layer: str, count: int) -> ImageTokens:
        """Which of the `count` tokens of a layer are the image's, in the rows of the pass."""
        runner = self.runner
        found = runner.family.tokens(runner.model, self.arguments, layer, count)
        if isinstance(found.start, int):
            return found
        return replace(found, start=found.start[self.rows.start : self.rows.stop])

    def position(self) -> StepPosition:
        """Where the step is in its schedule."""
        return self.context.position()

    def outputs(self, layer: str, module: nn.Module) -> tuple[str, ...]:
        """The names of the inputs that a module returns changed, in the order of its outputs."""
        runner = self.runner
        return runner.family.outputs(runner.model, runner.layers[layer], module)


class PassRunner:
    """Runs the passes of one denoiser.

    Args:
        denoiser: A `diffusers` denoiser, compiled or not.

    Attributes:
        model: The denoiser, not compiled.
        family: Its family.
        compiled: Whether it, or something in it, is compiled.
        other_caches: What may be caches of other packages, as they are when a run begins; None if
            nothing looks like it.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser = denoiser
        self.model = unwrap(denoiser)
        self.family: Family = family_of(denoiser)
        self.compiled = is_compiled(denoiser)
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
        """The latents of a call of the denoiser."""
        found: Tensor = call.argument(self.family.sample)
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

    def run(
        self,
        call: ModuleCall,
        plans: Sequence[Plan],
        layout: BatchLayout,
        context: StepContext,
        watching: Sequence[Plan] = (),
    ) -> Outcome:
        """One call of the denoiser, and the negative predictions of some plans for it.

        Args:
            call: The call.
            plans: The plans.
            layout: The meaning of the rows of its batch.
            context: The step.
            watching: Plans of observers, who probe the clean pass alone.

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
        stems = {} if self.compiled else {plan: self._stem(plan) for plan in plans if plan.replay}
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
        patches = () if self.compiled else self._patched_by([*watching, *plans], stems.values())
        with patched(patches, _PASS):
            with holding(_PASS.current, clean_pass.handle):
                output = call()
            if plans and self.other_caches is not None:
                # What was empty before has something now.
                self.other_caches.check()
            outcome = self._outcome(kept, output, context)
            for plan in (*watching, *plans):
                outcome.observed[plan] = clean_pass.observed.get(plan, {})
            for plan in plans:
                rows = layout.rows(plan.formulation, len(outcome.prediction))
                # A probe's layers entered the clean pass; edited ones enter theirs before they run.
                of_pass = FeatureMaps(self._entered(plan))
                of_pass.sizes |= {name: features.sizes[name] for name in of_pass.sizes}
                site = PassSite(self, arguments.in_pass(of_pass.sizes), rows, context)
                otherwise: Router = ModuleCall.__call__
                if recorder is not None and plan in stems:
                    otherwise = recorder.replay(stems[plan], rows, is_last=plan is plans[-1]).run
                perturbed_pass = Pass(site, of_pass, edited=plan, otherwise=otherwise)
                negative = _Negative(plan, self.take_rows(kept, rows), site, perturbed_pass)
                negative.clean = rows.of(outcome.prediction)[:, : outcome.channels]
                observed = outcome.observed[plan]
                negative.observed = {layer: rows.of(value) for layer, value in observed.items()}
                if plan.negative is None:
                    predicted = negative.predict(negative.call)
                    self._check_reached(plan, clean_pass.called, negative.reached)
                else:
                    predicted = plan.negative(negative)
                outcome.clean[plan] = negative.clean
                outcome.differences[plan] = negative.clean - predicted[:, : outcome.channels]
                outcome.reached[plan] = negative.reached | set(observed)
                outcome.runs[plan] = max(1, negative.passes)
        if recorder is not None:
            recorder.learn()
        return outcome

    def _check(self, call: ModuleCall, plans: Sequence[Plan], probing: Sequence[Plan]) -> None:
        if plans and call.kwargs.get("kv_cache") is not None:
            raise RuntimeError(
                "the denoiser is given a kv_cache, which a perturbed pass would change; "
                "expected a run without one"
            )
        if self.compiled and [plan for plan in plans if plan.probed]:
            raise AttentionBackendError(
                "a guidance that looks at the attention of the first pass can't see into a "
                "compiled denoiser; use one that is not compiled, or another guidance"
            )
        if self.compiled and probing:
            raise AttentionBackendError(
                "the layers of a compiled denoiser can't be looked into; use one that is not "
                "compiled, or look at no layers"
            )

    def _check_reached(self, plan: Plan, called: set[nn.Module], reached: set[str]) -> None:
        """Check that a perturbed pass reached what the clean pass, or an earlier one, reached.

        Raises:
            RuntimeError: If it did not, and no cache of diffusers explains it.
        """
        if self.caches is not None:
            return
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
            self._stems[plan] = Stem(self.model, plan.edits)
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
        for stem in stems:
            modules |= stem.modules
        return modules

    @contextmanager
    def perturbed(self, plan: Plan, number: int) -> Iterator[None]:
        """A block in which the denoiser may run with the modules of a plan edited.

        Args:
            plan: The plan.
            number: Which of its passes at this step it is.
        """
        # A compiled first pass must not trace the patches, so they are there only now.
        modules = {*plan.edits, *self._entered(plan)} if self.compiled else ()
        patches = patched(modules, _PASS)
        eager = eagerly() if self.compiled else nullcontext()
        states = nullcontext() if self.caches is None else self.caches.of((plan, number))
        with patches, eager, states:
            yield


class _Negative(NegativeContext):
    """What the negative prediction of a plan is made from, in one call of a denoiser."""

    def __init__(self, plan: Plan, call: ModuleCall, site: PassSite, perturbed_pass: Pass) -> None:
        runner = site.runner
        self.call = call
        if runner.model is not runner.denoiser:
            self.call = call.with_forward(runner.model)
        self.sample = runner.sample(call)
        self.observed: Mapping[str, Tensor] = {}
        self._plan, self._site, self._pass = plan, site, perturbed_pass
        self.passes = 0

    @property
    def reached(self) -> set[str]:
        """The names of the layers that were edited."""
        return self._pass.reached

    @property
    @override
    def prediction_type(self) -> PredictionKind:
        return self._site.context.output_kind().prediction_type

    @property
    @override
    def memory(self) -> Memory:
        if self._plan.memory is None:
            raise RuntimeError("this plan remembers nothing; expected one with remembers=True")
        return self._plan.memory

    @override
    def predict(self, call: ModuleCall) -> Tensor:
        self.passes += 1
        with (
            self._site.runner.perturbed(self._plan, self.passes),
            holding(_PASS.current, self._pass.handle),
        ):
            # Lists of arguments may be consumed, and there may be another pass.
            call = call.copied()
            call.show_to_pre_hooks(self._site.runner.denoiser)
            return prediction_of(call())

    @override
    def of_sample(self, sample: Tensor) -> Tensor:
        return self.predict(self.call.replace(self._site.runner.family.sample, sample))

    @override
    def image_tokens(self, layer: str, count: int) -> ImageTokens:
        return self._site.image_tokens(layer, count)

    @override
    def position(self) -> StepPosition:
        return self._site.position()

    @property
    @override
    def tied_to_size(self) -> tuple[str, ...]:
        return self._site.runner.family.tied(self._site.arguments)

    @property
    @override
    def multiple(self) -> int:
        return self._site.runner.family.multiple(self._site.runner.model)
