r"""Guidance that says what a step comes to: how $c$ and $u$ are combined, or what is made of that.

A pipeline computes $D = u + g\,(c - u)$, or $D = c$ without CFG. A rule for the sum
(`cfg_rules.SumRule`) puts another $D$ in its place; the corrections $\delta$ of other guidances are
added to that; and what acts on the result changes $D + \delta$. All of it is algebra on predictions
that are there anyway.
"""

from __future__ import annotations

__all__ = ["ResultGuidance", "ResultStep"]

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, cast

from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.prediction import PredictionKind, Predictions
from ..schedule import StepPosition, Steps, StepSelection, as_steps_without_similarity
from ..settings.conversion import set_field
from .guidance import Guidance
from .plan import Memory

_ALL_STEPS = Steps()


@dataclass(frozen=True, eq=False)
class ResultStep:
    r"""A step of which somebody says what it comes to.

    Tensors are pictures or videos, `(B, C, H, W)` or `(B, C, F, H, W)`, where the family tells how
    its latents lie, in single precision at least. `B` is the number of samples, without copies for
    CFG.

    Attributes:
        conditional: $c$, the only prediction without CFG.
        unconditional: $u$; None without CFG.
        cfg_scale: $g$; None without CFG.
        result: What the step comes to so far, $D$ at first.
        memory: What is kept from step to step of a run; empty when other images begin.
        rescaled: Whether the pipeline divides the result by its own size.
    """

    predictions: Predictions
    result: Tensor
    memory: Memory = field(default_factory=dict)
    rescaled: bool = False
    noisy: Callable[[], Tensor] | None = None
    place: Callable[[], StepPosition] | None = None
    kind: Callable[[], PredictionKind] | None = None
    following: Callable[[], float] | None = None

    @property
    def conditional(self) -> Tensor:
        """$c$, the only prediction without CFG."""
        return self.predictions.conditional

    @property
    def unconditional(self) -> Tensor:
        """$u$.

        Raises:
            ValueError: Without CFG.
        """
        if self.predictions.unconditional is None:
            raise ValueError("this step has no prediction without the prompt; expected CFG")
        return self.predictions.unconditional

    @property
    def cfg_scale(self) -> float:
        """$g$.

        Raises:
            ValueError: Without CFG.
        """
        if self.predictions.cfg_scale is None:
            raise ValueError("this step has no scale of classifier-free guidance; expected CFG")
        return self.predictions.cfg_scale

    @property
    def prediction_type(self) -> PredictionKind:
        """What the denoiser predicts; None if it is not known."""
        return None if self.kind is None else self.kind()

    def position(self) -> StepPosition:
        """Where the step is in its schedule."""
        if self.place is None:
            raise RuntimeError("where this step is in its schedule is not known")
        return self.place()

    def latents(self, method: str) -> Tensor:
        """The denoiser's noisy input, of the shape of the predictions.

        Args:
            method: Who asks, for the error.

        Raises:
            ValueError: If it has another size.
        """
        sample = None if self.noisy is None else self.noisy()
        like = self.conditional
        if sample is None or sample.shape[2:] != like.shape[2:] or sample.shape[1] < like.shape[1]:
            shape = "unknown" if sample is None else tuple(sample.shape)
            raise ValueError(
                f"{method} needs latents and predictions of one size; these are {shape} and "
                f"{tuple(like.shape)}"
            )
        return sample[:, : like.shape[1]].to(like.dtype)

    def next_noise(self, method: str) -> float:
        """The noise level that the scheduler goes to, in one step of first order without new noise.

        Args:
            method: Who asks, for the error.

        Raises:
            ValueError: If the scheduler takes another kind of step, or the level is not known.
        """
        try:
            if self.following is None:
                raise ValueError("it is not known here")
            return self.following()
        except ValueError as error:
            raise ValueError(f"{method} needs the noise level of the next step: {error}") from None


@dataclass(frozen=True)
class ResultGuidance(Guidance):
    r"""A guidance that says what a step comes to.

    Args:
        steps: The steps at which it acts; see `smoothed_energy.schedule.steps`. At the others the
            pipeline's own sum stays as it is, and nothing is remembered.

    Raises:
        ValueError: If the steps are not understood, or depend on a perturbed prediction.
    """

    needs_softmax: ClassVar[bool] = False
    #: Whether it acts only where there is classifier-free guidance.
    needs_cfg: ClassVar[bool] = False
    #: Whether it takes the place of the pipeline's own sum; at most one of a run may.
    replaces_sum: ClassVar[bool] = False
    #: Whether it keeps something from step to step.
    remembers: ClassVar[bool] = False

    _: KW_ONLY
    steps: StepSelection | str | Sequence[str] = "all"

    def __post_init__(self) -> None:
        set_field(self, "steps", as_steps_without_similarity(self.steps, self.method))

    @override
    def select(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        return ()

    @property
    @override
    def is_off(self) -> bool:
        return False

    def acts_at(self, position: Callable[[], StepPosition]) -> bool:
        """Whether it acts at a step.

        Args:
            position: Where the step is in its schedule; asked only if it matters.
        """
        if self.steps == _ALL_STEPS and not self.remembers:
            return True
        # Asked by those that remember, too: where a schedule begins anew, other images do.
        return cast(StepSelection, self.steps).active(position())

    def rests(self, position: Callable[[], StepPosition]) -> bool:
        """Whether it predicts 0 at a step, whatever the denoiser says, so that latents rest."""
        return False

    @abstractmethod
    def result(self, step: ResultStep) -> Tensor:
        """What the step comes to, of the shape of `step.result`."""
