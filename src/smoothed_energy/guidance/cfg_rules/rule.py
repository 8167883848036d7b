"""The base classes of rules: where classifier-free guidance acts, and what it computes."""

from __future__ import annotations

__all__ = ["CFGRule", "SumRule", "check_one_sum"]

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override

from ...denoisers.attention_layer import SelfAttentionLayer
from ...schedule import StepPosition
from ..guidance import Guidance
from ..result_guidance import ResultGuidance, ResultStep


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


@dataclass(frozen=True)
class SumRule(ResultGuidance):
    r"""A guidance that computes another sum in the place of the pipeline's $u + g\,(c - u)$.

    It needs classifier-free guidance of one known scale.
    """

    needs_cfg: ClassVar[bool] = True
    replaces_sum: ClassVar[bool] = True

    @abstractmethod
    def combined(self, step: ResultStep) -> Tensor:
        r"""$D^\star$, the guided prediction, of the shape of $c$."""

    @override
    def result(self, step: ResultStep) -> Tensor:
        return self.combined(step)


def check_one_sum(guidances: Iterable[Guidance]) -> None:
    """Check that at most one guidance takes the place of the pipeline's own sum.

    Raises:
        RuntimeError: If several do.
    """
    found = [one for one in guidances if isinstance(one, ResultGuidance) and one.replaces_sum]
    if len(found) > 1:
        names = " and ".join([one.method for one in found])
        raise RuntimeError(
            f"{names} each compute the sum of classifier-free guidance, and there is one sum; "
            "expected one of them (an interval, corrections such as seg, and methods that act on "
            "the result such as tag may go beside it)"
        )
