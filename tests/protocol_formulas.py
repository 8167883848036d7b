r"""Guided predictions of a loop of six steps, worked out from their formulas.

A step has a noise level and an input of its own, so that nothing depends on what was predicted
before it but differences that are used again. The prediction with the prompt is c, the one without
is u, and the perturbed one is made by hand: by another attention processor, by a block that does
nothing, by another input.

$$D^\star = u + g\,(c - u) + \sum \gamma\,(s - \tilde s)$$

Nothing of `smoothed_energy` is used here.
"""

import contextlib
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from brute_force_fusion import fused
from brute_force_guidance import BlurredLogits
from tiny_pipelines import MID, UP, ddim, noise, prompts, unet

COUNT, ROWS, G = 6, 2, 5.0
MID_GRID, UP_GRID = (6, 4), (12, 8)
TEXTS = {"c": prompts(ROWS)["prompt_embeds"], "u": prompts(ROWS)["negative_prompt_embeds"]}
scheduler = ddim()
scheduler.set_timesteps(COUNT)


def signal(step):
    """The part of the image in the input of a step, and the part of the noise."""
    kept = scheduler.alphas_cumprod[scheduler.timesteps[step]]
    return float(kept.sqrt()), float((1 - kept).sqrt())


def sample(step):
    """The input of a step."""
    return noise(ROWS, 4, 12, 8, seed=20 + step)


@torch.no_grad()
def predict(x, step, branch):
    """One plain call of the denoiser."""
    text = TEXTS[branch][: len(x)]
    return unet()(x, scheduler.timesteps[step], encoder_hidden_states=text, return_dict=False)[0]


@cache
def clean(step, branch):
    """The prediction with the prompt (`"c"`) or without it (`"u"`)."""
    return predict(sample(step), step, branch)


# Perturbed predictions.


class OwnValues:
    """Attention of every token to itself alone."""

    def __call__(self, attn, hidden_states, **kwargs):
        return attn.to_out[0](attn.to_v(hidden_states))


