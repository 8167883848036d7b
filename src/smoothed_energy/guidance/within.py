r"""Perturbations within the first pass: of rows that it has anyway, or of rows that it gains.

The unconditional rows can be perturbed at no cost but CFG's.

Under CFG the pipeline computes $\tilde u + g\,(c - \tilde u)$, which is
$u + g\,(c - u) + (g - 1)\,(u - \tilde u)$: what `formulation="unconditional"` gives at the scale
$g - 1$, without a second pass. There is no other scale, and nothing without CFG.
"""

from __future__ import annotations

__all__ = ["PerturbedBeside", "PerturbedWithin"]

from typing import Any

from torch import Tensor
from typing_extensions import override

from ..denoisers.cfg_batch import Formulation
from ..intercept.attention import natively
from ..intercept.module_call import Rows
from .alteration import Alteration, AlteredRows
from .perturbation import LayerCall, Perturbation


class PerturbedWithin(Alteration):
    """A perturbation of the unconditional rows of every pass.

    A perturbed module runs twice, once for the rows that stay, where a batch has both.

    Args:
        perturbation: What the modules compute in these rows.
    """

    branch: Formulation | None = "unconditional"
    perturbs = True
    is_one_attention = True

    def __init__(self, perturbation: Perturbation) -> None:
        self.perturbation = perturbation

    @override
    def run(self, call: LayerCall, part: AlteredRows) -> Any:
        if part.rows.is_all:
            return self.perturbation.run(call)
        # First as it is: what second passes of other rows take over is of the first call.
        output = natively(call.call.copied())()
        return _put(part.rows, output, self.perturbation.run(call))


class PerturbedBeside(Alteration):
    """A perturbation of rows that run once more in the first pass, in place of a second one.

    A perturbed module runs twice, once for the rows that stay.

    Args:
        perturbation: What the modules compute in these rows.
    """

    adds_rows = True
    is_one_attention = True

    def __init__(self, perturbation: Perturbation) -> None:
        self.perturbation = perturbation

    @override
    def run(self, call: LayerCall, part: AlteredRows) -> Any:
        assert part.added is not None
        output = natively(call.call.copied())()
        return _put(part.added, output, self.perturbation.run(call))


def _put(rows: Rows, output: Any, other: Any) -> Any:
    """A module's output with some rows of another one."""
    if isinstance(output, Tensor):
        return rows.put(output, rows.of(other))
    if isinstance(output, (list, tuple)):
        parts = [_put(rows, one, two) for one, two in zip(output, other, strict=True)]
        return type(output)(parts)
    return output
