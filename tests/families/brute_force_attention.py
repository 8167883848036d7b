r"""Guidance of transformers by brute force, written again from the papers alone.

The denoiser runs twice in every call, the second time with

$$\operatorname{softmax}(B\,(Q K^\top)\, d^{-1/2})\, V$$

in the listed layers, in float64, where $B$ is the full T x T matrix over *all* tokens of the
attention: a Gaussian blur of the image's tokens over their grid, the identity for the text's.
$Q$ and $K$ are what the model hands to scaled dot-product attention, after query norm and rotary
embedding. The denoiser returns the clean prediction; what the scheduler gets in the end is replaced
by $u + g\,(c - u) + \gamma\,(c - \tilde c)$.

Nothing of `smoothed_energy` is used here.
"""

import functools
import math
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from brute_force_guidance import blur_matrix


@dataclass(frozen=True)
class Image:
    """Where the image's tokens are.

    Args:
        grid: `(H, W)` or `(F, H, W)`.
        start: The number of tokens before them, one for each row of the batch if they differ.
        other_keys: Whether the keys are of more tokens than the queries.
        queries: How many queries the attention has that is blurred, if there are several.
    """

    grid: tuple[int, ...]
    start: int | tuple[int, ...] = 0
    other_keys: bool = False
    queries: int | None = None

    def attention(self, sigma, temporal):
        """Attention by its definition, with blurred logits."""
        return explicit_attention(self, sigma, temporal)


@dataclass(frozen=True)
class Case:
    """A tiny pipeline with random weights, and what is known about it.

    Args:
        family: The family's name.
        pipeline: Makes one.
        arguments: Of its call, without classifier-free guidance.
        cfg: What to change in them for CFG; None if it has none.
        scale: The `g` that `cfg` sets.
        images: Perturbed layers by their full name. They should be in the middle of the denoiser,
            so that there is a stem to replay.
        separate: Whether it calls the denoiser once with the prompt, and then once without.
        sent: From the denoiser's prediction to what is sent to the scheduler.
        combined: From c, u and g to what the pipeline's CFG makes of them, as it is sent.
        normalised: From the combined and the conditional prediction to what is sent, where the
            pipeline rescales under CFG.
        denoiser: The name of the denoiser.
        unconditional: The name of the denoiser that is called without the prompt, if it is another.
        is_step: Whether a call of the denoiser with these keyword arguments predicts for a step.
        order: Of the rows of a batch under CFG, `"uc"` or `"cu"`.
        variance: Whether the scheduler gets a learned variance, the second half of the channels:
            that of c.
        scheduler: The name of the denoiser's scheduler.
    """

    family: str
    pipeline: Callable[[], Any]
    arguments: Mapping[str, Any]
    images: Mapping[str, Image]
    cfg: Mapping[str, Any] | None = None
    scale: float = 1.0
    separate: bool = False
    sent: Callable[[torch.Tensor], torch.Tensor] = lambda prediction: prediction
    combined: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor] = lambda c, u, g: (
        u + g * (c - u)
    )
    order: str = "uc"
    normalised: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = lambda combined, c: combined
    denoiser: str = "transformer"
    variance: bool = False
    scheduler: str = "scheduler"
    unconditional: str | None = None
    is_step: Callable[[Mapping[str, Any]], bool] = lambda arguments: True
    extra: Mapping[str, Any] = field(default_factory=dict)


def operator(image, row, count, sigma, temporal):
    """B over `count` tokens, float64."""
    start = image.start if isinstance(image.start, int) else image.start[row % len(image.start)]
    sigmas = [sigma] * len(image.grid)
    if len(image.grid) == 3:
        sigmas[0] = temporal
    blur = torch.ones(1, 1, dtype=torch.float64)
    for size, width in zip(image.grid, sigmas, strict=True):
        blur = torch.kron(blur, blur_matrix(size, width))
    full = torch.eye(count, dtype=torch.float64)
    full[start : start + len(blur), start : start + len(blur)] = blur
    return full


