r"""PLADIS: attention to the text, extrapolated towards sparse attention, in the same pass.

References:
    | PLADIS: Pushing the Limits of Attention in Diffusion Models at Inference Time by Leveraging
    | Sparsity (Kim and Sim, ICCV 2025), https://arxiv.org/abs/2503.07677

    | Sparse Sequence-to-Sequence Models (Peters, Niculae and Martins, ACL 2019), whose 1.5-entmax
    | it uses, https://arxiv.org/abs/1905.05702
"""

from __future__ import annotations

__all__ = ["SparseTextAttention", "entmax15"]

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import LayerError, SelfAttentionLayer
from ..families import family_of
from ..guidance.alteration import Alteration, AlteredRows
from ..guidance.guidance import About
from ..guidance.pass_guidance import PassGuidance
from ..guidance.perturbation import LayerCall
from ..guidance.plan import Plan
from ..intercept.attention import Attention, AttentionBackendError, attend_with
from ..intercept.module_call import unwrap
from ..settings.checks import check_number, refusal
from ..settings.conversion import set_field

#: How many weights are sorted at once.
_MOST = 2**24


def entmax15(logits: Tensor) -> Tensor:
    r"""The 1.5-entmax of the last dimension, $p_i = (z_i / 2 - \tau)_+^2$ with the sum 1.

    $\tau$ is found exactly: for the $k$ largest logits as support it is the smaller root of a
    quadratic equation, and the largest $k$ whose root lies below the $k$-th logit is right. Logits
    of $-\infty$ get 0; if all are, so do all.

    Args:
        logits: $z$, of a floating dtype.
    """
    top = logits.amax(dim=-1, keepdim=True)
    # The largest is 0 then, and tau in [-1, 0), so that what lies below -1 does not matter.
    half = ((logits - top) / 2).clamp(min=-1)
    ordered = half.sort(dim=-1, descending=True).values
    count = torch.arange(1, half.shape[-1] + 1, device=half.device, dtype=half.dtype)
    total, squares = ordered.cumsum(-1), ordered.square().cumsum(-1)
    root = (total.square() - count * (squares - 1)).clamp(min=0).sqrt()
    thresholds = (total - root) / count
    support = (thresholds <= ordered).sum(dim=-1, keepdim=True).clamp(min=1)
    found = thresholds.gather(-1, support - 1)
    return (half - found).clamp(min=0).square().nan_to_num()


class _TowardsSparse(Alteration):
    r"""Cross attention with the weights $\lambda$ entmax + $(1 - \lambda)$ softmax.

    Args:
        scale: $\lambda$.
        text: The name of the input that is the text.
    """

    is_one_attention = True

    def __init__(self, scale: float, text: str) -> None:
        self.scale, self._text = scale, text

    @override
    def run(self, call: LayerCall, part: AlteredRows) -> Any:
        if call.call.named().get(self._text) is None:
            raise AttentionBackendError(
                f"layer {call.name!r} is given no text to attend to here, but its own tokens; "
                "expected a model that attends to its prompt"
            )

        def attend(attention: Attention) -> Tensor:
            dense = attention()
            if attention.options.get("is_causal"):
                raise AttentionBackendError(
                    f"layer {call.name!r} has causal attention to its text; expected other layers"
                )
            if attention.key.shape[-2] == 1:
                raise AttentionBackendError(
                    f"layer {call.name!r} attends to one token, which has all the weight, dense or "
                    "sparse; expected a text of more tokens"
                )
            found = torch.promote_types(dense.dtype, torch.float32)
            sparse = _sparse(attention, found)
            return (self.scale * sparse + (1 - self.scale) * dense.to(found)).to(dense.dtype)

        return attend_with(attend, call.call, call.name)


def _sparse(attention: Attention, dtype: torch.dtype) -> Tensor:
    """Attention whose weights are sparse."""
    query, key, value, options, _ = attention
    if options.get("enable_gqa"):  # heads share keys and values
        shared = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(shared, dim=1) for part in (key, value))
    factor = options.get("scale")
    factor = 1 / math.sqrt(query.shape[-1]) if factor is None else factor
    mask = options.get("attn_mask")
    keys, values = key.to(dtype).mT, value.to(dtype)
    rows = math.prod(query.shape[:-2]) * key.shape[-2]
    size = max(1, _MOST // rows)
    parts = []
    for start in range(0, query.shape[-2], size):
        logits = query[..., start : start + size, :].to(dtype) @ keys * factor
        if mask is not None:
            part = mask if mask.shape[-2] == 1 else mask[..., start : start + size, :]
            if part.dtype == torch.bool:
                logits = logits.masked_fill(~part, -math.inf)
            else:
                logits = logits + part.to(dtype)
        parts.append(entmax15(logits) @ values)
    return torch.cat(parts, dim=-2)


@dataclass(frozen=True)
class SparseTextAttention(PassGuidance):
    r"""Attention to the text, extrapolated from dense to sparse (PLADIS).

    In the chosen blocks cross attention has the weights
    $\lambda\,\mathrm{entmax}_{1.5}(Q K^\top c) + (1 - \lambda)\,\mathrm{softmax}(Q K^\top c)$, in
    all rows: there is no second pass, and it works with CFG and without.

    Args:
        scale: $\lambda \ge 0$; 0 is no guidance, 1 sparse attention, and the authors' 2 goes
            beyond it.
        layers: The layers in whose blocks it acts, named by their self-attention.
        steps: The steps at which it acts.

    Raises:
        ValueError: If a value is outside its set.

    Example:
        >>> with SparseTextAttention(scale=2.0).attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=5.0).images[0]
    """

    method: ClassVar[str] = "pladis"
    about: ClassVar[About] = About(
        "Sparse attention to the text",
        "nothing; cross attention is extrapolated towards sparse attention",
        "no pass; weights are sorted",
        "Kim and Sim 2025, arXiv 2503.07677",
        "needs attention to the text alone: not for Flux, SD 3 and the like",
    )

    _: KW_ONLY
    scale: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        scale = check_number("scale", self.scale)
        if not 0 <= scale < math.inf:
            raise refusal(self.scale, f"scale={self.scale!r}: expected a finite number >= 0")
        set_field(self, "scale", scale)

    @property
    @override
    def is_off(self) -> bool:
        return self.scale == 0

    @override
    def select(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        layers = super().select(denoiser)
        self._edits(denoiser, layers)
        return layers

    @override
    def plan(self, denoiser: nn.Module, *, replay: bool = True) -> Plan:
        edits = self._edits(denoiser, super().select(denoiser))
        text = family_of(denoiser).cross_inputs[0]
        return Plan(alteration=_TowardsSparse(self.scale, text), edits=edits)

    def _edits(
        self, denoiser: nn.Module, layers: tuple[SelfAttentionLayer, ...]
    ) -> dict[nn.Module, str]:
        """The modules that attend to the text alone, in the blocks of layers.

        Raises:
            LayerError: If there are none.
        """
        family, model = family_of(denoiser), unwrap(denoiser)
        edits = family.cross_attentions(model, layers)
        if not edits:
            raise LayerError(
                f"layers: no attention of a {type(model).__name__} to its text alone is known in "
                f"layers={self.layers!r}, which this method changes; expected other layers, or a "
                "model with cross attention (Stable Diffusion, SDXL, PixArt, Sana, Wan, LTX-Video)"
            )
        return edits