class Watched:
    """Plain attention that keeps how much every token receives: 1 is the mean."""

    def __init__(self):
        self.received = None

    def __call__(self, attn, hidden_states, **kwargs):
        query, key, value = (
            to(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for to in (attn.to_q, attn.to_k, attn.to_v)
        )
        weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
        self.received = weights.mean(1).sum(1)
        return attn.to_out[0]((weights @ value).transpose(1, 2).flatten(2))


@contextlib.contextmanager
def processors(layers):
    """A block in which layers have other attention processors."""
    modules = {unet().get_submodule(name): processor for name, processor in layers.items()}
    before = {module: module.processor for module in modules}
    for module, processor in modules.items():
        module.processor = processor
    try:
        yield
    finally:
        for module, processor in before.items():
            module.processor = processor


@contextlib.contextmanager
def another_block(change):
    """A block in which the transformer block of `MID` does something else."""
    block = unet().get_submodule(MID.rpartition(".")[0])
    block.forward = change(block.forward)
    try:
        yield
    finally:
        del block.forward


def with_processors(layers):
    def perturbed(step, branch):
        with processors(layers):
            return predict(sample(step), step, branch)

    return perturbed


def skipped(step, branch):
    with another_block(lambda forward: lambda tokens, *args, **kwargs: tokens):
        return predict(sample(step), step, branch)


def shuffled(step, branch, seed=5):
    number = zlib.crc32(f"{seed} {MID} {step}".encode())
    order = torch.randperm(24, generator=torch.Generator().manual_seed(number))

    def change(forward):
        return lambda tokens, *args, **kwargs: forward(tokens[:, order], *args, **kwargs)

    with another_block(change):
        return predict(sample(step), step, branch)


def degraded(step, branch):
    """For an input whose estimate of the clean image is blurred where attention looks."""
    watched, x = Watched(), sample(step)
    with processors({MID: watched}):
        epsilon = predict(x, step, branch)
    image, part = signal(step)
    estimate = (x - part * epsilon) / image
    weights = torch.exp(-0.5 * torch.arange(-4.0, 5.0) ** 2)
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    padded = F.pad(estimate, (4, 4, 4, 4), mode="reflect")
    blurred = F.conv2d(padded, kernel.expand(4, 1, 9, 9), groups=4)
    mask = (watched.received > 1).float().reshape(-1, 1, *MID_GRID)
    mask = F.interpolate(mask, scale_factor=2)
    estimate = mask * blurred + (1 - mask) * estimate
    return predict(image * estimate + part * epsilon, step, branch)


def through_windows(step, branch):
    """The mean over four windows where several of them see, else the clean prediction."""
    x, plain = sample(step), clean(step, branch)
    total, seen = torch.zeros_like(plain), torch.zeros_like(plain)
    for top in (0, 4):
        for left in (0, 2):
            window = (..., slice(top, top + 8), slice(left, left + 6))
            total[window] += predict(x[window], step, branch)
            seen[window] += 1
    return torch.where(seen > 1, total / seen, plain)


METHODS = {
    "seg": with_processors({MID: BlurredLogits(MID_GRID, 1.0)}),
    "pag": with_processors({MID: OwnValues()}),
    "pag up": with_processors(dict.fromkeys(UP, OwnValues())),
    "erg": with_processors({MID: BlurredLogits(MID_GRID, 0.0, temperature=4.0)}),
    "slg": skipped,
    "tpg": shuffled,
    "sag": degraded,
    "swg": through_windows,
}


@cache
def perturbed(method, step, branch):
    """The prediction that a method moves away from."""
    return METHODS[method](step, branch)


# Guided predictions.


@dataclass(frozen=True)
class Term:
    """A correction.

    Args:
        method: A key of `METHODS`.
        scale: Its factor, or a function from the step to it.
        branch: The prediction that it perturbs under classifier-free guidance.
        combine: What is done to it: `"project"`, `"rescale"`, `"rescale partial"` or `"fuse"`.
        every: In how many guided steps a difference is used.
        steps: The guided steps.
        until: The cosine of clean and perturbed prediction that ends it.
    """

    method: str
    scale: float | Callable[[int], float] = 3.0
    branch: str = "c"
    combine: str = ""
    every: int = 1
    steps: Collection[int] = range(COUNT)
    until: float | None = None


class Kept:
    """What a term remembers from one step to the next."""

    def __init__(self, term):
        self.term, self.branch, self.uses, self.highest = term, None, 0, -1.0

    def gamma(self, step):
        term = self.term
        if step not in term.steps or (term.until is not None and self.highest >= term.until):
            return 0.0
        return term.scale(step) if callable(term.scale) else term.scale

    def difference(self, step, branch):
        if self.branch == branch and self.uses < self.term.every:
            self.uses += 1
            return self.found
        one, other = clean(step, branch), perturbed(self.term.method, step, branch)
        self.branch, self.uses, self.found = branch, 1, one - other
        cosine = torch.cosine_similarity(one.flatten(1), other.flatten(1)).min()
        self.highest = max(self.highest, float(cosine))
        return self.found


def guided(terms, *, cfg=range(COUNT), g=G, rescale=0.0):
    """The guided predictions of all steps; `cfg` are the steps with classifier-free guidance."""
    kept, found = [Kept(term) for term in terms], []
    for step in range(COUNT):
        c, u = clean(step, "c"), clean(step, "u") if g != 1 and step in cfg else None
        result = c if u is None else u + g * (c - u)
        plain, to_fuse = result, []
        for one in kept:
            gamma = one.gamma(step)
            if not gamma:
                continue
            branch = "c" if u is None else one.term.branch
            delta = gamma * one.difference(step, branch)
            if one.term.combine == "fuse":
                to_fuse.append(delta)
                continue
            result = result + combined(one.term.combine, delta, clean(step, branch), c, plain)
        if to_fuse:
            delta = sum(to_fuse)
            result = result + (delta if u is None else by_saliency(delta, g * (c - u)))
        found.append(rescaled(result, c, rescale))
    return found


def combined(how, delta, base, c, plain):
    """What becomes of a correction of the prediction `base`."""
    if not how:
        return delta
    if how == "project":
        along = (delta * base).sum((1, 2, 3), keepdim=True) / (base * base).sum(
            (1, 2, 3), keepdim=True
        )
        return delta - along * base
    spread = spread_of(c) / spread_of(delta + {"rescale": plain, "rescale partial": c}[how])
    return (0.7 * spread + 0.3) * delta


def by_saliency(delta, text):
    """What is to be added so that the more salient of two guidances acts at every place."""
    return fused(delta, text) - text


def rescaled(result, c, amount):
    """Equations 15 and 16 of Lin et al. (2023)."""
    if not amount:
        return result
    return amount * spread_of(c) / spread_of(result) * result + (1 - amount) * result


def spread_of(x):
    return x.std((1, 2, 3), keepdim=True)
