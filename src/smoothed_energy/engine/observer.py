r"""Observers: who is told what the steps of a run predict, and changes nothing of it.

An observer looks into the passes that run anyway: its probes act in the clean pass, beside those of
the guidances, and what the step predicted is shown to it when the step is over.
"""

from __future__ import annotations

__all__ = ["Observer", "SeenGuidance", "SeenStep"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..denoisers.cfg_batch import Formulation
from ..denoisers.latent_layout import LatentLayout
from ..guidance.plan import Plan
from .context import StepContext
from .participant import Participant
from .passes import PassRunner


@dataclass(frozen=True, eq=False)
class SeenGuidance:
    r"""What one guidance did in a step.

    Args:
        participant: The guidance.
        scale: $\gamma$.
        clean: $s$, `(B, C, *)`.
        difference: $s - \tilde s$, of the same shape; where a difference is used again, that of an
            earlier step.
    """

    participant: Participant
    scale: float
    clean: Tensor
    difference: Tensor


@dataclass(frozen=True, eq=False)
class SeenStep:
    r"""A step that is over.

    Its tensors are those of the run: they are to be read at once, and not to be changed. `B` is the
    number of samples, without copies for CFG.

    Args:
        context: What the caller of the denoiser knows of the step.
        sample: The noisy latents as the denoiser gets them, `(B, C, *)`.
        conditional: $c$, `(B, C, *)`, without a learned variance; the only prediction without CFG.
        unconditional: $u$; None if it was not predicted.
        cfg_scale: $g$ of $u + g\,(c - u)$; 1 where CFG is taken away, None if it is not known.
        guidances: Those that acted, in the order in which they were attached.
        delta: The correction $\delta$ of all of them, `(B, C, *)`; None if none acted.
        latent_layout: How latents and predictions lie; asked only if that matters.
        kept: What the observer's probe kept of each layer in the rows of a prediction, `(B, *)`,
            and the plan that it belongs to.
        evaluations: How often the denoiser ran, whole or in part, for each sample.
        started: When the first call of the step began, by `time.perf_counter`.
    """

    context: StepContext
    sample: Tensor
    conditional: Tensor
    unconditional: Tensor | None
    cfg_scale: float | None
    guidances: Sequence[SeenGuidance]
    delta: Tensor | None
    latent_layout: Callable[[], LatentLayout]
    kept: Mapping[Formulation, tuple[Plan, Mapping[str, Tensor]]]
    evaluations: float
    started: float


class Observer(ABC):
    """Somebody who looks at the steps of runs and changes nothing in them."""

    @abstractmethod
    def begin(self) -> None:
        """Other images begin. It may be called again before their first step."""

    @abstractmethod
    def plan(self, runner: PassRunner, perturbing: Mapping[Participant, Plan]) -> Plan:
        """What is probed in a clean pass, whose rows are all of the batch; edits nothing.

        Args:
            runner: Runs the passes of the denoiser.
            perturbing: The plans of the perturbed passes that follow, by whose they are.
        """

    @abstractmethod
    def see(self, step: SeenStep) -> None:
        """Look at a step that is over."""
