r"""Rules for CFG by hand, from the papers' formulas, sample by sample in double precision.

What the denoiser predicts is written down, and the scheduler is given $D^\star$ in the place of
what the pipeline computed; nothing of `smoothed_energy` is used here.
"""

import functools
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass
class Step:
    """What a rule is told of a step beside c and u: its number, noisy input, time and scheduler."""

    number: int
    x: torch.Tensor
    time: Any
    scheduler: Any
    memory: dict


@contextmanager
def by_hand(pipe, g, rule=None, *, rescale=0.0, sampled=None):
    """A block in which the scheduler of a pipeline gets D* by a rule for CFG of scale g.

    Args:
        pipe: The pipeline.
        g: The scale.
        rule: D* of one sample's c and u; CFG by default.
        rescale: Of the result by the statistics of c.
        sampled: The next latents, given c, u, the latents before and the scheduler's own step.
    """
    rule = rule or cfg
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    forward, step = denoiser.forward, pipe.scheduler.step
    outputs, memories, count = [], {}, [0]

    def recorded(*args, **kwargs):
        found = forward(*args, **kwargs)
        x = args[0] if args else kwargs["hidden_states"]
        outputs.append((x, found[0] if isinstance(found, tuple) else found.sample))
        return found

    @functools.wraps(step)  # pipelines look at its parameters
    def guided(output, time, sample, *args, **kwargs):
        if len(outputs) == 1:
            ((x, both),) = outputs
            u, c = both.chunk(2)
            x = x.chunk(2)[0]
        else:
            (x, c), (_, u) = outputs
        outputs.clear()
        found = []
        for row in range(len(c)):
            told = Step(
                count[0], x[row].double(), time, pipe.scheduler, memories.setdefault(row, {})
            )
            found.append(rule(c[row].double(), u[row].double(), g, told))
        result = torch.stack(found)
        if rescale:
            dims = tuple(range(1, c.ndim))
            factor = c.double().std(dims, keepdim=True) / result.std(dims, keepdim=True)
            result = rescale * result * factor + (1 - rescale) * result
        count[0] += 1
        result = result.to(output.dtype)
        own = functools.partial(step, result, time, sample, *args, **kwargs)
        if sampled is None:
            return own()
        return (sampled(c.double(), u.double(), sample.double(), own).to(sample.dtype),)

    denoiser.forward, pipe.scheduler.step = recorded, guided
    try:
        yield
    finally:
        del denoiser.forward, pipe.scheduler.step


def cfg(c, u, g, step):
    return u + g * (c - u)


def apg(eta=0.0, momentum=-0.5, norm=15.0, base="conditional"):
    def rule(c, u, g, step):
        d = c - u + momentum * step.memory.get("d", 0)
        step.memory["d"] = d
        if norm and d.norm() > norm:
            d = d * norm / d.norm()
        along = (d * c).sum() / (c * c).sum() * c
        update = d - along + eta * along
        return c + (g - 1) * update if base == "conditional" else u + g * update

    return rule


def cfg_zero(zero_steps):
    def rule(c, u, g, step):
        if step.number < zero_steps:
            return torch.zeros_like(c)
        s = (c * u).sum() / (u * u).sum()
        return s * u + g * (c - s * u)

    return rule


def tcfg(c, u, g, step):
    _, _, v = np.linalg.svd(torch.stack([c.flatten(), u.flatten()]).numpy(), full_matrices=False)
    first = torch.from_numpy(v[0]).reshape(c.shape)
    damped = (u * first).sum() * first
    return damped + g * (c - damped)


def mambo(alpha):
    def rule(c, u, g, step):
        w = 1 + (g - 1) * torch.exp(-alpha * (c - u).norm() / u.norm())
        return u + w * (c - u)

    return rule


def blur(count):
    """Binomial weights on a line whose ends are mirrors, `(count, count)`."""
    matrix = np.zeros((count, count))
    for row in range(count):
        for offset, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
            place = abs(row + offset)
            place = 2 * (count - 1) - place if place >= count else place
            matrix[row, place] += weight / 16
    return matrix


def resize(count, to):
    """Linear interpolation between the middles of pixels."""
    matrix = np.zeros((to, count))
    for row in range(to):
        place = min(max((row + 0.5) * count / to - 0.5, 0), count - 1)
        below = min(int(place), count - 2) if count > 1 else 0
        matrix[row, below] += 1 - (place - below)
        if count > 1:
            matrix[row, below + 1] += place - below
    return matrix


def fdg(scales, parallel=1.0):
    def levels(picture):
        found = []
        for _ in scales[1:]:
            h, w = picture.shape[-2:]
            small = ((h + 1) // 2, (w + 1) // 2)
            down = [resize(n, m) @ blur(n) for n, m in zip((h, w), small, strict=True)]
            up = [blur(n) @ resize(m, n) for n, m in zip((h, w), small, strict=True)]
            coarse = down[0] @ picture @ down[1].T
            found.append((picture - up[0] @ coarse @ up[1].T, up))
            picture = coarse
        return [*found, (picture, None)]

    def rule(c, u, g, step):
        guided = []
        for scale, (fine_c, up), (fine_u, _) in zip(
            scales, levels(c.numpy()), levels(u.numpy()), strict=True
        ):
            d = fine_c - fine_u
            along = (d * fine_c).sum() / (fine_c * fine_c).sum() * fine_c
            guided.append((fine_u + scale * (d - along + parallel * along), up))
        picture = guided[-1][0]
        for fine, up in reversed(guided[:-1]):
            picture = fine + up[0] @ picture @ up[1].T
        return torch.from_numpy(picture)

    return rule
