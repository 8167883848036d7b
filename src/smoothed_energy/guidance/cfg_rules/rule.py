"""The base class of rules: where a pipeline's own classifier-free guidance acts."""

from __future__ import annotations

__all__ = ["CFGRule"]

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from typing_extensions import override

from ...denoisers.attention_layer import SelfAttentionLayer
from ...schedule import StepPosition
from ..guidance import Guidance


@dataclass(frozen=True)
class CFGRule(Guidance):
    """A guidance that makes no correction: it decides where the pipeline's own one acts."""

    limits_cfg: ClassVar[bool] = True

    @override
    def select(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        return ()

    @abstractmethod
    def keeps_cfg(self, position: StepPosition) -> bool:
        """Whether CFG acts at the step at `position`."""
