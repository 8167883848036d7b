"""Processors that relate rows: second passes of the whole batch, as brute force has them."""

import math
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from brute_force_guidance import grid_blur_matrix
from diffusers import StableDiffusionControlNetPipeline, TextToVideoZeroPipeline
from diffusers.models.attention_processor import (
    AttnProcessor2_0,
    PAGCFGIdentitySelfAttnProcessor2_0,
    PAGIdentitySelfAttnProcessor2_0,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from tiny_pipelines import (
    DOWN,
    MARGIN,
    MID,
    TEXT_WIDTH,
    TOLERANCE,
    difference,
    latents_of,
    new_controlnet,
    new_unet,
    noise,
    picture,
    prompts,
    sd,
    size,
)

from smoothed_energy import (
    Autoguidance,
    EntropyRectifyingGuidance,
    GuidanceInterval,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SlidingWindowGuidance,
    SmoothedEnergyGuidance,
    TokenPerturbationGuidance,
)
from smoothed_energy.intercept.attention import AttentionBackendError
from smoothed_energy.trace import Trace

CrossFrame = vars(__import__(TextToVideoZeroPipeline.__module__, fromlist=["x"]))[
    "CrossFrameAttnProcessor2_0"
]
CFG, SCALE, SIGMA = 5.0, 3.0, 1.0
GUIDANCE = SmoothedEnergyGuidance(f"gaussian:{SIGMA}", scale=SCALE, layers=[MID])


class FromFirst:
    """Rows attend to the first row of their half of the batch, too (`alone`: to that only)."""

    alone = False

    def __init__(self, blur=None):
        self.blur = blur

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        half = len(hidden_states) // 2
        first = hidden_states[[0, half]].repeat_interleave(half, dim=0)
        source = first if self.alone else torch.cat([hidden_states, first], dim=1)

        def heads(projection, tokens):
            return projection(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query = heads(attn.to_q, hidden_states)
        key, value = heads(attn.to_k, source), heads(attn.to_v, source)
        if self.blur is None:
            attended = F.scaled_dot_product_attention(query, key, value)
        else:
            logits = self.blur @ (query.double() @ key.double().mT) / math.sqrt(query.shape[-1])
            attended = (logits.softmax(-1) @ value.double()).to(value.dtype)
        return attn.to_out[1](attn.to_out[0](attended.transpose(1, 2).flatten(2)))


class CrossFrameByHand(FromFirst):
    alone = True


class SharedAttentionProcessor(FromFirst):
    """Of the name that StyleAligned's has."""


def relating(model, processor):
    """The U-Net with a processor in all its self-attention."""
    found = {
        name: processor if ".attn1." in name else AttnProcessor2_0()
        for name in model.attn_processors
    }
    model.set_attn_processor(found)
    return model


@contextmanager
def brute_force(unet, perturbed):
    """Two passes of the whole batch, the second with another processor in `MID`."""
    forward = unet.forward

    def guided(sample, timestep, *args, **kwargs):
        u, c = forward(sample, timestep, *args, **{**kwargs, "return_dict": False})[0].chunk(2)
        processors = dict(unet.attn_processors)
        unet.set_attn_processor(dict(processors) | {f"{MID}.processor": perturbed})
        other = forward(sample, timestep, *args, **{**kwargs, "return_dict": False})[0].chunk(2)[1]
        unet.set_attn_processor(processors)
        both = torch.cat([u + CFG * (c - u) + SCALE * (c - other)] * 2)
        return UNet2DConditionOutput(both) if kwargs.get("return_dict", True) else (both,)

    unet.forward = guided
    try:
        yield
    finally:
        del unet.forward


def assert_as_by_brute_force(pipe, run, perturbed, rows="needed", guidance=GUIDANCE):
    plain = run()
    with brute_force(pipe.unet, perturbed):
        expected = run()
    assert difference(plain, expected) > MARGIN * TOLERANCE
    for replay in (True, False):
        with guidance.attach(pipe, replay=replay, rows=rows):
            assert difference(run(), expected) < TOLERANCE
    assert torch.equal(run(), plain)


BLUR = grid_blur_matrix((6, 4), SIGMA)


def test_frames_that_attend_to_the_first_one_equal_brute_force():
    model = relating(new_unet(), CrossFrame(batch_size=2))
    pipe = sd(
        StableDiffusionControlNetPipeline, model=model, controlnet=new_controlnet(new_unet(), 0)
    )
    frames = torch.cat([picture(seed=seed) for seed in range(3)])
    run = latents_of(pipe, **prompts(3), **size(), image=frames, guidance_scale=CFG)
    assert_as_by_brute_force(pipe, run, CrossFrameByHand(BLUR))


def test_attention_shared_with_a_reference_equals_brute_force():
    pipe = sd(model=relating(new_unet(), SharedAttentionProcessor()))
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=CFG)
    assert_as_by_brute_force(pipe, run, SharedAttentionProcessor(BLUR))


def test_processors_that_nobody_knows_equal_brute_force_with_all_rows():
    pipe = sd(model=relating(new_unet(), FromFirst()))
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=CFG)
    assert_as_by_brute_force(pipe, run, FromFirst(BLUR), rows="all")


def test_all_rows_are_had_when_it_attaches_again_too():
    pipe = sd(model=relating(new_unet(), FromFirst()))
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=CFG)
    with brute_force(pipe.unet, FromFirst(BLUR)):
        expected = run()
    attachment = GUIDANCE.attach(pipe, rows="all", replay=False)
    attachment.detach()
    with attachment:
        assert difference(run(), expected) < TOLERANCE
        assert not attachment.replay


