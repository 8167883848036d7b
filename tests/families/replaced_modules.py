r"""Guidance by hand for perturbations that are another forward function of a module.

In every call the denoiser runs twice, and gives $s + \gamma\,(s - \tilde s)$. For $\tilde s$ a
module's forward function is replaced. It is for runs without classifier-free guidance.
"""

import functools
from contextlib import contextmanager

import torch
from comparison import run_of
from tiny_pipelines import MARGIN, TOLERANCE, difference

from smoothed_energy import SkipLayerGuidance, TokenPerturbationGuidance
from smoothed_energy.methods.tpg import ShuffleTokens

SCALE = 2.8


def giving(*names):
    """A forward function that gives inputs back, in this order."""

    def forward(hidden_states, encoder_hidden_states=None, *args, **kwargs):
        given = {"hidden_states": hidden_states, "encoder_hidden_states": encoder_hidden_states}
        given |= kwargs
        found = tuple(given[name] for name in names)
        return found if len(found) > 1 else found[0]

    return forward


@contextmanager
def _guided(denoiser, module, replacement):
    forward, own = denoiser.forward, module.forward
    step = 0

    def guided(*args, **kwargs):
        nonlocal step
        output = forward(*args, **kwargs)
        module.forward = replacement(own, step)
        try:
            perturbed = forward(*args, **kwargs)[0]
        finally:
            del module.forward
        step += 1
        clean = output[0]
        if isinstance(clean, list):
            guided = [s + SCALE * (s - t) for s, t in zip(clean, perturbed, strict=True)]
            return (guided, *output[1:])
        prediction = clean + SCALE * (clean - perturbed)
        if isinstance(output, tuple):
            return (prediction, *output[1:])
        return type(output)(**{**output, next(iter(output)): prediction})

    denoiser.forward = functools.wraps(forward)(guided)  # blocks look at its parameters
    try:
        yield
    finally:
        del denoiser.forward


def _assert_guided_as_by_hand(case, guidance, name, replacement):
    pipe = case.pipeline()
    denoiser = getattr(pipe, case.denoiser)
    run = run_of(pipe, case)
    plain = run()
    with _guided(denoiser, denoiser.get_submodule(name), replacement):
        expected = run()
    for replay in (True, False):
        with guidance.attach(pipe, replay=replay):
            assert difference(run(), expected) < TOLERANCE
    assert difference(plain, expected) > MARGIN * TOLERANCE
    assert torch.equal(run(), plain)


def assert_skipped_as_by_hand(case, layer, skip, module, *returned):
    """Skip-layer guidance, where a module gives back its inputs.

    Args:
        case: The tiny pipeline.
        layer: The full name of the layer's self-attention.
        skip: What of its block is skipped.
        module: The full name of that.
        returned: Which of its inputs it gives, in this order.
    """
    guidance = SkipLayerGuidance(scale=SCALE, layers=layer, skip=skip)
    _assert_guided_as_by_hand(case, guidance, module, lambda own, step: giving(*returned))


def assert_shuffled_as_by_hand(case, layer, start=0, block=None):
    """Token perturbation guidance, where the image's tokens enter a block in another order.

    They begin at `start` in what the block gets, by default what has the layer.
    """
    block = block or layer.rpartition(".")[0]
    count = torch.Size(case.images[layer].grid).numel()

    def shuffled(own, step):
        order = ShuffleTokens(0).permutation(layer, step, count)

        def forward(hidden_states, *args, **kwargs):
            if hidden_states.ndim == 4:  # a feature map
                places = hidden_states.flatten(2)[:, :, order].reshape(hidden_states.shape)
                return own(places, *args, **kwargs)
            before, image, after = hidden_states.tensor_split([start, start + count], dim=1)
            return own(torch.cat([before, image[:, order], after], dim=1), *args, **kwargs)

        return forward

    guidance = TokenPerturbationGuidance(scale=SCALE, layers=layer)
    _assert_guided_as_by_hand(case, guidance, block, shuffled)
