"""Guided runs by hand: a sampler's loop, ComfyUI's own predictions, and explicit attention."""

import functools
import itertools
import math
import types
from contextlib import contextmanager

import torch
from comfy import samplers


def attention_modules(network):
    """The self-attention of every block with its place, in the order in which they run."""
    found = []
    for prefix in ("input_blocks", "middle_block", "output_blocks"):
        for name, module in getattr(network, prefix).named_modules():
            if type(module).__name__ == "CrossAttention" and name.endswith("attn1"):
                found.append((prefix, module))
    return found


def blurred_2d(tokens, grid, sigma, reach=None):
    """`(B, heads, T, d)` blurred over a grid by an explicit Gaussian, reflected at its edges."""
    if sigma == float("inf"):
        return tokens.mean(-2, keepdim=True).expand_as(tokens)
    field = tokens.unflatten(-2, grid)
    for axis, size in ((-3, grid[0]), (-2, grid[1])):
        # As many taps as reach 3 sigma, and no more than the reference has for such an axis.
        side = min(reach or math.ceil(6 * sigma) // 2, size // 2)
        taps = range(-side, side + 1)
        weights = [math.exp(-(tap**2) / (2 * sigma**2)) for tap in taps]
        total = torch.zeros_like(field)
        for weight, tap in zip(weights, taps, strict=True):
            places = (torch.arange(size) + tap) % (2 * size - 2)
            places = torch.minimum(places, 2 * size - 2 - places)
            total += weight / sum(weights) * field.index_select(axis, places)
        field = total
    return field.flatten(-3, -2)


@contextmanager
def with_attention(modules, attend):
    """Modules whose attention is `attend(q, k, v, x)`, heads apart."""

    def forward(self, x, *args, **kwargs):
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        return self.to_out(attend(q, k, v).transpose(1, 2).flatten(2))

    for module in modules:
        module.forward = types.MethodType(forward, module)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


@contextmanager
def with_blocks(modules, attend):
    """The same for modules that attend in whatever way: ComfyUI's own place for it is used.

    `attend(q, k, v)` gets all tokens, heads apart.
    """
    running = []

    def override(function, q, k, v, heads, *args, skip_reshape=False, **kwargs):
        if not running:
            return function(q, k, v, heads, *args, skip_reshape=skip_reshape, **kwargs)
        if not skip_reshape:
            q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
        return attend(q, k, v).transpose(1, 2).flatten(2)

    def noted(forward, *args, **kwargs):
        running.append(forward)
        try:
            return forward(*args, **kwargs)
        finally:
            running.pop()

    for module in modules:
        module.forward = functools.partial(noted, module.forward)
    OPTIONS["optimized_attention_override"] = override
    try:
        yield
    finally:
        OPTIONS.clear()
        for module in modules:
            del module.forward


#: What predictions by hand have as `transformer_options`.
OPTIONS = {}


def softmax_attention(q, k, v):
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def held(model, conds, latents):
    """Conditionings as a run of ComfyUI has them."""
    import comfy.sampler_helpers

    both = {name: comfy.sampler_helpers.convert_cond(cond) for name, cond in conds.items()}
    return samplers.process_conds(model, latents, both, latents.device, latents, None, 3)


def loop(patcher, conds, x, sigmas, step):
    """Euler's steps, with `step(predict, x, sigma)` as the estimate of the clean picture.

    `predict(name, x)` is ComfyUI's own estimate for one conditioning.
    """
    model = patcher.model
    if hasattr(model, "current_patcher"):
        model.current_patcher = patcher
    conds = held(model, conds, x)
    sampling = model.model_sampling
    if hasattr(sampling, "noise_scaling"):
        x = sampling.noise_scaling(sigmas[0], x, torch.zeros_like(x))
    else:
        x = x * sigmas[0]
    for now, later in itertools.pairwise(sigmas):
        sigma = now.expand(len(x))

        def predict(name, x, sigma=sigma):
            return samplers.calc_cond_batch(
                model, [conds[name], None], x, sigma, {"transformer_options": dict(OPTIONS)}
            )[0]

        denoised = step(predict, x, sigma)
        x = x + (x - denoised) / now * (later - now)
    # What is saved has another scale.
    return model.process_latent_out(x) if hasattr(model, "process_latent_out") else x
