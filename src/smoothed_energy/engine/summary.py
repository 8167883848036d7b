"""What guidance did in a run, and warnings of guidance that did nothing."""

from __future__ import annotations

__all__ = ["GuidanceWarning", "RunSummary", "warn_if_idle"]

from dataclasses import dataclass

from ..guidance.guidance import Guidance
from ..guidance.negative_guidance import NegativeGuidance
from ..guidance.pass_guidance import PassGuidance
from ..guidance.result_guidance import ResultGuidance
from ..settings.warning_place import warn_caller


@dataclass(frozen=True)
class RunSummary:
    """What one attached guidance did in one run.

    Args:
        calls: How often the denoiser was called while the guidance was attached.
        guided_calls: How many of these calls had a second pass of this guidance, or were changed
            by it.
        layers: The names of the layers that were perturbed or changed.
        reused_calls: How many of these calls used the difference of predictions of an earlier one.
        calls_without_cfg: In how many of these calls it took classifier-free guidance away.
    """

    calls: int = 0
    guided_calls: int = 0
    layers: frozenset[str] = frozenset()
    reused_calls: int = 0
    calls_without_cfg: int = 0

    def __add__(self, other: RunSummary) -> RunSummary:
        """What was done in both of two denoisers."""
        return RunSummary(
            self.calls + other.calls,
            self.guided_calls + other.guided_calls,
            self.layers | other.layers,
            self.reused_calls + other.reused_calls,
            self.calls_without_cfg + other.calls_without_cfg,
        )


class GuidanceWarning(UserWarning):
    """A run that was to be guided was not, or not as it may have been meant."""


def warn_if_idle(guidance: Guidance, done: RunSummary | None) -> None:
    """Warn of a run in which a guidance that is not off did nothing.

    Args:
        guidance: The guidance.
        done: What it did; None if there was no run.
    """
    if done is None or not done.calls or guidance.is_off:
        return
    if not isinstance(guidance, NegativeGuidance):
        _warn_if_unused(guidance, done)
        return
    if not done.guided_calls and guidance.is_within:
        warn_caller(
            f"none of the {done.calls} calls of the denoiser had unconditional rows to perturb for "
            f"{guidance!r}; expected a prompt, CFG's scale above 1, and steps of the run",
            GuidanceWarning,
        )
    elif not done.guided_calls:
        where = f"steps={str(guidance.steps)!r}"
        if not isinstance(guidance.scale, float):
            where += f" with a scale other than 0 (scale={str(guidance.scale)!r})"
        warn_caller(
            f"none of the {done.calls} denoising steps of this run was in {where}, so the result "
            "is unguided",
            GuidanceWarning,
        )
    elif not done.layers and hasattr(guidance, "layers"):
        warn_caller(
            f"no layer of layers={guidance.layers!r} was reached in {done.guided_calls} guided "
            "steps, so the result is unguided",
            GuidanceWarning,
        )


def _warn_if_unused(guidance: Guidance, done: RunSummary) -> None:
    """Warn of a run in which a guidance that makes no correction did nothing."""
    if isinstance(guidance, ResultGuidance):
        if not done.guided_calls:
            cfg = " with classifier-free guidance" if guidance.needs_cfg else ""
            expected = "; expected a prompt, and CFG's scale above 1" if cfg else ""
            warn_caller(
                f"none of the {done.calls} calls of the denoiser was a step{cfg} in "
                f"steps={str(guidance.steps)!r} for {guidance!r} to act at{expected}",
                GuidanceWarning,
            )
        return
    if isinstance(guidance, PassGuidance):
        if not done.layers:
            warn_caller(
                f"none of the {done.calls} calls of the denoiser was changed by {guidance!r}: it "
                "was none of the steps, or no such layer was reached",
                GuidanceWarning,
            )
        return
    if done.guided_calls < done.calls and not done.calls_without_cfg:
        warn_caller(
            f"there was no classifier-free guidance for {guidance!r} to limit; expected a "
            "prompt, and CFG's scale above 1",
            GuidanceWarning,
        )
