"""Guidance or observers attached to a pipeline or a denoiser, and taken off again."""

from __future__ import annotations

__all__ = ["Attachment", "Observation", "Session"]

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import Formulation
from ..denoisers.prediction import OutputKind, PredictionType
from ..engine.observer import Observer
from ..engine.participant import Participant
from ..engine.summary import RunSummary
from ..families import forget_found
from ..guidance.beside import check_apart, check_beside
from ..guidance.guidance import Guidance
from ..schedule import StepPosition, Steps
from .loop_step import LoopStep
from .negative_text import refuse_prompt

if TYPE_CHECKING:
    from typing_extensions import Self


class Session(ABC):
    """What is attached to one target.

    Attributes:
        target_name: The name of the target's class, for messages.
        attachments: The guidances that act, in the order in which they were attached.
        participants: The same as the engine knows them.
        observers: Who looks at the runs. It is one list all the time, which runs hold.
    """

    target_name: str

    def __init__(self) -> None:
        self._is_open = False
        self.attachments: list[Attachment] = []
        self.participants: tuple[Participant, ...] = ()
        self.observers: list[Observer] = []

    def add(self, attachment: Attachment) -> None:
        """Let `attachment` act.

        Raises:
            LayerError: If the target has no layers for it.
            RuntimeError: If an equal guidance acts already, or the target can't be guided.
        """
        if attachment.participant.guidance.has_prompt:
            self.check_prompt(attachment.guidance)
        for denoiser in self.denoisers:
            attachment.participant.check(denoiser)
        for other in self.attachments:
            if other.guidance == attachment.guidance:
                raise RuntimeError(
                    f"{other.guidance!r} is attached to this {self.target_name} already; detach it "
                    "first (smoothed_energy.attachments finds it, and detach_all detaches all), or "
                    "raise its scale to guide more"
                )
        if self.attachments:
            check_beside([one.guidance for one in (*self.attachments, attachment)])
            # Of the others, the steps tell whether they act together.
            always = [
                one
                for one in (*self.participants, attachment.participant)
                if getattr(one.guidance, "steps", None) == Steps() and not one.guidance.is_off
            ]
            for denoiser in self.denoisers:
                plans = [one.check(denoiser) for one in always]
                check_apart([plan for plan in plans if plan is not None])
        self._open_first()
        self.attachments.append(attachment)
        self._list_participants()

    def check_prompt(self, guidance: Guidance) -> None:
        """Check that a prompt that a guidance has of its own can be encoded.

        Raises:
            RuntimeError: If nothing can encode it.
        """
        refuse_prompt(guidance)

    def remove(self, attachment: Attachment) -> None:
        """End what `attachment` does."""
        self.attachments.remove(attachment)
        self._list_participants()
        left = [one.participant for one in self.attachments]
        if attachment.participant.guide_unknown and not any(one.guide_unknown for one in left):
            for denoiser in self.denoisers:
                forget_found(denoiser)
        self._close_last()

    def observe(self, observer: Observer) -> None:
        """Let `observer` look."""
        self._open_first()
        self.observers.append(observer)

    def ignore(self, observer: Observer) -> None:
        """Let `observer` look no more."""
        self.observers.remove(observer)
        self._close_last()

    def _open_first(self) -> None:
        if not self._is_open:
            self._open()
            self._is_open = True

    def _close_last(self) -> None:
        if self._is_open and not (self.attachments or self.observers or self.is_running):
            self._close()
            self._is_open = False

    def _list_participants(self) -> None:
        self.participants = tuple([attachment.participant for attachment in self.attachments])

    @property
    def denoisers(self) -> tuple[nn.Module, ...]:
        """The denoisers that guidance is planned for when it is attached."""
        return ()

    @property
    def is_running(self) -> bool:
        """Whether a run lasts that what is attached belongs to; it ends only after the run."""
        return False

    @abstractmethod
    def renewed(self) -> Session:
        """The session of the same target, new if nothing is attached to it now."""

    @abstractmethod
    def conclude(self, attachment: Attachment) -> None:
        """Say what is wrong with a run that only detaching ends.

        Raises:
            NonFiniteError: If what it computed is not finite.
        """

    def set_step(self, step: LoopStep) -> None:
        """Take what the owner of a loop says of its next calls; see `Attachment.step`."""
        raise TypeError(
            "step() is for guidance on a bare denoiser; "
            f"a {self.target_name} knows its steps and rows itself"
        )

    @abstractmethod
    def _open(self) -> None:
        """Put in place what anything attached needs."""

    @abstractmethod
    def _close(self) -> None:
        """Take away what `_open` put in place."""


