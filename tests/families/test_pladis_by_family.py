"""PLADIS equals itself by hand in families with attention to the text under names of their own."""

import math
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from comparison import run_of
from sparse_by_hand import sparse_weights
from test_nag_by_family import CROSS
from tiny_pipelines import MARGIN, TOLERANCE, difference

from smoothed_energy import SparseTextAttention
from smoothed_energy.families import family_of

SCALE = 2.0


def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **more):
    shared = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(shared, dim=1).double() for x in (key, value))
    logits = query.double() @ key.mT / math.sqrt(query.shape[-1])
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        logits = logits.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        logits = logits + attn_mask
    weights = SCALE * sparse_weights(logits) + (1 - SCALE) * logits.softmax(-1)
    return (weights @ value).to(query.dtype)


@contextmanager
def by_hand(modules):
    native = F.scaled_dot_product_attention

    def wrapped(forward):
        def call(*args, **kwargs):
            F.scaled_dot_product_attention = attend
            try:
                return forward(*args, **kwargs)
            finally:
                F.scaled_dot_product_attention = native

        return call

    for module in modules:
        module.forward = wrapped(module.forward)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


@pytest.mark.parametrize("name", CROSS)
def test_cross_attention(name):
    case, _ = CROSS[name]
    pipe = case.pipeline()
    denoiser = getattr(pipe, case.denoiser)
    family = family_of(denoiser)
    run = run_of(pipe, case, num_inference_steps=1)
    plain = run()
    with by_hand(family.cross_attentions(denoiser, family.layers(denoiser))):
        expected = run()
    with SparseTextAttention(scale=SCALE).attach(pipe):
        found = run()
    assert difference(expected, plain) > MARGIN * TOLERANCE / 30
    assert difference(found, expected) < TOLERANCE / 30
    assert torch.equal(run(), plain)
