r"""Tangential damping: CFG with the unconditional prediction along what both predictions share.

References:
    | TCFG: Tangential Damping Classifier-free Guidance (Kwon et al., CVPR 2025)
    | https://arxiv.org/abs/2503.18137
"""

from __future__ import annotations

__all__ = ["TangentialDampingGuidance"]

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ..guidance import About
from ..result_guidance import ResultStep
from .projection import dot, wide
from .rule import SumRule


@dataclass(frozen=True)
class TangentialDampingGuidance(SumRule):
    r"""CFG with $u$ projected on the first right singular vector of the rows $c$ and $u$.

    $$D^\star = u' + g\,(c - u'), \qquad u' = \langle u, v_1 \rangle\,v_1$$

    for every sample by itself. The second singular vector, what $c$ and $u$ don't share, is dropped
    from $u$.

    Args:
        steps: The steps at which it acts.

    Example:
        >>> with TangentialDampingGuidance().attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=7.5).images[0]
    """

    method: ClassVar[str] = "tcfg"
    about: ClassVar[About] = About(
        "Tangential damping of CFG",
        "nothing; CFG's unconditional prediction is projected",
        "no pass beyond CFG",
        "Kwon et al. 2025, arXiv 2503.18137",
        "needs CFG; it has no settings",
    )

    @override
    def combined(self, step: ResultStep) -> Tensor:
        c, u, g = step.conditional, step.unconditional, step.cfg_scale
        # The matrix has two rows, so its singular vectors follow from their 2 x 2 products.
        products = torch.stack([dot(c, c), dot(c, u), dot(c, u), dot(u, u)], dim=-1)
        _, vectors = torch.linalg.eigh(products.reshape(len(c), 2, 2).cpu())
        first = vectors[:, :, 1].to(products)  # of the larger eigenvalue
        of_c, of_u = first.reshape(len(c), 2, *[1] * (c.ndim - 1)).unbind(1)
        damped: Tensor = (of_u * (of_c * wide(c) + of_u * wide(u))).to(u.dtype)
        return damped + g * (c - damped)
