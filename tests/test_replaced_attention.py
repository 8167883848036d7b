"""Guidance where `F.scaled_dot_product_attention` was replaced for the whole process."""

import pytest
import torch
import torch.nn.functional as F
from comparison import run_of
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from tiny_flux import CASES
from tiny_pipelines import difference

from small_models import inputs, small_pipeline, small_unet, unet_inputs
from smoothed_energy import (
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SmoothedEnergyGuidance,
)
from smoothed_energy.intercept.attention import AttentionBackendError

NATIVE = F.scaled_dot_product_attention
GUIDANCES = [
    SmoothedEnergyGuidance(blur="gaussian:1", layers=["down", "mid"]),
    SmoothedEnergyGuidance(blur="gaussian:1", on="key", layers="mid"),
    PerturbedAttentionGuidance(layers="mid"),
    SelfAttentionGuidance(),
]


def fused(query, key, value, attn_mask=None, **options):
    """As `sageattn` where it falls back: other shapes and dtypes go to the native function."""
    return NATIVE(query, key, value, attn_mask=attn_mask, **options)


def sliced_heads(query, key, value, **options):
    parts = [x.split(1, dim=1) for x in (query, key, value)]
    return torch.cat([NATIVE(*part, **options) for part in zip(*parts, strict=True)], dim=1)


def sliced_rows(query, key, value, **options):
    parts = [x.split(1) for x in (query, key, value)]
    return torch.cat([NATIVE(*part, **options) for part in zip(*parts, strict=True)])


def sliced_queries(query, key, value, **options):
    return torch.cat([NATIVE(part, key, value, **options) for part in query.split(7, dim=-2)], -2)


def by_hand(query, key, value, attn_mask=None, **options):
    """An implementation of its own, as `sageattn` on a GPU."""
    logits = query @ key.mT / query.shape[-1] ** 0.5
    logits = logits if attn_mask is None else logits + attn_mask
    return logits.softmax(-1) @ value


@pytest.mark.parametrize("guidance", GUIDANCES, ids=["seg", "keys", "pag", "sag"])
@pytest.mark.parametrize("wrapper", [fused, sliced_heads, sliced_rows, sliced_queries])
def test_a_wrapper_that_ends_in_the_native_function_gives_the_same_guidance(
    monkeypatch, wrapper, guidance
):
    pipe = small_pipeline()
    plain = pipe(**inputs()).images
    with guidance.attach(pipe):
        expected = pipe(**inputs()).images
        monkeypatch.setattr(F, "scaled_dot_product_attention", wrapper)
        found = pipe(**inputs()).images
    assert difference(found, expected) < 1e-4
    assert difference(plain, expected) > 1e-3


@pytest.fixture
def replaced(monkeypatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", by_hand)


def message_of(run):
    with pytest.raises(AttentionBackendError) as caught:
        run()
    return str(caught.value)


def test_another_implementation_is_named_and_so_is_the_way_back(replaced):
    unet = small_unet()
    with GUIDANCES[0].attach(unet) as attachment:
        attachment.step(0, 1)
        found = message_of(lambda: unet(**unet_inputs()))
        assert f"was replaced by {__name__}.by_hand" in found
        assert "AttnProcessor2_0()" not in found
        # It says how to put the function back.
        way_back = found[found.index("torch.nn.functional.scaled_dot_product_attention = ") :]
        assert eval(way_back.split("= ")[1].split(")")[0]) is NATIVE
        F.scaled_dot_product_attention = torch._C._nn.scaled_dot_product_attention
        unet(**unet_inputs())


def test_on_a_transformer_nothing_is_said_of_a_unet(replaced):
    pipe = CASES[0].pipeline()
    with SmoothedEnergyGuidance(layers="b1").attach(pipe):
        found = message_of(run_of(pipe, CASES[0]))
    assert "by_hand" in found
    assert "unet" not in found


def test_another_backend_is_named_and_the_native_one_advised():
    pipe = CASES[0].pipeline()
    run = run_of(pipe, CASES[0])
    with SmoothedEnergyGuidance(layers="b1").attach(pipe):
        expected = run()
        pipe.transformer.set_attention_backend("flex")
        try:
            found = message_of(run)
        finally:
            pipe.transformer.reset_attention_backend()
        assert "its attention backend is 'flex'" in found
        assert 'set_attention_backend("native")' in found
        pipe.transformer.set_attention_backend("native")
        try:
            assert difference(run(), expected) < 1e-4
        finally:
            pipe.transformer.reset_attention_backend()


class MyLinearAttnProcessor:
    def __call__(self, attn, hidden_states, *args, **kwargs):
        return hidden_states


class Mine(MyLinearAttnProcessor):
    pass


@pytest.mark.parametrize(
    ("processor", "advice", "not_advised"),
    [
        (
            MyLinearAttnProcessor(),
            "no softmax.*other layers, or a method that.*tpg",
            "Processor2_0",
        ),
        (Mine(), r"for example set_attn_processor\(.*AttnProcessor2_0\(\)\)", "pipe.unet"),
    ],
)
def test_the_advice_is_for_the_processor_at_hand(processor, advice, not_advised):
    unet = small_unet()
    unet.set_attn_processor(
        {
            name: processor if "attn1" in name else AttnProcessor2_0()
            for name in unet.attn_processors
        }
    )
    assert isinstance(unet.mid_block.attentions[0].transformer_blocks[0].attn1, Attention)
    with GUIDANCES[0].attach(unet) as attachment:
        attachment.step(0, 1)
        with pytest.raises(AttentionBackendError, match=advice) as caught:
            unet(**unet_inputs())
    assert not_advised not in str(caught.value)


def test_a_flux_processor_of_ones_own_gets_the_name_of_the_right_one():
    pipe = CASES[0].pipeline()
    attention = pipe.transformer.transformer_blocks[1].attn
    before = attention.processor

    class Still(type(before)):
        def __call__(self, attn, hidden_states, encoder_hidden_states, *args, **kwargs):
            return hidden_states, encoder_hidden_states

    attention.set_processor(Still())
    try:
        with SmoothedEnergyGuidance(layers="b1").attach(pipe):
            found = message_of(run_of(pipe, CASES[0]))
    finally:
        attention.set_processor(before)
    assert "set_processor(FluxAttnProcessor())" in found
    assert "AttnProcessor2_0" not in found
