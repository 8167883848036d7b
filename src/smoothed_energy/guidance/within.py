r"""Perturbations within the first pass: of rows that it has anyway, or of rows that it gains.

The unconditional rows can be perturbed at no cost but CFG's.

Under CFG the pipeline computes $\tilde u + g\,(c - \tilde u)$, which is
$u + g\,(c - u) + (g - 1)\,(u - \tilde u)$: what `formulation="unconditional"` gives at the scale
$g - 1$, without a second pass. There is no other scale, and nothing without CFG.
"""

from __future__ import annotations

__all__ = ["PerturbedBeside", "PerturbedWithin", "check_rows_alone"]

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import LayerError
from ..denoisers.cfg_batch import Formulation
from ..families import family_or_unknown
from ..intercept.attention import natively
from ..intercept.module_call import Rows, unwrap
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
        return _perturbed_in(part.rows, self.perturbation, call)


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
        return _perturbed_in(part.added, self.perturbation, call)


def check_rows_alone(denoiser: nn.Module, edits: Mapping[nn.Module, str], expected: str) -> None:
    """Check that modules of a denoiser can be perturbed for some rows alone.

    Args:
        denoiser: The denoiser.
        edits: The modules, and the layer that each belongs to.
        expected: What to do where they can't.

    Raises:
        LayerError: If they can't.
    """
    family, model = family_or_unknown(denoiser), unwrap(denoiser)
    if not family.rows_first and not {one.module for one in family.layers(model)}.issuperset(edits):
        raise LayerError(
            f"blocks of a {type(model).__name__} have tokens before rows, so some rows alone can't "
            f"be perturbed there; expected {expected}"
        )


def _perturbed_in(rows: Rows, perturbation: Perturbation, call: LayerCall) -> Any:
    """What a module gives, perturbed in some rows."""
    if rows.is_all:
        return perturbation.run(call)
    # First as it is: what second passes of other rows take over is of the first call.
    output = natively(call.call.copied())()
    return _put(rows, output, perturbation.run(call))


def _put(rows: Rows, output: Any, other: Any) -> Any:
    """A module's output with some rows of another one."""
    if isinstance(output, Tensor):
        return rows.put(output, rows.of(other))
    if isinstance(output, (list, tuple)):
        parts = [_put(rows, one, two) for one, two in zip(output, other, strict=True)]
        return type(output)(parts)
    return output
