r"""The second pass: a denoiser whose prediction is corrected at the active steps.

At an active step the denoiser runs as it is and gives the clean prediction $s$; then the rows that
need it run again with the perturbation in the chosen layers and give $\tilde s$; the corrections
$\delta = \gamma\,(s - \tilde s)$ of all guidances are added up. At other steps nothing but the
denoiser's own pass happens.
"""

from __future__ import annotations

__all__ = ["DenoiserCall", "DenoiserResult", "GuidedDenoiser", "correct"]

import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..denoisers.attention_layer import SelfAttentionLayer, unwrap_denoiser
from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import ImageTokens
from ..denoisers.latent_layout import Places
from ..denoisers.prediction import OutputKind, prediction_of
from ..families import Arguments, family_of
from ..guidance.combine import Correction, total
from ..guidance.perturbation import LayerCall
from ..guidance.plan import NegativeContext, Plan
from ..intercept.attention import AttentionBackendError, ScaledDotProduct, attend_with
from ..intercept.context import holding
from ..intercept.patching import Router, patched
from ..intercept.replay import Stem, stem_candidates
from ..schedule.steps import StepPosition

# What happens inside the denoiser while it runs once.
_current_pass: ContextVar[Router | None] = ContextVar("smoothed_energy_pass", default=None)