class _Attached(ABC):
    """Something attached to a pipeline or a denoiser.

    Args:
        session: The session of that.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    @abstractmethod
    def attached(self) -> bool:
        """Whether it still acts."""

    def step(  # noqa: PLR0913 - what a loop may say of a step
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
        next_sigma: float | None = None,
    ) -> None:
        """Tell what is attached to a bare denoiser what the next calls of the denoiser are.

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
            next_sigma: The noise level after this step, needed by CFG++; the loop's step must be
                deterministic and of first order.

        Raises:
            RuntimeError: If this is detached.
            TypeError: If it is attached to a pipeline, which knows all of this itself.
            ValueError: If `index` is not in `[0, count)`, `conditional_rows` is not positive,
                `rescale_scale` is 1 or given without `conditional_rows`, or `branch` is given
                without a `cfg_scale` other than 1, or with `conditional_rows`.
        """
        if not self.attached:
            raise RuntimeError("this guidance is detached, so no step of it can follow")
        self._session.set_step(
            LoopStep(
                StepPosition(index, count, sigma, timestep),
                conditional_rows,
                rescale_scale,
                rescale_scale if cfg_scale is None else cfg_scale,
                OutputKind(prediction_type=prediction_type),
                branch,
                next_sigma,
            )
        )


class Attachment(_Attached):
    """A guidance attached to a pipeline or a denoiser.

    It is a context manager that detaches when it closes, and attaches again when it is entered
    once more.

    Attributes:
        participant: The guidance as the engine knows it.
        last_run: What it did in the last run of the pipeline (None before the first), or in the
            calls of a bare denoiser, since it was attached.
    """

    def __init__(self, participant: Participant, session: Session) -> None:
        super().__init__(session)
        self.participant = participant
        self.last_run: RunSummary | None = None
        session.add(self)

    @property
    def guidance(self) -> Guidance:
        """The guidance."""
        return self.participant.guidance

    @property
    def replay(self) -> bool:
        """Whether its perturbed passes take over what they can from the clean one."""
        return self.participant.replay

    @property
    @override
    def attached(self) -> bool:
        return self in self._session.attachments

    def detach(self) -> None:
        """Take the guidance off; the target is as it was before. Doing it again does nothing.

        Raises:
            NonFiniteError: If a bare denoiser was given or predicted what is not finite since it
                was attached; the guidance is off, still.
        """
        self._end(warns=True)

    def _end(self, *, warns: bool) -> None:
        if not self.attached:
            return
        self._session.remove(self)
        if warns:
            self._session.conclude(self)

    def __enter__(self) -> Self:
        if not self.attached:
            self._attach_again()
        return self

    def _attach_again(self) -> None:
        """Attach to the same target as before, with nothing left of what was then.

        Raises:
            LayerError, RuntimeError: As when it was attached first.
        """
        session = self._session.renewed()
        self.participant, self.last_run = self.participant.anew(), None
        self._session = session
        session.add(self)

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


class Observation(_Attached):
    """An observer attached to a pipeline or a denoiser.

    Args:
        observer: The observer.
        session: The session of its target.
    """

    def __init__(self, observer: Observer, session: Session) -> None:
        super().__init__(session)
        self._observer = observer
        session.observe(observer)

    @property
    @override
    def attached(self) -> bool:
        return self._observer in self._session.observers

    def detach(self) -> None:
        """Look no more; doing it again does nothing."""
        if self.attached:
            self._session.ignore(self._observer)
