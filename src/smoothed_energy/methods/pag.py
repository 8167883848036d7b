r"""Perturbed-attention guidance (PAG).

References:
    | Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance
    | (Ahn et al., ECCV 2024), https://arxiv.org/abs/2403.17377
"""

from __future__ import annotations

__all__ = ["IdentityAttention", "PerturbedAttentionGuidance"]

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ..guidance.attention_perturbation import AttentionCall, AttentionPerturbation
from ..guidance.guidance import SECOND_PASS, About
from ..guidance.negative_guidance import LayerGuidance
from ..guidance.perturbation import ValuesOnly
from ..schedule import StepPosition
from ..settings.checks import number_or_nan
from ..settings.conversion import set_field


@dataclass(frozen=True)
class IdentityAttention(AttentionPerturbation):
    """Every image token attends to itself alone: the attention map is the identity.

    Where image and text attend together, an image token still attends to the text.
    """

    @override
    def attend(self, call: AttentionCall) -> Tensor:
        image = call.image.slice
        keys, values = (_of_all_heads(x, call.query) for x in (call.key, call.value))
        own = values[..., image, :]
        if own.shape[-2] == values.shape[-2]:
            return own
        # One logit for the token itself and one for each token of the text: no T x T map.
        scale = call.options.get("scale")
        scale = 1 / math.sqrt(call.query.shape[-1]) if scale is None else scale
        text_keys, text_values = (_without(x, image, dim=-2) for x in (keys, values))
        itself = (call.query * keys[..., image, :]).sum(dim=-1, keepdim=True)
        logits = scale * torch.cat([itself, call.query @ text_keys.mT], dim=-1).float()
        mask = call.options.get("attn_mask")
        if mask is not None:
            logits = logits + _itself_and_text(mask, image)
        weights = logits.softmax(dim=-1).to(own.dtype)
        return weights[..., :1] * own + weights[..., 1:] @ text_values

    @property
    @override
    def without_softmax(self) -> ValuesOnly:
        """Each token attends to itself alone, which needs no softmax."""
        return ValuesOnly()


def _of_all_heads(tokens: Tensor, query: Tensor) -> Tensor:
    """Keys or values `(B, heads, S, d)` of as many heads as the query has, which may share them."""
    shared = query.shape[-3] // tokens.shape[-3] if query.ndim == tokens.ndim == 4 else 1
    return tokens.repeat_interleave(shared, dim=-3) if shared > 1 else tokens


def _without(tokens: Tensor, image: slice, dim: int) -> Tensor:
    """What lies before and after the image's tokens."""
    before, _, after = tokens.tensor_split((image.start, image.stop), dim=dim)
    return torch.cat([before, after], dim=dim)


def _itself_and_text(mask: Tensor, image: slice) -> Tensor:
    """The columns of a mask, to be added, for a token itself and for the text's."""
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -math.inf)
    own = mask[..., image]
    itself = own.mT if mask.shape[-2] == 1 else own.diagonal(dim1=-2, dim2=-1)[..., None]
    text = _without(mask, image, dim=-1)
    return torch.cat([itself, text.expand(*itself.shape[:-1], text.shape[-1])], dim=-1)


@dataclass(frozen=True)
class PerturbedAttentionGuidance(LayerGuidance):
    r"""Guidance away from a prediction without self-attention (PAG).

    The second pass replaces $\operatorname{softmax}(Q K^\top / \sqrt d)$ by the identity in the
    chosen layers, so that $V$ passes through.

    Args:
        scale: $\gamma \ge -1$; the paper's default is 3.
        layers: The perturbed layers; the paper's are the middle ones.
        steps: The guided steps.
        formulation: `"conditional"` or `"unconditional"`.
        adaptive_scale: $a$ in $\max(\gamma - a\,(1000 - t), 0)$, the scale at the timestep $t$;
            0 keeps it constant.

    Raises:
        ValueError: If a value is outside its set.

    Example:
        >>> with PerturbedAttentionGuidance(scale=3.0, layers="mid").attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=5.0).images[0]
    """

    method: ClassVar[str] = "pag"
    about: ClassVar[About] = About(
        "Perturbed-attention guidance",
        "every token attends to itself alone",
        SECOND_PASS,
        "Ahn et al. 2024, arXiv 2403.17377",
        "no strength to choose but the scale",
    )

    needs_softmax: ClassVar[bool] = False

    adaptive_scale: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        adaptive_scale = number_or_nan(self.adaptive_scale)
        if not 0 <= adaptive_scale < math.inf:
            raise ValueError(
                f"adaptive_scale={self.adaptive_scale!r}: expected a finite number >= 0"
            )
        set_field(self, "adaptive_scale", adaptive_scale)

    @property
    @override
    def perturbation(self) -> IdentityAttention:
        """Attention of every token to itself."""
        return IdentityAttention()

    @property
    @override
    def is_uniform(self) -> bool:
        return super().is_uniform and not self.adaptive_scale

    @override
    def scale_at(self, position: StepPosition) -> float:
        scale = super().scale_at(position)
        if not self.adaptive_scale or not scale:
            return scale
        if position.timestep is None:
            raise ValueError(
                f"adaptive_scale={self.adaptive_scale} follows the timestep, which is not known "
                "here; give timestep= to step() of the attachment, or leave adaptive_scale at 0"
            )
        return max(scale - self.adaptive_scale * (1000 - position.timestep), 0.0)
