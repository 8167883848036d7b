r"""What guidance does to a prediction: similarities, norms, and the effective CFG scale.

With the predictions $c$ and $u$, a guidance's clean and perturbed predictions $s$ and $\tilde s$,
and the correction $\delta$ of all guidances of the step, the guided prediction is
$D^\star = u + g\,(c - u) + \delta$. The correction has a part along $d = c - u$, which is what a
larger $g$ would add, and one orthogonal to it, which no $g$ can. So the step is worth a scale of

$$g^\star = \frac{\langle D^\star - u, d \rangle}{\lVert d \rVert^2}
= g + \frac{\langle \delta, d \rangle}{\lVert d \rVert^2}.$$

References:
    | Guidance Matters (ICLR 2026), https://arxiv.org/abs/2602.22570: much of what attention
    | guidances gain is a larger effective scale
"""

from __future__ import annotations

__all__ = ["guidance_measures"]

from collections.abc import Mapping

import torch
from torch import Tensor

from ..engine.observer import SeenGuidance, SeenStep


def guidance_measures(
    step: SeenStep, guidances: Mapping[str, SeenGuidance]
) -> Mapping[str, Tensor]:
    r"""The numbers of a step, each `(B,)`, over all that belongs to a sample.

    - `prediction_norm`: $\lVert c \rVert$;
    - `correction_norm`: $\lVert \delta \rVert$, and `correction_relative_norm`:
      $\lVert \delta \rVert / \lVert c \rVert$; 0 where nothing acts;
    - with CFG, `text_norm`: $\lVert d \rVert$; `correction_parallel`: $\langle \delta, d \rangle /
      \lVert d \rVert$, which may be negative; `correction_orthogonal`: the norm of the rest of
      $\delta$; `effective_cfg_scale`: $g^\star$, if $g$ is known;
    - for each guidance, `NAME.scale`: $\gamma$; `NAME.cosine`: $\cos(s, \tilde s)$;
      `NAME.relative_norm`: $\lVert \tilde s \rVert / \lVert s \rVert$;
      `NAME.correction_relative_norm`: $\lVert \gamma (s - \tilde s) \rVert / \lVert s \rVert$,
      before combinations.

    Where a rule takes CFG away and nothing is added, $g^\star$ is 1 although $u$ is not known;
    where something is added, it can't be told. If the pipeline rescales $D^\star$ by the
    statistics of $c$, this is before that.

    Args:
        step: The step.
        guidances: Those that acted, by their names in the trace.
    """
    c = _flat(step.conditional)
    norm = c.norm(dim=1)
    found = {"prediction_norm": norm}
    delta = None if step.delta is None else _flat(step.delta)
    found["correction_norm"] = torch.zeros_like(norm) if delta is None else delta.norm(dim=1)
    found["correction_relative_norm"] = found["correction_norm"] / norm
    if step.unconditional is not None:
        found |= _under_cfg(c, _flat(step.unconditional), delta, step.cfg_scale)
    elif delta is None and step.cfg_scale == 1:
        found["effective_cfg_scale"] = torch.ones_like(norm)
    for name, seen in guidances.items():
        clean, difference = _flat(seen.clean), _flat(seen.difference)
        perturbed = clean - difference
        length, other = clean.norm(dim=1), perturbed.norm(dim=1)
        found[f"{name}.scale"] = torch.full_like(norm, seen.scale)
        found[f"{name}.cosine"] = (clean * perturbed).sum(1) / (length * other)
        found[f"{name}.relative_norm"] = other / length
        correction = abs(seen.scale) * difference.norm(dim=1)
        found[f"{name}.correction_relative_norm"] = correction / length
    return found


def _under_cfg(
    c: Tensor, u: Tensor, delta: Tensor | None, scale: float | None
) -> dict[str, Tensor]:
    d = c - u
    square = (d * d).sum(1)
    length = square.sqrt()
    added = torch.zeros_like(length) if delta is None else (delta * d).sum(1) / square
    orthogonal = torch.zeros_like(length)
    if delta is not None:
        orthogonal = (delta - added[:, None] * d).norm(dim=1)
    found = {
        "text_norm": length,
        "correction_parallel": added * length,
        "correction_orthogonal": orthogonal,
    }
    if scale is not None:
        found["effective_cfg_scale"] = scale + added
    return found


def _flat(tensor: Tensor) -> Tensor:
    """`(B, N)`, in float64 where the device has it."""
    dtype = torch.float32 if tensor.device.type == "mps" else torch.float64
    return tensor.to(dtype).flatten(1)
