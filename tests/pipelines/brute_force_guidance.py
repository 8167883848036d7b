r"""Guidance by brute force: what the package computes, written again from the papers alone.

Every call of the U-Net is two plain forward passes on the whole batch, the second with

$$\operatorname{softmax}(B\,(Q K^\top)\, d^{-1/2})\, V$$

in the listed layers, $B$ being the full T x T matrix, applied to the logits, all in float64. The
call returns the final prediction $s^\star = u + g\,(c - u) + \gamma\,(c - \tilde c)$, rescaled if
asked for, once for every branch of the pipeline's own guidance, which then has no effect, since
all its differences are zero.

Nothing of `smoothed_energy` is used here.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput


@cache
def blur_matrix(count, sigma):
    """The operator of a Gaussian blur of `count` points with whole-sample reflection, float64.

    The kernel's size is that of the released implementation.
    """
    if sigma == math.inf:
        return torch.full((count, count), 1 / count, dtype=torch.float64)
    if sigma == 0:
        return torch.eye(count, dtype=torch.float64)
    size = math.ceil(6 * sigma)
    size = size + 1 if size % 2 == 0 else size
    size = min(size, count if count % 2 == 1 else count + 1)
    offsets = range(-(size // 2), size // 2 + 1)
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in offsets]
    matrix = torch.zeros(count, count, dtype=torch.float64)
    for row in range(count):
        for offset, weight in zip(offsets, weights, strict=True):
            column = abs(row + offset)
            if column > count - 1:
                column = 2 * (count - 1) - column
            matrix[row, column] += weight / sum(weights)
    return matrix


@cache
def grid_blur_matrix(grid, sigma):
    """The operator on the H W tokens of a grid in row-major order."""
    height, width = grid
    return torch.kron(blur_matrix(height, sigma), blur_matrix(width, sigma))


class BlurredLogits:
    """An attention processor that blurs the logits of self-attention over its queries or keys.

    The logits are divided by a temperature.
    """

    def __init__(self, grid, sigma, on="query", temperature=1.0):
        self.grid = grid
        self.sigma = sigma
        self.on = on
        self.temperature = temperature

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None
    ):
        assert encoder_hidden_states is None
        assert attention_mask is None
        tokens = hidden_states
        if hidden_states.ndim == 4:
            assert tuple(hidden_states.shape[-2:]) == self.grid
            tokens = hidden_states.flatten(2).mT
        if attn.group_norm is not None:
            tokens = attn.group_norm(tokens.mT).mT

        def heads(projection):
            return projection(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2).double()

        query, key, value = heads(attn.to_q), heads(attn.to_k), heads(attn.to_v)
        blur, logits = grid_blur_matrix(self.grid, self.sigma), query @ key.mT
        logits = blur @ logits if self.on == "query" else logits @ blur.mT
        logits = logits / self.temperature
        weights = torch.softmax(logits / math.sqrt(query.shape[-1]), dim=-1)
        output = (weights @ value).transpose(1, 2).flatten(2).to(tokens.dtype)
        for layer in attn.to_out:
            output = layer(output)
        if hidden_states.ndim == 4:
            output = output.mT.unflatten(-1, self.grid)
        if attn.residual_connection:
            output = output + hidden_states
        return output / attn.rescale_output_factor


@dataclass(frozen=True)
class Term:
    """One perturbation.

    Args:
        grids: The perturbed layers by full name, each with the height and width of its tokens.
        sigma: Width of the blur.
        scale: The factor of the difference, gamma.
        on: Whether queries or keys are blurred.
        temperature: The logits are divided by it.
        branch: The letter of the perturbed prediction in `Branches.order`.
        active: Whether a call at a timestep is guided.
        combine: What becomes of the correction, given the predictions and g.
    """

    grids: Mapping[str, tuple[int, int]]
    sigma: float = 1.0
    scale: float = 3.0
    on: str = "query"
    temperature: float = 1.0
    branch: str = "c"
    active: Callable[[float], bool] = lambda timestep: True
    combine: Callable = lambda delta, prediction, guidance_scale: delta


@dataclass(frozen=True)
class Branches:
    """The pipeline's own guidance.

    Args:
        order: A letter for each group of rows: `c` conditional, `u` unconditional, `i` image only.
        guidance_scale: g.
        image_guidance_scale: g of the image, if there is an `i`.
        rescale: phi of Lin et al. (2023).
    """

    order: str = "c"
    guidance_scale: float = 1.0
    image_guidance_scale: float = 1.0
    rescale: float = 0.0

    def combined(self, prediction):
        """The guided prediction of each branch's predictions."""
        if self.order == "c":
            return prediction["c"]
        if "i" in self.order:
            return (
                prediction["u"]
                + self.guidance_scale * (prediction["c"] - prediction["i"])
                + self.image_guidance_scale * (prediction["i"] - prediction["u"])
            )
        return prediction["u"] + self.guidance_scale * (prediction["c"] - prediction["u"])

    def rescaled(self, combined, conditional):
        """Equations 15 and 16 of Lin et al. (2023)."""
        if self.rescale == 0:
            return combined
        dims = tuple(range(1, combined.ndim))
        factor = conditional.std(dims, keepdim=True) / combined.std(dims, keepdim=True)
        return self.rescale * factor * combined + (1 - self.rescale) * combined


@contextmanager
def _blurred_logits(unet, term):
    modules = {unet.get_submodule(name): grid for name, grid in term.grids.items()}
    before = {module: module.processor for module in modules}
    try:
        for module, grid in modules.items():
            module.processor = BlurredLogits(grid, term.sigma, term.on, term.temperature)
        yield
    finally:
        for module, processor in before.items():
            module.processor = processor


def _fresh(kwargs):
    """Arguments with lists of their own, since U-Nets consume some lists."""
    return {
        name: list(value) if isinstance(value, list) else value for name, value in kwargs.items()
    }


@contextmanager
def brute_force(unet, terms, branches=Branches(), *, variance=False):
    """A block in which the U-Net's predictions are guided.

    Args:
        unet: The U-Net.
        terms: The perturbations, whose corrections add up.
        branches: The pipeline's own guidance, or a function from the number of the call to it.
        variance: Whether the second half of the prediction's channels is a variance, which is
            left alone.
    """
    terms = [terms] if isinstance(terms, Term) else terms
    forward = unet.forward
    calls = 0

    def guided(sample, timestep, *args, **kwargs):
        nonlocal calls
        here = branches(calls) if callable(branches) else branches
        calls += 1

        def predictions():
            kwargs_now = {**_fresh(kwargs), "return_dict": False}
            output = forward(sample, timestep, *args, **kwargs_now)[0]
            assert len(output) % len(here.order) == 0
            return dict(zip(here.order, output.chunk(len(here.order)), strict=True))

        clean = predictions()
        result = here.combined(clean)
        time = float(torch.as_tensor(timestep).flatten()[0])
        for term in terms:
            if not term.active(time):
                continue
            branch = term.branch if term.branch in here.order else here.order
            with _blurred_logits(unet, term):
                perturbed = predictions()[branch]
            delta = term.scale * (clean[branch] - perturbed)
            result = result + term.combine(delta, clean, here.guidance_scale)
        result = here.rescaled(result, clean["c"])
        if variance:
            image = sample.shape[1]
            result = torch.cat([result[:, :image], here.combined(clean)[:, image:]], dim=1)
        result = torch.cat([result] * len(here.order))
        if kwargs.get("return_dict", True):
            return UNet2DConditionOutput(sample=result)
        return (result,)

    unet.forward = guided
    try:
        yield
    finally:
        del unet.forward
    assert calls > 0
