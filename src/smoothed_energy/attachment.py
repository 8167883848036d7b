"""Guidance attached to a pipeline or a denoiser, and taken off again without a trace.

A pipeline that guidance is attached to becomes, until it is detached, an instance of a subclass of
its own class that differs in `__call__` alone: it marks the beginning and the end of a run. The
denoiser is patched only while such a run lasts, and only calls that belong to the run are guided,
so another pipeline that shares the denoiser never notices, in whatever thread it runs. (What a
callback of the run calls belongs to the run, unless it is another pipeline with guidance.)
"""

from __future__ import annotations

__all__ = ["Attachment", "GuidanceWarning", "RunSummary", "attach"]

import functools
import inspect
import threading
import warnings
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .caches import CacheStates
from .denoiser import (
    DenoiserCall,
    DenoiserResult,
    GuidedDenoiser,
    OutputKind,
    Plan,
    PredictionType,
    correct,
    repeat_output,
    with_prediction,
)
from .patching import Router, patched
from .pipelines import (
    batch_layout,
    find_denoisers,
    has_learned_variance,
    prediction_type,
    refuse_own_guidance,
    step_position,
)
from .rows import BatchLayout, pair_layout, take_rows
from .steps import StepPosition, as_steps

if TYPE_CHECKING:
    from typing_extensions import Self

    from .attachable import Attachable
    from .guidance import Guidance
    from .interval import GuidanceInterval


class GuidanceWarning(UserWarning):
    """A run that was to be guided was not."""


@dataclass(frozen=True)
class RunSummary:
    """What one attached guidance did in one run.

    Args:
        calls: How often the denoiser was called while the guidance was attached.
        guided_calls: How many of these calls had a second pass of this guidance.
        layers: The names of the layers that were perturbed.
        reused_calls: How many of these calls used the difference of predictions of an earlier one.
    """

    calls: int = 0
    guided_calls: int = 0
    layers: frozenset[str] = frozenset()
    reused_calls: int = 0


