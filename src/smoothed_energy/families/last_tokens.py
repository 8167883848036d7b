"""Families of denoisers that predict for a whole sequence, whose last tokens are the image's."""

from __future__ import annotations

__all__ = ["LastTokens"]

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..intercept.module_call import ModuleCall
from .base import Arguments
from .transformer import Transformer


class LastTokens(Transformer):
    """Latents and predictions are tokens `(B, T, C)`; those before the image's are of no use."""

    packed: ClassVar[bool] = True
    text: ClassVar[Any] = "before"

    @abstractmethod
    def count(self, argument: Arguments) -> int:
        """How many tokens the image has."""

    @override
    def length(self, denoiser: nn.Module, argument: Arguments) -> int:
        return self.count(argument)

    @override
    def latents(self, argument: Arguments) -> Any:
        return argument(self.sample)[:, -self.count(argument) :]

    @override
    def with_latents(self, call: ModuleCall, latents: Tensor) -> ModuleCall:
        given = call.argument(self.sample)
        before = given[:, : given.shape[1] - latents.shape[1]]
        return call.replace(self.sample, torch.cat([before, latents], dim=1))

    @override
    def prediction_in(self, output: Any, argument: Arguments) -> Tensor:
        return self.prediction_of(output)[:, -self.count(argument) :]

    @override
    def shared(self, output: Any, argument: Arguments) -> Any:
        # A call with another prompt may have more tokens, or less, and none but these are asked.
        return super().with_prediction(output, self.prediction_in(output, argument))

    @override
    def with_prediction(self, output: Any, prediction: Tensor) -> Any:
        whole = self.prediction_of(output)
        before = whole[:, : whole.shape[1] - prediction.shape[1]]
        if len(before) < len(prediction):
            before = before.repeat(len(prediction) // len(before), 1, 1)
        found = torch.cat([before[: len(prediction)], prediction], dim=1)
        return super().with_prediction(output, found)
