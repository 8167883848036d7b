"""How guidance and observers are attached to whatever can be guided."""

from __future__ import annotations

__all__ = [
    "Attachment",
    "attach",
    "attachments",
    "denoisers_of",
    "detach_all",
    "observe",
    "observed_denoisers",
    "warn_if_it_changes_nothing",
]

from contextlib import ExitStack
from typing import Any

from torch import nn

from ..denoisers.cfg_batch import RowChoice
from ..engine.observer import Observer
from ..engine.participant import Participant
from ..engine.summary import GuidanceWarning
from ..guidance.guidance import Guidance
from ..guidance.negative_guidance import LayerGuidance
from ..settings.warning_place import warn_caller
from .attachment import Attachment, Observation, Session
from .own_loop import denoiser_session, existing_denoiser_session
from .pipeline import existing_pipeline_session, find_denoisers, pipeline_session
from .refused import is_modular


def attach(
    guidance: Guidance,
    target: Any,
    *,
    replay: bool = True,
    rows: RowChoice = "needed",
    guide_unknown: bool = False,
    joined: bool = False,
) -> Attachment:
    """Attach a guidance to a pipeline or a denoiser; see `Guidance.attach`."""
    warn_if_it_changes_nothing(guidance)
    denoisers_of(target)
    participant = Participant(guidance, replay, rows, guide_unknown, joined)
    return Attachment(participant, _session_of(target))


def attachments(target: Any) -> tuple[Attachment, ...]:
    """The guidances that are attached to a pipeline or a denoiser, in the order of attaching.

    Those that are attached to the denoisers of a pipeline by themselves come after its own.

    Args:
        target: A `diffusers` pipeline, or a denoiser.

    Raises:
        TypeError: If `target` is neither.

    Example:
        >>> SmoothedEnergyGuidance().attach(pipe)  # the attachment is dropped, and guides on
        >>> for attachment in smoothed_energy.attachments(pipe):
        ...     attachment.detach()
    """
    sessions: list[Session | None] = [existing_denoiser_session(d) for d in denoisers_of(target)]
    if not isinstance(target, nn.Module):
        sessions.insert(0, existing_pipeline_session(target))
    return tuple([item for session in sessions if session for item in session.attachments])


def detach_all(target: Any) -> None:
    """Detach all `attachments` of a pipeline or a denoiser.

    Args:
        target: A `diffusers` pipeline, or a denoiser.

    Raises:
        TypeError: If `target` is neither.
    """
    with ExitStack() as stack:  # all of them, whatever one of them says when it is detached
        for attachment in reversed(attachments(target)):
            stack.callback(attachment.detach)


def observe(observer: Observer, target: Any) -> Observation:
    """Let somebody look at the runs of a pipeline or guider, or at a denoiser in one's own loop.

    Args:
        observer: Who looks.
        target: A `diffusers` pipeline, its denoiser, or a `SmoothedEnergyGuider`; a pipeline of
            Modular Diffusers stands for its guider.

    Raises:
        TypeError: If `target` is none of these.
    """
    guider = _guider_of(target)
    if guider is not None:
        return Observation(observer, guider.session)
    denoisers_of(target)
    return Observation(observer, _session_of(target))


def observed_denoisers(target: Any) -> tuple[nn.Module, ...]:
    """The denoisers that `observe` would look at, as far as they are known before a run.

    Raises:
        TypeError: If `target` can't be observed.
    """
    return denoisers_of(target) if _guider_of(target) is None else ()


def denoisers_of(target: Any) -> tuple[nn.Module, ...]:
    """The denoisers of a pipeline, or the denoiser itself.

    Raises:
        TypeError: If `target` is neither.
    """
    return (target,) if isinstance(target, nn.Module) else find_denoisers(target)


def _guider_of(target: Any) -> Any:
    """The guider of this package that a target is or has; None if that is no question.

    Raises:
        TypeError: If a pipeline of Modular Diffusers has another guider.
    """
    if isinstance(getattr(target, "session", None), Session):
        return target
    if not is_modular(type(target)) or "guider" not in target._component_specs:
        return None
    guider = getattr(target, "guider", None)
    if isinstance(getattr(guider, "session", None), Session):
        return guider
    raise TypeError(
        f"this {type(target).__name__} has {type(guider).__name__} as its guider, whose steps "
        "can't be looked at; expected SmoothedEnergyGuider"
    )


def _session_of(target: Any) -> Session:
    if isinstance(target, nn.Module):
        return denoiser_session(target)
    return pipeline_session(target)


def warn_if_it_changes_nothing(guidance: Guidance) -> None:
    """Warn of a perturbation that is none, a blur of one token for instance, unless it is off."""
    if (
        isinstance(guidance, LayerGuidance)
        and guidance.perturbation.is_identity
        and guidance.scale != 0
    ):
        warn_caller(
            f"{guidance!r} changes nothing, since its perturbation is none; expected other "
            "settings, or scale=0 to turn it off",
            GuidanceWarning,
        )
