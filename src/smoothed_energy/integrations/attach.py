"""How guidance and observers are attached to whatever can be guided."""

from __future__ import annotations

__all__ = ["Attachment", "attach", "denoisers_of", "observe", "warn_if_it_changes_nothing"]

from typing import Any

from torch import nn

from ..engine.observer import Observer
from ..engine.participant import Participant
from ..engine.summary import GuidanceWarning
from ..guidance.guidance import Guidance
from ..guidance.negative_guidance import LayerGuidance, NegativeGuidance
from ..settings.warning_place import warn_caller
from .attachment import Attachment, Observation, Session
from .own_loop import denoiser_session
from .pipeline import find_denoisers, pipeline_session


def attach(guidance: Guidance, target: Any, *, replay: bool = True) -> Attachment:
    """Attach a guidance to a pipeline or a denoiser; see `Guidance.attach`."""
    warn_if_it_changes_nothing(guidance)
    participant = Participant(guidance, replay)
    for denoiser in denoisers_of(target):
        if isinstance(guidance, NegativeGuidance):
            participant.plan_for(denoiser)  # layers exist, or it says so now
    session = _session_of(target)
    for other in session.attachments:
        if other.guidance == guidance:
            raise RuntimeError(
                f"{guidance!r} is attached to this {session.target_name} already; "
                "detach it first, or raise its scale to guide more"
            )
    attachment = Attachment(participant, session)
    session.add(attachment)
    return attachment


def observe(observer: Observer, target: Any) -> Observation:
    """Let somebody look at the runs of a pipeline, or at a denoiser in one's own loop.

    Args:
        observer: Who looks.
        target: A `diffusers` pipeline, or its denoiser.

    Raises:
        TypeError: If `target` is neither.
    """
    denoisers_of(target)
    return Observation(observer, _session_of(target))


def denoisers_of(target: Any) -> tuple[nn.Module, ...]:
    """The denoisers of a pipeline, or the denoiser itself.

    Raises:
        TypeError: If `target` is neither.
    """
    return (target,) if isinstance(target, nn.Module) else find_denoisers(target)


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
