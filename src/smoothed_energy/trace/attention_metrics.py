r"""Metrics of attention: its energy, and what a guidance's smoothing does to it.

The energy is that of what a layer computes, $E = -\sum_i \operatorname{lse}_j (c\,q_i \cdot k_j)$
over the queries of the image's tokens and all keys; see `energy.attention_energy`. It is divided by
the number of queries, so that layers of different grids compare, and averaged over the heads.
"""

from __future__ import annotations

__all__ = ["attention_energy_per_query", "energy", "energy_change"]

from collections.abc import Mapping

from torch import Tensor

from ..energy import attention_energy
from ..guidance.attention_perturbation import AttentionCall
from ..intercept.attention import AttentionBackendError


def energy(call: AttentionCall, perturbed: Mapping[str, AttentionCall]) -> Mapping[str, Tensor]:
    """The column `energy`, `(rows,)`, in nats."""
    return {"energy": attention_energy_per_query(call)}


def energy_change(
    call: AttentionCall, perturbed: Mapping[str, AttentionCall]
) -> Mapping[str, Tensor]:
    """The columns `NAME.energy_change`, `(rows,)`: the energy with a perturbation, less the clean.

    Both are of the same site: the clean queries and keys of the clean pass, and what the guidance's
    own operator makes of them. (In the perturbed pass itself, layers after the first perturbed one
    have other inputs.) There is a column for those guidances that change what enters the softmax of
    this layer at this step: blurs, temperatures and masks, but not PAG, which has no softmax.
    """
    if not perturbed:
        return {}
    clean = attention_energy_per_query(call)
    return {
        f"{name}.energy_change": attention_energy_per_query(other) - clean
        for name, other in perturbed.items()
    }


def attention_energy_per_query(call: AttentionCall) -> Tensor:
    """The energy of an attention over its number of queries, mean over the heads, `(rows,)`.

    Raises:
        AttentionBackendError: If the attention is causal.
    """
    options = call.options
    if options.get("is_causal"):
        raise AttentionBackendError(
            "the energy of causal attention is not measured; expected layers without it, or other "
            "metrics"
        )
    key = call.key
    if options.get("enable_gqa"):
        key = key.repeat_interleave(call.query.shape[-3] // key.shape[-3], dim=-3)
    found = attention_energy(
        call.query, key, scale=options.get("scale"), mask=options.get("attn_mask")
    )
    return found.mean(dim=-1) / call.query.shape[-2]
