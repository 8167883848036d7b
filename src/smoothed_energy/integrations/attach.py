"""Attaching guidance to whatever can be guided."""

from __future__ import annotations

__all__ = ["Attachment", "attach"]

from typing import Any

from torch import nn

from ..engine.summary import warn_if_it_changes_nothing
from ..guidance.guidance import Guidance
from .attachment import Attachment, Session
from .own_loop import denoiser_session
from .pipeline import pipeline_session
from .pipeline_facts import find_denoisers


def attach(guidance: Guidance, target: Any, *, replay: bool = True) -> Attachment:
    """Attach a guidance to a pipeline or a denoiser; see `Guidance.attach`."""
    warn_if_it_changes_nothing(guidance)
    bare = isinstance(target, nn.Module)
    for denoiser in (target,) if bare else find_denoisers(target):
        guidance.select(denoiser)  # layers exist, or it says so now
    session: Session = denoiser_session(target) if bare else pipeline_session(target)
    for other in session.attachments:
        if other.guidance == guidance:
            raise RuntimeError(
                f"{guidance!r} is attached to this {session.target_name} already; "
                "detach it first, or raise its scale to guide more"
            )
    attachment = Attachment(guidance, session, replay=replay)
    session.add(attachment)
    return attachment
