"""Guidance attached to a pipeline or a denoiser, and taken off again without a trace.

A pipeline that guidance is attached to becomes, until it is detached, an instance of a subclass of
its own class that differs in `__call__` alone: it marks the beginning and the end of a run. The
denoiser is patched only while such a run lasts, and only calls that belong to the run are guided,
so another pipeline that shares the denoiser never notices, in whatever thread it runs. (What a
step's callback calls does not belong to the run.)
"""

from __future__ import annotations

__all__ = ["Attachment", "DenoiserSession", "attach"]

import functools
import inspect
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, get_args

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import nn

from .checks import check_choice, check_count
from .denoiser import OutputKind, PredictionType
from .idle import GuidanceWarning, warn_if_idle, warn_if_it_changes_nothing
from .patching import patched
from .pipelines import (
    batch_layout,
    find_denoisers,
    has_learned_variance,
    prediction_type,
    refuse_own_guidance,
    step_position,
)
from .routing import denoiser_sessions, pipeline_run, route_denoiser
from .rows import BatchLayout, Formulation
from .run import Run, RunSummary
from .steps import StepPosition

if TYPE_CHECKING:
    from typing_extensions import Self

    from .attachable import Attachable


class Attachment:
    """A guidance attached to a pipeline or a denoiser.

    It is a context manager that detaches when it closes.

    Attributes:
        guidance: The guidance.
        last_run: What it did in the last finished run of the pipeline (None before the first), or
            since it was attached to a bare denoiser.
        replay: Whether its second passes take over what they can from the first.
    """

    def __init__(self, guidance: Attachable, session: _Session, *, replay: bool) -> None:
        self.guidance = guidance
        self.last_run: RunSummary | None = None
        self._session = session
        self.replay = replay

    @property
    def attached(self) -> bool:
        """Whether the guidance still acts."""
        return self in self._session.attachments

    def detach(self) -> None:
        """Take the guidance off; the target is as it was before. Doing it again does nothing."""
        self._end(warns=True)

    def _end(self, *, warns: bool) -> None:
        if not self.attached:
            return
        self._session.remove(self)
        if warns:
            self._session.warn_if_idle(self)

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
        branch: Formulation | None = None,
    ) -> None:
        """Tell a guidance on a bare denoiser what the next calls of the denoiser are.

        Args:
            index: The number of the denoising step, from 0, where other images begin.
            count: The number of steps.
            conditional_rows: How many rows of the batch, the last ones, are conditional. The rest
                must be as many, or an integer multiple (CFG stacks `[u, c]`), and the correction is
                added to each group, so that $u + g (c - u)$ gains exactly the correction. None:
                every row is guided by itself.
            sigma: The noise level (noise over signal), needed if `steps` selects by it, and by
                methods that estimate the clean image.
            timestep: The timestep, needed if the scale depends on it (PAG's `adaptive_scale`).
            rescale_scale: CFG's $g$ if the loop rescales by the statistics of the conditional
                rows, which then stay as they are.
            cfg_scale: CFG's $g$, needed by combinations with CFG's result.
            prediction_type: What the denoiser predicts, needed by methods that estimate the clean
                image: `"epsilon"`, `"v_prediction"`, `"sample"` or `"flow"`.
            branch: For loops that call the denoiser first with the prompt and then without it: say
                `"conditional"` before the one call and `"unconditional"` before the other, both
                times with `cfg_scale`. The correction enters the second call, so that
                $u + g (c - u)$ gains exactly the correction.

        Raises:
            RuntimeError: If the guidance is detached.
            TypeError: If this guidance is attached to a pipeline, which knows all of this itself.
            ValueError: If `index` is not in `[0, count)`, `conditional_rows` is not positive,
                `rescale_scale` is 1 or given without `conditional_rows`, or `branch` is given
                without a `cfg_scale` other than 1, or with `conditional_rows`.
        """
        if not self.attached:
            raise RuntimeError("this guidance is detached, so no step of it can follow")
        self._session.set_step(
            _Step(
                StepPosition(index, count, sigma, timestep),
                conditional_rows,
                rescale_scale,
                rescale_scale if cfg_scale is None else cfg_scale,
                OutputKind(prediction_type=prediction_type),
                branch,
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(warns=kind is None)

    def __repr__(self) -> str:
        state = "attached to" if self.attached else "detached from"
        return f"<{self.guidance!r} {state} {self._session.target_name}>"


def attach(guidance: Attachable, target: Any, *, replay: bool = True) -> Attachment:
    """Attach a guidance to a pipeline or a denoiser; see `Attachable.attach`."""
    warn_if_it_changes_nothing(guidance)
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
class _Step:
    """What the owner of a loop says of a step; see `Attachment.step`."""

    position: StepPosition
    conditional_rows: int | None
    rescale_scale: float | None
    cfg_scale: float | None
    kind: OutputKind
    branch: Formulation | None

    def __post_init__(self) -> None:
        size, rescale_scale = self.conditional_rows, self.rescale_scale
        if size is not None:
            object.__setattr__(self, "conditional_rows", check_count("conditional_rows", size))
        if rescale_scale is not None and (size is None or rescale_scale == 1):
            raise ValueError(
                f"rescale_scale={rescale_scale!r} with conditional_rows={size!r}: expected CFG's "
                "scale, not 1, and the number of conditional rows; without CFG leave it out"
            )
        if self.branch is None:
            return
        check_choice("branch", self.branch, get_args(Formulation))
        if size is not None or self.cfg_scale is None or self.cfg_scale == 1:
            raise ValueError(
                f"branch={self.branch!r} with cfg_scale={self.cfg_scale!r} and "
                f"conditional_rows={size!r}: expected CFG's scale, not 1, and no number of rows, "
                "since all of them are of one branch; without CFG leave branch out"
            )

    def layout(self, rows: int) -> BatchLayout:
        """The meaning of the rows of a batch."""
        if self.branch is not None:
            return BatchLayout(separate=True, cfg_scale=self.cfg_scale)
        size = self.conditional_rows
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
            rescale_scale=self.rescale_scale,
            cfg_scale=self.cfg_scale,
        )


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

    @abstractmethod
    def warn_if_idle(self, attachment: Attachment) -> None:
        """Warn if a run that only detaching ends was not guided."""

    def set_step(self, step: _Step) -> None:
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

    def warn_if_idle(self, attachment: Attachment) -> None:
        """See `_Session.warn_if_idle`; every run of a pipeline has its own end."""

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
                if denoiser in denoiser_sessions:
                    raise RuntimeError(
                        f"the {type(denoiser).__name__} of this {self.target_name} has guidance of "
                        "its own attached; attach to the pipeline or to the denoiser, not to both"
                    )
            run = Run(*denoisers)
            handler = functools.partial(self._call, run, arguments)
            with patched(denoisers, route_denoiser), _set(pipeline_run, (denoisers, handler)):
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
            warn_if_idle(attachment.guidance, attachment.last_run)

    def _call(
        self,
        run: Run,
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


# Pipelines look at the class of these, so they stay what they are.
_CALLBACKS_OF_DIFFUSERS = (PipelineCallback, MultiPipelineCallbacks)
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
            # Older pipelines find `callback` among their other keyword arguments.
            for given in (bound.arguments, bound.arguments.get("kwargs") or {}):
                for name in ("callback_on_step_end", "callback"):
                    callback = given.get(name)
                    if callable(callback) and not isinstance(callback, _CALLBACKS_OF_DIFFUSERS):
                        given[name] = _outside_of_run(callback)
            return original(*bound.args, **bound.kwargs)

    # Saving writes the class's name, and other pipelines are built by it.
    same = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(cls.__name__, (cls,), {"__call__": call, _ORIGINAL: cls, **same})


def _outside_of_run(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A callback, which may generate with the same denoiser, as no part of the run."""

    @functools.wraps(callback)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _set(pipeline_run, None):
            return callback(*args, **kwargs)

    return call


class DenoiserSession(_Session):
    """Guidance on a bare denoiser: it acts in every call, as its owner's loop describes it."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.target_name = type(denoiser).__name__
        self._run = Run(denoiser)
        self._patches = ExitStack()
        self._step: _Step | None = None
        self._warned = False

    def _open(self) -> None:
        self._patches.enter_context(patched([self.denoiser], route_denoiser))
        denoiser_sessions[self.denoiser] = self

    def _close(self) -> None:
        del denoiser_sessions[self.denoiser]
        self._patches.close()

    def warn_if_idle(self, attachment: Attachment) -> None:
        """See `_Session.warn_if_idle`."""
        warn_if_idle(attachment.guidance, attachment.last_run)

    def set_step(self, step: _Step) -> None:
        """See `Attachment.step`."""
        if step.branch == "conditional":
            self._run.skip_unconditional()
        if step.position.index == 0 and step.branch != "unconditional":
            self._run.begin()
        self._step = step

    def call(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """One call of the denoiser by whoever calls it."""
        self._run.find_layers_again()
        if self._step is None:
            self._warn_of_rows(len(self._run.guided[self.denoiser].sample(args, kwargs)))
        elif self._step.branch is not None:
            self._check_branch(self._step.branch)
        output = self._run.call(
            self.denoiser,
            self.attachments,
            self._here,
            self._layout,
            OutputKind() if self._step is None else self._step.kind,
            forward,
            args,
            kwargs,
        )
        for attachment in self.attachments:
            attachment.last_run = self._run.summary(attachment)
        return output

    def _warn_of_rows(self, rows: int) -> None:
        # A batch [u, c] of a pipeline looks the same, and would be guided wrongly.
        guided = (item.guidance for item in self.attachments if not item.guidance.limits_cfg)
        if rows == 1 or self._warned or all(guidance.is_off for guidance in guided):
            return
        self._warned = True
        warnings.warn(
            f"each of the {rows} rows of this batch is guided by itself, since nothing says what "
            "they are; under classifier-free guidance attach to the pipeline, or call "
            "step(index, count, conditional_rows=...) of the attachment before the denoiser",
            GuidanceWarning,
            stacklevel=8,
        )

    def _check_branch(self, branch: Formulation) -> None:
        waiting = self._run.waits_for_unconditional(self.denoiser)
        if branch == "conditional" and waiting:
            raise RuntimeError(
                "the denoiser was called with the prompt before; expected the call without the "
                'prompt next, after step(..., branch="unconditional")'
            )
        guides = self._run.guides(self.denoiser, self.attachments, self._here)
        if branch == "unconditional" and not waiting and guides:
            raise RuntimeError(
                "the denoiser is called without the prompt; expected the call with the prompt "
                'before it, after step(..., branch="conditional")'
            )

    def _here(self) -> StepPosition:
        if self._step is None:
            raise RuntimeError(
                "guidance on a bare denoiser can't know the denoising step; call "
                "step(index, count) of the attachment before the denoiser, or use a guidance that "
                'is alike at all steps (steps="all", and nothing else that changes with time)'
            )
        return self._step.position

    def _layout(self, rows: int) -> BatchLayout:
        return BatchLayout() if self._step is None else self._step.layout(rows)


def _denoiser_session(denoiser: nn.Module) -> DenoiserSession:
    return denoiser_sessions.get(denoiser) or DenoiserSession(denoiser)


@contextmanager
def _set(variable: ContextVar[Any], value: object) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
