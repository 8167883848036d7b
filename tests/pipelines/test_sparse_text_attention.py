"""PLADIS: entmax by sorting equals a bisection, and cross attention is what the formula says."""

import math

import pytest
import torch
from comparison import run_of
from hypothesis import given, settings
from hypothesis import strategies as st
from nag_by_hand import merged
from tiny_flux import CASES as FLUX
from tiny_pipelines import MARGIN, TOLERANCE, difference, noise
from tiny_pixart import CASES as PIXART
from tiny_unet import CASES as UNETS
from tiny_wan import CASES as WAN

from smoothed_energy import SmoothedEnergyGuidance, SparseTextAttention, guidance_from_text
from smoothed_energy.families import LayerError
from smoothed_energy.methods import pladis
from smoothed_energy.methods.pladis import entmax15

NUMBERS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12)


def bisected(logits):
    """The threshold found by halving an interval, of one row."""
    half = [value / 2 for value in logits]
    low, high = max(half) - 1, max(half)
    for _ in range(200):
        middle = (low + high) / 2
        if sum(max(value - middle, 0) ** 2 for value in half) > 1:
            low = middle
        else:
            high = middle
    return [max(value - low, 0) ** 2 for value in half]


@settings(deadline=None, max_examples=200)
@given(NUMBERS)
def test_entmax_is_that_of_a_bisection(logits):
    found = entmax15(torch.tensor(logits, dtype=torch.float64))
    assert torch.allclose(found, torch.tensor(bisected(logits), dtype=torch.float64), atol=1e-9)
    assert found.sum().item() == pytest.approx(1)
    assert (found >= 0).all()


@settings(deadline=None, max_examples=50)
@given(NUMBERS, st.floats(-100, 100))
def test_entmax_does_not_see_what_is_added_to_all(logits, shift):
    one = torch.tensor(logits, dtype=torch.float64)
    assert torch.allclose(entmax15(one + shift), entmax15(one), atol=1e-9)


def test_entmax_lies_between_even_and_hard():
    logits = torch.tensor([[0.3, -1.0, 0.9, 0.1]], dtype=torch.float64)
    assert torch.allclose(entmax15(1e-9 * logits), torch.full((1, 4), 0.25, dtype=torch.float64))
    assert torch.equal(entmax15(1e3 * logits), torch.tensor([[0, 0, 1, 0]], dtype=torch.float64))
    # Softmax has no zeros.
    assert (entmax15(2 * logits) == 0).any()
    masked = torch.tensor([[1.0, -math.inf, 1.0], [-math.inf] * 3])
    assert torch.allclose(entmax15(masked), torch.tensor([[0.5, 0, 0.5], [0, 0, 0]]))


def replaced(module, scale):
    """A module's forward function, attention written out."""

    def split(tokens):
        return tokens.unflatten(2, (module.heads, -1)).transpose(1, 2)

    def projected(name, tokens):
        norm = getattr(module, f"norm_{name}", None)
        tokens = getattr(module, f"to_{name}")(tokens)
        return split(tokens if norm is None else norm(tokens)).double()

    def forward(hidden_states, encoder_hidden_states, attention_mask=None, *rest, **more):
        query, key = projected("q", hidden_states), projected("k", encoder_hidden_states)
        logits = query @ key.mT / math.sqrt(query.shape[-1])
        if attention_mask is not None:
            logits = logits + attention_mask[:, None]
        rows = [bisected(row) for row in logits.flatten(0, -2).tolist()]
        sparse = torch.tensor(rows, dtype=torch.float64).reshape(logits.shape)
        weights = scale * sparse + (1 - scale) * logits.softmax(-1)
        values = split(module.to_v(encoder_hidden_states)).double()
        output = merged(weights @ values).to(hidden_states.dtype)
        for layer in module.to_out:
            output = layer(output)
        return output

    return forward


@pytest.mark.parametrize("case", [UNETS[1], PIXART[0], WAN[0]], ids=lambda case: case.family)
def test_cross_attention_is_that_of_the_formula(case, monkeypatch):
    monkeypatch.setattr(pladis, "_MOST", 500)  # some queries at a time
    pipe = case.pipeline()
    denoiser = getattr(pipe, case.denoiser)
    run = run_of(pipe, case, cfg=True, num_inference_steps=1)
    plain = run()
    modules = [m for name, m in denoiser.named_modules() if name.endswith("attn2")]
    for module in modules:
        module.forward = replaced(module, 2.0)
    try:
        expected = run()
    finally:
        for module in modules:
            del module.forward
    with SparseTextAttention(scale=2.0).attach(pipe) as attachment:
        found = run()
    # In a tiny PixArt the text does little.
    assert difference(expected, plain) > MARGIN * TOLERANCE / 10
    assert difference(found, expected) < TOLERANCE / 10
    assert len(attachment.last_run.layers) == len(modules)
    with SparseTextAttention(scale=0).attach(pipe):
        assert torch.equal(run(), plain)
    assert torch.equal(run(), plain)


def test_second_passes_have_it_too():
    case = UNETS[1]
    pipe = case.pipeline()
    run = run_of(pipe, case, cfg=True)
    found = []
    for replay in (True, False):
        with SparseTextAttention().attach(pipe):
            only = run()
            with SmoothedEnergyGuidance(layers="mid").attach(pipe, replay=replay):
                found.append(run())
    assert difference(*found) < TOLERANCE
    assert difference(found[0], only) > MARGIN * TOLERANCE


def test_loops_of_ones_own_need_to_say_nothing():
    unet = UNETS[0].pipeline().unet
    arguments = noise(2, 4, 12, 8, seed=1), 500, noise(2, 5, 32, seed=2)
    with torch.no_grad():
        plain = unet(*arguments).sample
        with SparseTextAttention().attach(unet):
            found = unet(*arguments).sample
    assert difference(found, plain) > TOLERANCE


def test_settings_and_refusals():
    guidance = guidance_from_text("pladis; scale=1.5; layers=mid")
    assert guidance == SparseTextAttention(scale=1.5, layers="mid")
    with pytest.raises(ValueError):
        SparseTextAttention(scale=-1)
    with pytest.raises(LayerError, match="text alone"):
        SparseTextAttention().attach(FLUX[0].pipeline())
