"""Smoothed energy guidance (SEG).

References:
    | Smoothed Energy Guidance: Guiding Diffusion Models with Reduced Energy Curvature of Attention
    | (Hong, NeurIPS 2024), https://arxiv.org/abs/2408.00760
"""

from __future__ import annotations

__all__ = ["BlurKeys", "BlurQueries", "SmoothedEnergyGuidance"]

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Tensor
from typing_extensions import override

from ..guidance.attention_perturbation import AttentionCall, AttentionPerturbation
from ..guidance.guidance import SECOND_PASS, About
from ..guidance.negative_guidance import LayerGuidance
from ..settings.checks import check_choice
from ..settings.conversion import set_field
from ..smoothing import GaussianBlur, Smoothing, as_smoothing

Side = Literal["query", "key"]


@dataclass(frozen=True)
class BlurQueries(AttentionPerturbation):
    r"""Attention with smoothed queries, $\operatorname{softmax}(B Q K^\top / \sqrt d)\, V$.

    By Proposition 3.1 of the paper (arXiv 2408.00760), $B (Q K^\top) = (B Q) K^\top$: smoothing the
    queries over space smooths the attention weights before the softmax, and never forms them.

    Args:
        smoothing: The linear operator $B$ over the tokens.
    """

    smoothing: Smoothing

    needs_own_keys: ClassVar[bool] = False

    @override
    def attend(self, call: AttentionCall) -> Tensor:
        if call.makes_uniform(self.smoothing):
            # All smoothed queries of a head are equal, so one is enough: O(T d), not O(T^2 d).
            attended = call.with_query(call.query.mean(dim=-2, keepdim=True))()
            return attended.expand(*call.query.shape[:-1], attended.shape[-1])
        return call.with_query(call.smoothed(call.query, self.smoothing))()

    @property
    @override
    def is_identity(self) -> bool:
        """Whether the operator is the identity (sigma = 0)."""
        return self.smoothing.changes_nothing


@dataclass(frozen=True)
class BlurKeys(AttentionPerturbation):
    r"""Attention with smoothed keys, $\operatorname{softmax}(Q (B K)^\top / \sqrt d)\, V$.

    The paper's dual (appendix B). Keys of text tokens stay as they are.

    Args:
        smoothing: The linear operator $B$ over the tokens.
    """

    smoothing: Smoothing

    @override
    def attend(self, call: AttentionCall) -> Tensor:
        where = call.image.slice
        before, image, after = call.key.tensor_split((where.start, where.stop), dim=-2)
        blurred = call.smoothed(image, self.smoothing)
        return call.with_key(torch.cat([before, blurred, after], dim=-2))()

    @property
    @override
    def is_identity(self) -> bool:
        """Whether the operator is the identity (sigma = 0)."""
        return self.smoothing.changes_nothing


@dataclass(frozen=True)
class SmoothedEnergyGuidance(LayerGuidance):
    r"""Guidance away from a prediction with smoothed attention energy (SEG).

    The second pass computes $\operatorname{softmax}(B Q K^\top / \sqrt d)\, V$ in the chosen
    layers: a blur $B$ of the queries over space, which flattens the energy
    $E = -\sum \operatorname{lse}(Q K^\top)$ of which attention is a gradient step (section 3 of
    the paper). Appendix B's dual blurs the keys instead,
    $\operatorname{softmax}(Q (B K)^\top / \sqrt d)\, V$.

    Args:
        blur: The operator $B$: a `Smoothing`, or its text form such as `"gaussian:10"`. The
            default is the paper's strongest, $\sigma \to \infty$.
        scale: $\gamma \ge -1$; the paper's default is 3. See `NegativeGuidance`.
        layers: The layers in which queries are blurred; the paper's are the middle ones.
        steps: The guided steps: `"all"`, `"begin"` (the first third), `Steps(0, 0.5)`, ...
        formulation: `"conditional"` or `"unconditional"` (equation 10).
        on: `"query"`, or `"key"` for the dual.

    Raises:
        ValueError: If a value is outside its set.

    Example:
        >>> guidance = SmoothedEnergyGuidance(blur="gaussian:10", scale=3.0, layers="mid")
        >>> with guidance.attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=5.0).images[0]
    """

    method: ClassVar[str] = "seg"
    about: ClassVar[About] = About(
        "Smoothed energy guidance",
        "queries (or keys) are blurred over space",
        SECOND_PASS,
        "Hong 2024, arXiv 2408.00760",
        "the layers that matter depend on the model",
    )

    blur: Smoothing | str = GaussianBlur(math.inf)  # noqa: RUF009 - immutable
    on: Side = "query"

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "blur", as_smoothing(self.blur))
        check_choice("on", self.on, get_args(Side))

    @property
    @override
    def perturbation(self) -> BlurQueries | BlurKeys:
        """Attention with blurred queries or keys."""
        blur = cast(Smoothing, self.blur)
        return BlurQueries(blur) if self.on == "query" else BlurKeys(blur)