class Attachment:
    """A guidance attached to a pipeline or a denoiser.

    It is a context manager that detaches when it closes.

    Attributes:
        guidance: The guidance.
        last_run: What it did in the last finished run of the pipeline (None before the first), or
            since it was attached to a bare denoiser.
    """

    def __init__(self, guidance: Attachable, session: _Session, *, replay: bool) -> None:
        self.guidance = guidance
        self.last_run: RunSummary | None = None
        self._session = session
        self._replay = replay

    @property
    def attached(self) -> bool:
        """Whether the guidance still acts."""
        return self in self._session.attachments

    def detach(self) -> None:
        """Take the guidance off; the target is as it was before. Doing it again does nothing."""
        if self.attached:
            self._session.remove(self)

    def step(
        self,
        index: int,
        count: int,
        *,
        conditional_rows: int | None = None,
        sigma: float | None = None,
        timestep: float | None = None,
        rescale_scale: float | None = None,
        cfg_scale: float | None = None,
        prediction_type: PredictionType | None = None,
    ) -> None:
        """Tell a guidance on a bare denoiser what the next calls of the denoiser are.

        Args:
            index: The number of the denoising step, from 0, where other images begin.
            count: The number of steps.
            conditional_rows: How many rows of the batch, the last ones, are conditional. The rest
                must be as many, or an integer multiple (CFG stacks `[u, c]`), and the correction is
                added to each group, so that $u + g (c - u)$ gains exactly the correction. None:
                every row is guided by itself.
            sigma: The noise level (noise over signal), needed if `steps` selects by it.
            timestep: The timestep, needed if the scale depends on it.
            rescale_scale: CFG's $g$ if the loop rescales by the statistics of the conditional
                rows, which then stay as they are.
            cfg_scale: CFG's $g$, needed by combinations with CFG's result.
            prediction_type: What the denoiser predicts, needed by methods that estimate the clean
                image: `"epsilon"`, `"v_prediction"`, `"sample"` or `"flow"`.

        Raises:
            RuntimeError: If the guidance is detached.
            TypeError: If this guidance is attached to a pipeline, which knows all of this itself.
            ValueError: If `index` is not in `[0, count)`, `conditional_rows` is not positive, or
                `rescale_scale` is 1 or given without `conditional_rows`.
        """
        if not self.attached:
            raise RuntimeError("this guidance is detached, so no step of it can follow")
        position = StepPosition(index, count, sigma, timestep)
        self._session.set_step(
            position, conditional_rows, rescale_scale, cfg_scale, prediction_type
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def __repr__(self) -> str:
        state = "attached to" if self.attached else "detached from"
        return f"<{self.guidance!r} {state} {self._session.target_name}>"


def attach(guidance: Attachable, target: Any, *, replay: bool = True) -> Attachment:
    """Attach a guidance to a pipeline or a denoiser; see `Attachable.attach`."""
    bare = isinstance(target, nn.Module)
    for denoiser in (target,) if bare else find_denoisers(target):
        guidance.select(denoiser)  # layers exist, or it says so now
    session = _denoiser_session(target) if bare else _pipeline_session(target)
    if any(other.guidance == guidance for other in session.attachments):
        raise RuntimeError(
            f"{guidance!r} is attached to this {session.target_name} already; "
            "detach it first, or raise its scale to guide more"
        )
    attachment = Attachment(guidance, session, replay=replay)
    session.add(attachment)
    return attachment


@dataclass(frozen=True)
class _ConditionalCall:
    """A call of the denoiser with the prompt, until the one without it comes."""

    scales: dict[Attachment, float]
    result: DenoiserResult


@dataclass(frozen=True)
class _Kept:
    """A difference of predictions, and the shape of the latents that it was made from."""

    difference: Tensor
    shape: torch.Size


class _Run:
    """The calls of the denoisers of a run, from first to last, and what happened in them.

    A plan belongs to one denoiser, and so does all that is remembered from one call to the next.
    """

    def __init__(self, *denoisers: nn.Module) -> None:
        self.guided = {denoiser: GuidedDenoiser(denoiser) for denoiser in denoisers}
        self._caches: dict[GuidedDenoiser, CacheStates] = {}
        self._plans: dict[tuple[GuidedDenoiser, Attachment], Plan] = {}
        self.calls = 0
        self._calls: Counter[Attachment] = Counter()
        self._guided_calls: Counter[Attachment] = Counter()
        self._reached: defaultdict[Attachment, set[str]] = defaultdict(set)
        # The last difference of predictions, and in how many calls it was used.
        self._kept: dict[Plan, _Kept] = {}
        self._uses: Counter[Plan] = Counter()
        self._reused_calls: Counter[Attachment] = Counter()
        self._similarity: dict[Plan, float] = {}
        # The call with the prompt, where the one without it is a call of its own.
        self._conditional: dict[GuidedDenoiser, _ConditionalCall] = {}
        self._without_cfg: dict[GuidedDenoiser, Any] = {}

    def call(
        self,
        denoiser: nn.Module,
        attachments: Iterable[Attachment],
        position: Callable[[], StepPosition],
        layout: Callable[[int], BatchLayout],
        kind: OutputKind,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """One call of a denoiser, corrected by those attachments that are active.

        `position` and `layout` (of a number of rows) are asked only if the answer matters.
        """
        self.calls += 1
        guided = self.guided[denoiser]
        attachments = tuple(attachments)
        self._calls.update(attachments)
        limits = [item for item in attachments if item.guidance.limits_cfg]
        corrections = [item for item in attachments if item not in limits]
        if all(item.guidance.is_off or _interval(item).keeps_cfg(position()) for item in limits):
            self._guided_calls.update(limits)
            return self._corrected(
                guided, corrections, position, layout, kind, forward, args, kwargs
            )
        batch = len(guided.sample(args, kwargs))
        groups = layout(batch)
        alone = functools.partial(
            self._corrected, guided, corrections, position, lambda rows: BatchLayout(), kind
        )
        if groups.separate:
            if guided in self._without_cfg:
                return self._without_cfg.pop(guided)
            self._without_cfg[guided] = alone(forward, args, kwargs)
            return self._without_cfg[guided]
        rows = groups.rows("conditional", batch)
        with self._caches_of(guided).of("conditional rows"):
            output = alone(
                forward,
                take_rows(args, rows, batch),
                guided.family.take_rows(kwargs, rows, batch),
            )
        return repeat_output(output, groups.groups)

    def _corrected(
        self,
        guided: GuidedDenoiser,
        attachments: Iterable[Attachment],
        position: Callable[[], StepPosition],
        layout: Callable[[int], BatchLayout],
        kind: OutputKind,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """One call of a denoiser, with the corrections of those attachments that are active."""
        earlier = self._conditional.pop(guided, None)
        if earlier is not None:
            scales = earlier.scales
        else:
            found = {item: self._scale(guided, item, position) for item in attachments}
            scales = {item: scale for item, scale in found.items() if scale}
        if not scales:
            return forward(*args, **kwargs)
        plans = {item: self._plan(guided, item) for item in scales}
        by_plan = {plan: scales[item] for item, plan in plans.items()}
        sample = guided.sample(args, kwargs)
        meaning = layout(len(sample))
        if not meaning.separate:
            if earlier is not None:
                raise RuntimeError(
                    f"the {type(guided.denoiser).__name__} was called with a prompt, and the call "
                    "without one, which was to be guided with it, did not come"
                )
            result = self._predicted(guided, plans, meaning, position, kind, forward, args, kwargs)
            corrected = correct(
                result.prediction, result.channels, by_plan, result.differences, meaning
            )
            return with_prediction(result.output, corrected)

        branch = "conditional" if earlier is None else "unconditional"
        of_branch = {item: plan for item, plan in plans.items() if plan.formulation == branch}
        result = self._predicted(
            guided, of_branch, BatchLayout(), position, kind, forward, args, kwargs
        )
        if earlier is None:
            self._conditional[guided] = _ConditionalCall(scales, result)
            return result.output
        # What a batch [u, c] would give: only u is corrected, so this works once c is spent, too.
        predictions = torch.cat([result.prediction, earlier.result.prediction])
        differences = {**earlier.result.differences, **result.differences}
        pair = pair_layout(meaning.cfg_scale)
        corrected = correct(predictions, result.channels, by_plan, differences, pair)
        return with_prediction(result.output, corrected[: len(result.prediction)])

    def _plan(self, guided: GuidedDenoiser, item: Attachment) -> Plan:
        caches = self._caches_of(guided)
        if (guided, item) not in self._plans:
            plan = _correction(item).plan(guided.denoiser, replay=item._replay)
            self._plans[guided, item] = caches.apart(plan)
        return self._plans[guided, item]

    def _caches_of(self, guided: GuidedDenoiser) -> CacheStates:
        if guided not in self._caches:
            self._caches[guided] = CacheStates(guided.model)
        self._caches[guided].check()
        return self._caches[guided]

    def _predicted(
        self,
        guided: GuidedDenoiser,
        plans: Mapping[Attachment, Plan],
        layout: BatchLayout,
        position: Callable[[], StepPosition],
        kind: OutputKind,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> DenoiserResult:
        """One call of a denoiser, and the second passes of these plans."""
        sample = guided.sample(args, kwargs)
        shapes = {
            plan: sample[layout.rows(plan.formulation, len(sample))].shape
            for plan in plans.values()
        }
        known = {
            plan: self._kept[plan].difference
            for item, plan in plans.items()
            if self._is_kept(item, plan, shapes[plan])
        }
        call = DenoiserCall(tuple(plans.values()), layout, position, known, kind)
        with guided.patches(plan for plan in call.plans if plan not in call.known):
            result = guided.run(call, forward, args, kwargs)
        for item, plan in plans.items():
            if plan in call.known:
                self._uses[plan] += 1
                self._reused_calls[item] += 1
                continue
            self._guided_calls[item] += 1
            self._reached[item] |= result.reached[plan]
            if _correction(item).every > 1:
                self._kept[plan] = _Kept(result.differences[plan], shapes[plan])
                self._uses[plan] = 1
            if as_steps(_correction(item).steps).needs_similarity:
                highest = self._similarity.get(plan, -1.0)
                self._similarity[plan] = max(highest, result.similarity(plan))
        return result

    def _scale(
        self, guided: GuidedDenoiser, item: Attachment, position: Callable[[], StepPosition]
    ) -> float:
        """The scale of this step, 0 if it is not guided."""
        guidance = _correction(item)
        if guidance.is_off:
            return 0.0
        # Guidance that is alike at all steps works with schedules that can't tell where they are.
        if guidance.is_uniform and isinstance(guidance.scale, float):
            return guidance.scale
        here = position()
        plan = self._plans.get((guided, item))
        if plan in self._similarity:
            here = replace(here, similarity=self._similarity[plan])
        return guidance.scale_at(here)

    def _is_kept(self, item: Attachment, plan: Plan, shape: torch.Size) -> bool:
        """Whether the last difference of predictions is used again for rows of this shape."""
        kept = self._kept.get(plan)
        if kept is None or self._uses[plan] >= _correction(item).every:
            return False
        # A callback may have changed the batch, by turning CFG off for instance.
        return kept.shape == shape

    def begin(self) -> None:
        """Forget what earlier steps of the same calls were like: other images begin."""
        self._kept.clear()
        self._uses.clear()
        self._similarity.clear()
        self._conditional.clear()
        self._without_cfg.clear()
        for caches in self._caches.values():
            caches.forget()

    def summary(self, attachment: Attachment) -> RunSummary:
        """What `attachment` did so far."""
        return RunSummary(
            self._calls[attachment],
            self._guided_calls[attachment],
            frozenset(self._reached[attachment]),
            self._reused_calls[attachment],
        )


def _correction(attachment: Attachment) -> Guidance:
    """The guidance of an attachment that adds a correction."""
    return cast("Guidance", attachment.guidance)


def _interval(attachment: Attachment) -> GuidanceInterval:
    """The interval of an attachment that limits CFG."""
    return cast("GuidanceInterval", attachment.guidance)


class _Session(ABC):
    """The attachments of one target."""

    target_name: str

    def __init__(self) -> None:
        self.attachments: list[Attachment] = []

    def add(self, attachment: Attachment) -> None:
        """Let `attachment` act."""
        if not self.attachments:
            self._open()
        self.attachments.append(attachment)

    def remove(self, attachment: Attachment) -> None:
        """End what `attachment` does."""
        self.attachments.remove(attachment)
        if not self.attachments:
            self._close()

    def set_step(
        self,
        position: StepPosition,
        conditional_rows: int | None,
        rescale_scale: float | None,
        cfg_scale: float | None,
        prediction_type: PredictionType | None,
    ) -> None:
        """See `Attachment.step`."""
        raise TypeError(
            "step() is for guidance on a bare denoiser; "
            f"a {self.target_name} knows its steps and rows itself"
        )

    @abstractmethod
    def _open(self) -> None:
        """Put in place what the first attachment needs."""

    @abstractmethod
    def _close(self) -> None:
        """Take away what `_open` put in place."""


# The run or session that a call of a patched denoiser belongs to: that of the pipeline that is
# running in this thread, or that of the denoiser itself.
_pipeline_run: ContextVar[tuple[tuple[nn.Module, ...], Router] | None] = ContextVar(
    "smoothed_energy_pipeline_run", default=None
)
_denoiser_sessions: WeakKeyDictionary[nn.Module, _DenoiserSession] = WeakKeyDictionary()


def _route_denoiser(
    module: nn.Module,
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    current = _pipeline_run.get()
    if current is not None and module in current[0]:
        return current[1](module, forward, args, kwargs)
    session = _denoiser_sessions.get(module)
    if session is not None:
        return session.call(forward, args, kwargs)
    return forward(*args, **kwargs)


class _PipelineSession(_Session):
    """Guidance on a pipeline: it acts in the runs of this one pipeline."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.target_name = type(pipeline).__name__
        self._running = threading.Lock()

    def _open(self) -> None:
        vars(self.pipeline)[_SESSION] = self
        object.__setattr__(
            self.pipeline, "__class__", _marking_runs(_unmarked(type(self.pipeline)))
        )

    def _close(self) -> None:
        object.__setattr__(self.pipeline, "__class__", _unmarked(type(self.pipeline)))
        del vars(self.pipeline)[_SESSION]

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of the pipeline has no guidance."""

    @contextmanager
    def run(self, arguments: Mapping[str, Any]) -> Iterator[None]:
        """One call of the pipeline with these arguments."""
        refuse_own_guidance(self.pipeline, arguments)
        if not self._running.acquire(blocking=False):
            raise RuntimeError(
                f"this {self.target_name} is generating already; a pipeline's scheduler holds the "
                "state of one run, so use one pipeline a thread (they may share the denoiser)"
            )
        try:
            denoisers = find_denoisers(self.pipeline)
            for denoiser in denoisers:
                if denoiser in _denoiser_sessions:
                    raise RuntimeError(
                        f"the {type(denoiser).__name__} of this {self.target_name} has guidance of "
                        "its own attached; attach to the pipeline or to the denoiser, not to both"
                    )
            run = _Run(*denoisers)
            handler = functools.partial(self._call, run, arguments)
            with patched(denoisers, _route_denoiser), _set(_pipeline_run, (denoisers, handler)):
                yield
        finally:
            self._running.release()
        attachments = tuple(self.attachments)
        for attachment in attachments:
            attachment.last_run = run.summary(attachment)
        if attachments and not run.calls:
            warnings.warn(
                f"the {type(denoisers[0]).__name__} was not called, or its forward function was "
                "replaced, in this run, so the result is unguided",
                GuidanceWarning,
                stacklevel=4,
            )
        for attachment in attachments:
            _warn_if_idle(attachment)

    def _call(
        self,
        run: _Run,
        arguments: Mapping[str, Any],
        denoiser: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        pipeline = self.pipeline

        @functools.cache
        def position() -> StepPosition:
            timestep = run.guided[denoiser].argument("timestep", args, kwargs)
            return step_position(pipeline, denoiser, timestep)

        return run.call(
            denoiser,
            self.attachments,
            position,
            lambda rows: batch_layout(pipeline, denoiser, arguments, position),
            OutputKind(has_learned_variance(pipeline), prediction_type(pipeline, denoiser)),
            forward,
            args,
            kwargs,
        )


_SESSION = "_smoothed_energy_session"
_ORIGINAL = "_smoothed_energy_original"


def _existing_session(pipeline: Any) -> _PipelineSession | None:
    session = vars(pipeline).get(_SESSION)
    # A copy of a pipeline carries the attribute, but the attachments are not its own.
    if isinstance(session, _PipelineSession) and session.pipeline is pipeline:
        return session
    return None


def _pipeline_session(pipeline: Any) -> _PipelineSession:
    return _existing_session(pipeline) or _PipelineSession(pipeline)


def _unmarked(cls: type) -> type:
    """The pipeline's own class, also of a class that `_marking_runs` made (copies have it, too)."""
    original: type = vars(cls).get(_ORIGINAL, cls)
    return original


def _marking_runs(cls: type) -> type:
    """A subclass of a pipeline's class, of the same name, whose calls are runs of its session."""
    original = cls.__call__
    signature = inspect.signature(original)

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        session = _existing_session(self)
        if session is None:
            return original(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        with session.run(bound.arguments):
            return original(self, *args, **kwargs)

    # Saving writes the class's name, and other pipelines are built by it.
    same = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(cls.__name__, (cls,), {"__call__": call, _ORIGINAL: cls, **same})


def _warn_if_idle(attachment: Attachment) -> None:
    if attachment.guidance.limits_cfg:
        return
    guidance, done = _correction(attachment), attachment.last_run
    if guidance.is_off or done is None or not done.calls:
        return
    if not done.guided_calls:
        warnings.warn(
            f"none of the {done.calls} denoising steps of this run was in "
            f"steps={str(guidance.steps)!r}, so the result is unguided",
            GuidanceWarning,
            stacklevel=5,
        )
    elif not done.layers and hasattr(guidance, "layers"):
        warnings.warn(
            f"no layer of layers={guidance.layers!r} was reached in "
            f"{done.guided_calls} guided steps, so the result is unguided",
            GuidanceWarning,
            stacklevel=5,
        )


class _DenoiserSession(_Session):
    """Guidance on a bare denoiser: it acts in every call, as its owner's loop describes it."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.target_name = type(denoiser).__name__
        self._run = _Run(denoiser)
        self._patches = ExitStack()
        self._position: StepPosition | None = None
        self._conditional_rows: int | None = None
        self._rescale_scale: float | None = None
        self._cfg_scale: float | None = None
        self._kind = OutputKind()

    def _open(self) -> None:
        self._patches.enter_context(patched([self.denoiser], _route_denoiser))
        _denoiser_sessions[self.denoiser] = self

    def _close(self) -> None:
        del _denoiser_sessions[self.denoiser]
        self._patches.close()

    def set_step(
        self,
        position: StepPosition,
        conditional_rows: int | None,
        rescale_scale: float | None,
        cfg_scale: float | None,
        prediction_type: PredictionType | None,
    ) -> None:
        """See `Attachment.step`."""
        if conditional_rows is not None and conditional_rows < 1:
            raise ValueError(
                f"conditional_rows={conditional_rows!r} is not a number of rows; expected 1 or "
                "more, or None if all rows are guided by themselves"
            )
        if rescale_scale is not None and (conditional_rows is None or rescale_scale == 1):
            raise ValueError(
                f"rescale_scale={rescale_scale!r} with conditional_rows={conditional_rows!r}: "
                "expected CFG's scale, not 1, and the number of conditional rows; without CFG "
                "leave it out"
            )
        if position.index == 0:
            self._run.begin()
        self._position = position
        self._conditional_rows = conditional_rows
        self._rescale_scale = rescale_scale
        self._kind = OutputKind(prediction_type=prediction_type)
        self._cfg_scale = rescale_scale if cfg_scale is None else cfg_scale

    def call(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """One call of the denoiser by whoever calls it."""
        output = self._run.call(
            self.denoiser,
            self.attachments,
            self._here,
            self._layout,
            self._kind,
            forward,
            args,
            kwargs,
        )
        for attachment in self.attachments:
            attachment.last_run = self._run.summary(attachment)
        return output

    def _here(self) -> StepPosition:
        if self._position is None:
            raise RuntimeError(
                "guidance on a bare denoiser can't know the denoising step; "
                'call step(index, count) of the attachment before the denoiser, or use steps="all"'
            )
        return self._position

    def _layout(self, rows: int) -> BatchLayout:
        size = self._conditional_rows
        if size is None:
            return BatchLayout()
        if rows % size:
            raise ValueError(
                f"conditional_rows={size} does not divide the batch of {rows} rows; expected the "
                "last rows to be conditional, and as many, or a multiple, to be unconditional"
            )
        groups = rows // size
        if groups == 1:
            return BatchLayout()
        return BatchLayout(
            groups,
            conditional=groups - 1,
            rescale_scale=self._rescale_scale,
            cfg_scale=self._cfg_scale,
        )


def _denoiser_session(denoiser: nn.Module) -> _DenoiserSession:
    return _denoiser_sessions.get(denoiser) or _DenoiserSession(denoiser)


@contextmanager
def _set(variable: ContextVar[Any], value: object) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