def explicit_attention(image, sigma, temporal):
    """Attention by its definition, with blurred logits."""

    def attend(
        query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **more
    ):
        if more.pop("enable_gqa", False):  # heads share keys and values
            shared = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(shared, dim=1) for x in (key, value))
        assert not dropout_p and not any(more.values())
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        logits = query.double() @ key.double().mT
        count = query.shape[-2]
        is_image = not is_causal and (image.other_keys or count == key.shape[-2])
        if is_image if image.queries is None else count == image.queries:
            blur = [operator(image, r, count, sigma, temporal) for r in range(len(query))]
            logits = torch.stack(blur)[:, None] @ logits
        logits = logits * scale
        if is_causal:
            attn_mask = torch.ones(count, key.shape[-2], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            logits = logits.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            logits = logits + attn_mask
        # Padding may see nothing, not even itself.
        return (logits.softmax(-1).nan_to_num() @ value.double()).to(value.dtype)

    return attend


@contextmanager
def _explicitly(denoiser, images, sigma, temporal):
    native = F.scaled_dot_product_attention
    modules = {denoiser.get_submodule(name): image for name, image in images.items()}

    def wrapped(module, image):
        forward = module.forward

        def call(*args, **kwargs):
            F.scaled_dot_product_attention = image.attention(sigma, temporal)
            try:
                return forward(*args, **kwargs)
            finally:
                F.scaled_dot_product_attention = native

        return call

    try:
        for module, image in modules.items():
            module.forward = wrapped(module, image)
        yield
    finally:
        for module in modules:
            del module.forward


def _prediction(output):
    if isinstance(output, torch.Tensor):
        return output
    prediction = output[0] if isinstance(output, tuple) else output.sample
    return torch.stack(prediction) if isinstance(prediction, list) else prediction


@contextmanager
def brute_force(
    pipe,
    case,
    *,
    cfg,
    sigma=1.0,
    temporal=0.0,
    scale=3.0,
    branch="conditional",
    combined_with=lambda delta, text: delta,
):
    """A block in which the pipeline's scheduler gets guided predictions.

    `combined_with` is told the correction and g (c - u), as the denoiser predicts them, and says
    what to add.
    """
    denoiser = getattr(pipe, case.denoiser)
    scheduler = getattr(pipe, case.scheduler)
    forward, step = denoiser.forward, scheduler.step
    calls = []

    @functools.wraps(forward)  # blocks look at its parameters
    def recorded(*args, **kwargs):
        output = forward(*args, **kwargs)
        if not case.is_step(kwargs):
            return output
        with _explicitly(denoiser, case.images, sigma, temporal):
            perturbed = forward(*args, **kwargs)
        calls.append((_prediction(output), _prediction(perturbed)))
        return output

    other = None if case.unconditional is None else getattr(pipe, case.unconditional)
    plain_forward = None if other is None else other.forward

    def recorded_plain(*args, **kwargs):
        output = plain_forward(*args, **kwargs)
        calls.append((_prediction(output),) * 2)
        return output

    @functools.wraps(step)  # pipelines look at its parameters
    def combined(model_output, *args, **kwargs):
        found = [torch.stack(call) for call in calls]
        calls.clear()
        if not cfg:
            (both,) = found
            c, u, g, chosen = both, both, 1.0, both
        else:
            branches = found if case.separate else found[0].chunk(2, dim=1)
            c, u = branches if case.separate or case.order == "cu" else reversed(branches)
            g, chosen = case.scale, c if branch == "conditional" else u
        # Beside other tokens the image's may be of other numbers, which `sent` cuts off.
        text = g * (c[0] - u[0]) if c.shape == u.shape else None
        delta = combined_with(scale * (chosen[0] - chosen[1]), text)
        c, u, delta = case.sent(c[0]), case.sent(u[0]), case.sent(delta)
        plain = case.combined(c, u, g)
        if case.variance:
            mean, _ = plain.chunk(2, dim=1)
            plain = torch.cat([mean, c.chunk(2, dim=1)[1]], dim=1)
            delta = delta * (torch.arange(delta.shape[1]) < mean.shape[1])[:, None, None]
        expected = case.normalised(plain, c) if cfg else plain
        # The pipeline computes what this test believes it computes.
        assert torch.allclose(model_output, expected, rtol=1e-4, atol=1e-5)
        guided = plain + delta
        guided = case.normalised(guided, c) if cfg else guided
        return step(guided.to(model_output.dtype), *args, **kwargs)

    denoiser.forward, scheduler.step = recorded, combined
    if other is not None:
        other.forward = recorded_plain
    try:
        yield
    finally:
        del denoiser.forward, scheduler.step
        if other is not None:
            del other.forward
