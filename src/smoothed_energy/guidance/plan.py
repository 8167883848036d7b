"""What a guidance does in one denoiser."""

from __future__ import annotations

__all__ = ["Negative", "NegativeContext", "Plan", "perturbed_prediction"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..denoisers.cfg_batch import Formulation
from ..denoisers.image_tokens import ImageTokens
from ..denoisers.prediction import PredictionKind
from ..schedule.steps import StepPosition
from .combine import Combination
from .perturbation import Perturbation


@dataclass(frozen=True)
class NegativeContext:
    """What a perturbed prediction may be made from.

    Args:
        args: The positional arguments of the denoiser, of the rows that are predicted again.
        kwargs: Its keyword arguments, of the same rows.
        sample: Its input, of the same rows.
        clean: The clean prediction of the same rows, without a learned variance.
        predict: The denoiser's prediction, with the chosen modules perturbed, for arguments.
        received: For each recorded layer, the attention that every token received in the clean
            pass: summed over all queries, averaged over the heads, `(B, T)`.
        image_tokens: Of a layer's number of tokens, which are the image's.
        position: Where the step is in its schedule.
        prediction_type: See `OutputKind`.
        sample_name: The name of the denoiser's argument that `sample` was.
        tied_to_size: The names of those given arguments that hold for this size of `sample` only.
        multiple: What height and width of another `sample` must be multiples of.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sample: Tensor
    clean: Tensor
    predict: Callable[[tuple[Any, ...], dict[str, Any]], Tensor]
    received: Mapping[str, Tensor]
    image_tokens: Callable[[str, int], ImageTokens]
    position: Callable[[], StepPosition]
    prediction_type: PredictionKind
    sample_name: str
    tied_to_size: tuple[str, ...]
    multiple: int

    def of_sample(self, sample: Tensor) -> Tensor:
        """The denoiser's prediction for another input."""
        if self.sample_name in self.kwargs:
            return self.predict(self.args, {**self.kwargs, self.sample_name: sample})
        return self.predict((sample, *self.args[1:]), self.kwargs)


Negative = Callable[[NegativeContext], Tensor]


def perturbed_prediction(second: NegativeContext) -> Tensor:
    """The usual negative: the denoiser on the same input, perturbed."""
    return second.predict(second.args, second.kwargs)


@dataclass(frozen=True, eq=False)
class Plan:
    r"""What one guidance does to one denoiser.

    Args:
        formulation: Which prediction is perturbed: the conditional or the unconditional one.
        combinations: What changes the correction before it is added.
        perturbation: What the second pass changes in the modules, if there are any.
        modules: The modules that are perturbed, and the layer that each belongs to.
        replay: Whether the second pass takes over what was computed before the first of them.
        negative: How the perturbed prediction is made.
        recorded: The attention modules whose attention in the clean pass it needs, by layer.
    """

    formulation: Formulation
    combinations: tuple[Combination, ...] = ()
    perturbation: Perturbation | None = None
    modules: Mapping[nn.Module, str] = field(default_factory=dict)
    replay: bool = False
    negative: Negative = perturbed_prediction
    recorded: Mapping[nn.Module, str] = field(default_factory=dict)