def _route_inside(
    module: nn.Module,
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    current = _current_pass.get()
    if current is None:
        return forward(*args, **kwargs)
    return current(module, forward, args, kwargs)


def _is_compiled(denoiser: nn.Module) -> bool:
    """Whether `torch.compile` or `Module.compile` was used on it or on anything inside it."""
    return any(
        unwrap_denoiser(module) is not module or vars(module).get("_compiled_call_impl") is not None
        for module in denoiser.modules()
    )


_eager_lock = threading.Lock()
_eager_stance = ExitStack()
_eager_users = 0


@contextmanager
def _eagerly() -> Iterator[None]:
    """A block in which nothing is compiled.

    The stance belongs to the process, not to the thread: the first block sets it and the last one
    restores it, or blocks that overlap would restore each other's.
    """
    global _eager_users
    with _eager_lock:
        if not _eager_users:
            _eager_stance.enter_context(torch.compiler.set_stance("force_eager"))
        _eager_users += 1
    try:
        yield
    finally:
        with _eager_lock:
            _eager_users -= 1
            if not _eager_users:
                _eager_stance.close()


@dataclass(frozen=True)
class DenoiserCall:
    r"""What one call of the denoiser is to do.

    Args:
        plans: The guidances that are active in this call.
        layout: The meaning of the rows of the batch.
        position: Where the step is in its schedule, for whom it matters.
        known: Differences $s - \tilde s$ that are used again, in place of a second pass.
        kind: What the denoiser predicts.
    """

    plans: tuple[Plan, ...]
    layout: BatchLayout
    position: Callable[[], StepPosition]
    known: Mapping[Plan, Tensor] = field(default_factory=dict)
    kind: OutputKind = field(default_factory=OutputKind)


@dataclass(frozen=True)
class DenoiserResult:
    r"""What one call of the denoiser gave.

    Args:
        output: What the denoiser returned.
        channels: How many channels of it are a prediction; the rest is a learned variance.
        places: How the prediction is laid out; asked only if that matters.
        differences: For each guidance, $s - \tilde s$.
        clean: For each guidance with a second pass, $s$.
        reached: For each guidance with a second pass, the names of the perturbed layers.
    """

    output: Any
    channels: int
    places: Callable[[], Places]
    differences: dict[Plan, Tensor] = field(default_factory=dict)
    clean: dict[Plan, Tensor] = field(default_factory=dict)
    reached: dict[Plan, set[str]] = field(default_factory=dict)

    @property
    def prediction(self) -> Tensor:
        """All rows of the clean prediction."""
        return prediction_of(self.output)

    def similarity(self, plan: Plan) -> float:
        """The cosine of the clean and the perturbed prediction, of the least similar sample."""
        clean = self.clean[plan].float().flatten(1)
        perturbed = clean - self.differences[plan].float().flatten(1)
        return float(torch.nn.functional.cosine_similarity(clean, perturbed).min())


@dataclass
class _CleanPass:
    """Records the stems of all plans, and attention that some of them need."""

    stems: list[Stem]
    recorded: Mapping[nn.Module, str] = field(default_factory=dict)
    received: dict[str, Tensor] = field(default_factory=dict)

    def __call__(
        self,
        module: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        for stem in self.stems:
            stem.before(module)
        name = self.recorded.get(module)
        if name is None:
            output = forward(*args, **kwargs)
        else:
            output = attend_with(self._recording(name), module, forward, args, kwargs, name)
        for stem in self.stems:
            stem.after(module, (*args, *kwargs.values()), output)
        return output

    def _recording(self, name: str) -> ScaledDotProduct:
        def attend(query: Tensor, key: Tensor, value: Tensor, options: Any, native: Any) -> Tensor:
            attended: Tensor = native(query, key, value, **options)
            # Attention of the identity is the map itself, whatever scale and mask are.
            identity = torch.eye(key.shape[-2], dtype=value.dtype, device=value.device)
            weights = native(query, key, identity.expand(*key.shape[:-2], -1, -1), **options)
            self.received[name] = weights.float().mean(dim=-3).sum(dim=-2)
            return attended

        return attend


@dataclass
class _PerturbedPass:
    """Replays the stem of one plan, and perturbs its modules."""

    plan: Plan
    stem: Stem | None
    rows: slice
    batch: int
    image_tokens: Callable[[str, int], ImageTokens]
    outputs: Callable[[str, nn.Module], tuple[str, ...]]
    position: Callable[[], StepPosition]
    reached: set[str] = field(default_factory=set)

    def __call__(
        self,
        module: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if self.stem is not None:
            inputs = (*args, *kwargs.values())
            found, output = self.stem.replay(module, inputs, self.rows, self.batch)
            if found:
                return output
        name = self.plan.modules.get(module)
        if name is None:
            return forward(*args, **kwargs)
        self.reached.add(name)
        perturbation = self.plan.perturbation
        assert perturbation is not None
        call = LayerCall(
            name,
            module,
            forward,
            args,
            kwargs,
            self.image_tokens,
            self.position,
            self.outputs(name, module),
        )
        return perturbation.run(call)


class GuidedDenoiser:
    """A denoiser with the machinery of the second pass around it.

    Args:
        denoiser: A `diffusers` denoiser, possibly wrapped by `torch.compile`.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser = denoiser
        self.model = unwrap_denoiser(denoiser)
        self.family = family_of(denoiser)
        self.compiled = _is_compiled(denoiser)
        self._parameters = tuple(inspect.signature(type(self.model).forward).parameters)[1:]
        self._candidates: dict[Plan, frozenset[nn.Module]] = {}

    def argument(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An argument of the denoiser's forward function, however it was passed; None if not."""
        if name in kwargs:
            return kwargs[name]
        place = self._parameters.index(name) if name in self._parameters else len(args)
        return args[place] if place < len(args) else None

    def take_rows(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], rows: slice, batch: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of some rows of a call."""
        named = dict(zip(self._parameters, args, strict=False))
        taken = self.family.take_rows({**named, **kwargs}, rows, batch)
        return tuple(taken.pop(name) for name in named), taken

    def sample(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The denoiser's input."""
        found: Tensor = self.argument(self.family.sample, args, kwargs)
        return found

    @functools.cached_property
    def _layers(self) -> dict[str, SelfAttentionLayer]:
        return {layer.name: layer for layer in self.family.layers(self.model)}

    def _outputs(self, name: str, module: nn.Module) -> tuple[str, ...]:
        return self.family.outputs(self.model, self._layers[name], module)

    def modules_of(self, plan: Plan) -> set[nn.Module]:
        """The modules that must be patched while `plan` is used."""
        return set(plan.modules) | set(plan.recorded) | self._stem_candidates(plan)

    def named_modules_of(self, plan: Plan) -> dict[str, nn.Module]:
        """The modules of a plan by their names."""
        wanted = {*plan.modules, *plan.recorded}
        return {name: module for name, module in self.model.named_modules() if module in wanted}

    def has_all(self, modules: Mapping[str, nn.Module]) -> bool:
        """Whether modules still have the names that they had."""
        try:
            return all(self.model.get_submodule(name) is modules[name] for name in modules)
        except AttributeError:
            return False

    def _stem_candidates(self, plan: Plan) -> frozenset[nn.Module]:
        if not plan.replay or self.compiled:
            return frozenset()
        if plan not in self._candidates:
            self._candidates[plan] = stem_candidates(self.model, set(plan.modules))
        return self._candidates[plan]

    def run(
        self,
        call: DenoiserCall,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> DenoiserResult:
        """One call of the denoiser, and the second passes for it; nothing is corrected yet.

        The modules of all plans must be patched, unless the denoiser is compiled.

        Args:
            call: What to do.
            forward: The denoiser's own forward function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """
        # Some U-Nets consume the lists they are given (T2I-Adapter's residuals), so the second
        # pass needs its own.
        kept_args, kept_kwargs = _copied(args), _copied(kwargs)
        stems = {
            plan: Stem(candidates, plan.modules)
            for plan in call.plans
            if plan not in call.known and (candidates := self._stem_candidates(plan))
        }
        recorded = {m: n for plan in call.plans for m, n in plan.recorded.items()}
        if recorded and self.compiled:
            raise AttentionBackendError(
                "a guidance that looks at the attention of the first pass can't see into a "
                "compiled denoiser; use one that is not compiled, or another guidance"
            )
        first = _CleanPass(list(stems.values()), recorded)
        if stems or recorded:
            with holding(_current_pass, first):
                output = forward(*args, **kwargs)
        else:
            output = forward(*args, **kwargs)
        prediction = prediction_of(output)
        batch = prediction.shape[0]
        sample = self.sample(kept_args, kept_kwargs)
        argument = Arguments(functools.partial(self.argument, args=kept_args, kwargs=kept_kwargs))

        channels = sample.shape[1]
        learned = call.kind.learned_variance or self.family.learned_variance
        if not (learned and prediction.shape[1] == 2 * channels):
            channels = prediction.shape[1]
        places = functools.partial(self.family.places, self.model, argument)
        result = DenoiserResult(output, channels, places)
        for plan in call.plans:
            if plan in call.known:
                result.differences[plan] = call.known[plan]
                continue
            rows = call.layout.rows(plan.formulation, batch)
            image_tokens = functools.partial(self._image_tokens, argument, rows, batch)
            second = _PerturbedPass(
                plan, stems.pop(plan, None), rows, batch, image_tokens, self._outputs, call.position
            )
            result.clean[plan] = prediction[rows, :channels]
            perturbed = plan.negative(
                NegativeContext(
                    *self.take_rows(kept_args, kept_kwargs, rows, batch),
                    sample[rows],
                    result.clean[plan],
                    functools.partial(self._predict, plan, second, forward),
                    {
                        name: value[_fold(rows, batch, value)]
                        for name, value in first.received.items()
                    },
                    image_tokens,
                    call.position,
                    call.kind.prediction_type,
                    self.family.sample,
                    self.family.tied(argument),
                    self.family.multiple(self.model),
                )
            )
            result.reached[plan] = second.reached | (
                set(plan.recorded.values()) & set(first.received)
            )
            result.differences[plan] = result.clean[plan] - perturbed[:, :channels]
        return result

    def _image_tokens(
        self, argument: Arguments, rows: slice, batch: int, layer: str, count: int
    ) -> ImageTokens:
        found = self.family.tokens(self.model, argument, layer, count)
        return found if isinstance(found.start, int) else replace(found, start=found.start[rows])

    def _predict(
        self,
        plan: Plan,
        second: _PerturbedPass,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        with self._second_pass(plan, second):
            # Lists of arguments may be consumed, and there may be another pass.
            return prediction_of(
                self._perturbed_forward(forward)(*_copied(args), **_copied(kwargs))
            )

    @contextmanager
    def _second_pass(self, plan: Plan, second: _PerturbedPass) -> Iterator[None]:
        # A compiled first pass must not trace the patches, so they are there only now.
        patches: AbstractContextManager[None] = (
            patched(plan.modules, _route_inside) if self.compiled else nullcontext()
        )
        eager = _eagerly() if self.compiled else nullcontext()
        with patches, eager, holding(_current_pass, second):
            yield

    def _perturbed_forward(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        return self.model.forward if self.model is not self.denoiser else forward

    def patches(self, plans: Iterable[Plan]) -> AbstractContextManager[None]:
        """A block in which `run` can be used with `plans`."""
        if self.compiled:
            return nullcontext()
        modules = set().union(*(self.modules_of(plan) for plan in plans)) if plans else set()
        return patched(modules, _route_inside)


def correct(
    prediction: Tensor,
    channels: int,
    scales: Mapping[Plan, float],
    differences: Mapping[Plan, Tensor],
    layout: BatchLayout,
    places: Callable[[], Places],
) -> Tensor:
    r"""A prediction with the corrections of all plans.

    Args:
        prediction: `(B, *)`, clean.
        channels: How many of its channels are corrected; the rest is a learned variance.
        scales: $\gamma$ of each plan.
        differences: $s - \tilde s$ of each plan, `(B / groups, *)`.
        layout: The meaning of the rows.
        places: See `total`.
    """
    delta = total(
        [
            Correction(
                scale * differences[plan],
                plan.combinations,
                layout.predictions(prediction[:, :channels], plan.formulation),
            )
            for plan, scale in scales.items()
        ],
        places,
    )
    if channels < prediction.shape[1]:
        variance = torch.zeros_like(prediction[: len(delta), channels:])
        delta = torch.cat([delta, variance], dim=1)
    return layout.corrected(prediction, delta)


def _fold(rows: slice, batch: int, value: Tensor) -> slice:
    """The same rows of something with more to a row."""
    fold = len(value) // batch
    return slice(rows.start * fold, rows.stop * fold)


def _copied(value: Any) -> Any:
    """New containers, same tensors."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    return value