def test_processors_put_in_between_two_runs_are_seen():
    pipe = sd(model=new_unet())
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=CFG)
    with GUIDANCE.attach(pipe):
        run()
        relating(pipe.unet, SharedAttentionProcessor())
        guided = run()
    with brute_force(pipe.unet, SharedAttentionProcessor(BLUR)):
        assert difference(guided, run()) < TOLERANCE


def test_in_a_loop_of_ones_own_they_are_known_too():
    model = relating(new_unet(), SharedAttentionProcessor())

    @torch.no_grad()
    def call():
        text = noise(4, 5, TEXT_WIDTH, seed=2)
        return model(noise(4, 4, 12, 8), 500, text, return_dict=False)[0]

    with GUIDANCE.attach(model) as attachment:
        attachment.step(0, 1, conditional_rows=2)
        u, c = call().chunk(2)
    with brute_force(model, SharedAttentionProcessor(BLUR)):
        expected = call().chunk(2)[0]
    assert difference(u + CFG * (c - u), expected) < TOLERANCE


def test_processors_of_pag_left_behind_in_other_layers_equal_brute_force():
    model = new_unet()
    left = {f"{DOWN}.processor": PAGIdentitySelfAttnProcessor2_0()}
    model.set_attn_processor(dict(model.attn_processors) | left)
    pipe = sd(model=model)
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=CFG)

    class ByHand(FromFirst):
        def __call__(self, attn, hidden_states, **kwargs):
            # Each row is the only one of a half.
            rows = [
                super(ByHand, self).__call__(attn, row[None].expand(2, -1, -1))[:1]
                for row in hidden_states
            ]
            return torch.cat(rows)

    class Own(ByHand):
        alone = True

    assert_as_by_brute_force(pipe, run, Own(BLUR))


@pytest.mark.parametrize(
    "left", [PAGIdentitySelfAttnProcessor2_0(), PAGCFGIdentitySelfAttnProcessor2_0()], ids=type
)
def test_processors_of_pag_left_behind_in_a_chosen_layer_are_refused(left):
    model = new_unet()
    model.set_attn_processor(dict(model.attn_processors) | {f"{MID}.processor": left})
    pipe = sd(model=model)
    prompt = prompts(3)
    run = latents_of(pipe, **prompt, **size(), guidance_scale=CFG)
    with GUIDANCE.attach(pipe), pytest.raises(AttentionBackendError, match=f"{MID}.*of the 6 rows"):
        run()


@pytest.mark.parametrize(
    "guidance",
    [
        PerturbedAttentionGuidance(layers=[MID]),
        SmoothedEnergyGuidance("gaussian:1", on="key", layers=[MID]),
        SelfAttentionGuidance(layers=[MID]),
    ],
    ids=["pag", "keys", "sag"],
)
def test_methods_that_need_a_rows_own_keys_are_refused(guidance):
    pipe = sd(model=relating(new_unet(), CrossFrame(batch_size=2)))
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=CFG)
    with guidance.attach(pipe), pytest.raises(AttentionBackendError, match=f"{MID}.*other rows"):
        run()


@pytest.mark.parametrize(
    ("processor", "rows"), [(SharedAttentionProcessor(), "needed"), (FromFirst(), "all")]
)
def test_rules_that_run_conditional_rows_alone_are_refused(processor, rows):
    pipe = sd(model=relating(new_unet(), processor))
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=CFG)
    with (
        GuidanceInterval(steps="0:0.5").attach(pipe),
        GUIDANCE.attach(pipe, rows=rows),
        pytest.raises(RuntimeError, match="runs the conditional rows alone"),
    ):
        run()


def weaker():
    """Another U-Net for the same latents."""
    model = new_unet()
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


METHODS = [
    GUIDANCE,
    PerturbedAttentionGuidance(layers=[MID]),
    EntropyRectifyingGuidance(layers=[DOWN], formulation="unconditional"),
    TokenPerturbationGuidance(layers=[DOWN]),
    SelfAttentionGuidance(),
    SlidingWindowGuidance(scale=0.5),
    Autoguidance(weak=weaker()),
]


@pytest.mark.parametrize("guidance", METHODS, ids=lambda guidance: guidance.method)
def test_all_rows_give_what_the_needed_ones_give_where_none_depends_on_others(guidance):
    pipe = sd(model=new_unet())
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=CFG)
    plain = run()
    with guidance.attach(pipe):
        needed = run()
    with guidance.attach(pipe, rows="all") as attachment:
        assert difference(run(), needed) < TOLERANCE
        assert attachment.last_run.guided_calls == 2
    assert difference(plain, needed) > MARGIN * TOLERANCE


@pytest.mark.parametrize(("rows", "evaluations"), [("needed", 3), ("all", 4)])
def test_passes_of_all_rows_count_for_all_branches(rows, evaluations):
    pipe = sd(model=new_unet())
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=CFG)
    with GUIDANCE.attach(pipe, rows=rows), Trace(pipe, layers=()) as trace:
        run()
    assert trace.steps["evaluations"].unique().tolist() == [evaluations]


def test_an_unknown_choice_of_rows_is_refused():
    with pytest.raises(ValueError, match=r"rows='some'.*needed.*all"):
        GUIDANCE.attach(sd(), rows="some")
