r"""Guidance by brute force where what the scheduler gets can't be told from outside.

It is for pipelines that make two calls, first the one with the prompt, and send a sum of their
predictions with factors that add up to 1: $\delta$ is added to both.
"""

from contextlib import contextmanager

import torch
from brute_force_attention import _explicitly, _prediction
from comparison import run_of
from tiny_pipelines import MARGIN, TOLERANCE, difference

from smoothed_energy import SmoothedEnergyGuidance

SCALE = 10.0


def _with(output, prediction):
    if isinstance(output, tuple):
        return (prediction, *output[1:])
    return type(output)(**{**output, "sample": prediction})


@contextmanager
def brute_force_in_calls(denoiser, images, calls, sigma=1.0):
    """A block in which every so many calls of a denoiser are guided by the first of them."""
    forward = denoiser.forward
    deltas = []

    def guided(*args, **kwargs):
        output = forward(*args, **kwargs)
        if not deltas:
            with _explicitly(denoiser, images, sigma, 0.0):
                perturbed = forward(*args, **kwargs)
            difference = _prediction(output) - _prediction(perturbed)
            deltas.extend([SCALE * difference] * calls)
        return _with(output, _prediction(output) + deltas.pop())

    denoiser.forward = guided
    try:
        yield
    finally:
        del denoiser.forward


def assert_guided_in_calls(case, *, cfg, **changes):
    """Attached guidance gives what brute force gives, with replay and without."""
    pipe = case.pipeline()
    run = run_of(pipe, case, cfg=cfg, **changes)
    plain = run()
    with brute_force_in_calls(getattr(pipe, case.denoiser), case.images, 2 if cfg else 1):
        expected = run()
    assert difference(plain, expected) > MARGIN * TOLERANCE
    guidance = SmoothedEnergyGuidance(
        blur="gaussian:1,temporal=0", scale=SCALE, layers=list(case.images)
    )
    for replay in (True, False):
        with guidance.attach(pipe, replay=replay):
            assert difference(run(), expected) < TOLERANCE
    assert torch.equal(run(), plain)
