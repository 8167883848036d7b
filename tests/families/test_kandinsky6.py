"""Guidance of Kandinsky 6."""

import math

import pytest
import torch
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_kandinsky6 import CASES, FEW_STEPS, MORE
from tiny_pipelines import MARGIN, TOLERANCE, difference

from smoothed_energy import MomentumGuidance, SmoothedEnergyGuidance
from smoothed_energy.denoisers.latent_layout import ChannelsLast
from smoothed_energy.families import Arguments, family_of
from smoothed_energy.intercept.module_call import ModuleCall
from smoothed_energy.methods import SlidingWindowGuidance

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BLOCK = "visual_transformer_blocks.1"


@pytest.mark.parametrize(
    ("cfg", "sigma", "temporal"),
    [(False, 1.0, None), (False, math.inf, math.inf), (True, 1.0, 1.0)],
)
def test_as_by_brute_force(cfg, sigma, temporal):
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma, temporal=temporal)


@pytest.mark.parametrize("case", MORE, ids=lambda case: case.family)
def test_from_a_picture_and_without_sound(case):
    assert_guided_as_by_brute_force(case, cfg=True)


def test_a_step_of_several_velocities():
    assert_guided_as_by_brute_force(FEW_STEPS)
    pipe = FEW_STEPS.pipeline()
    with MomentumGuidance().attach(pipe), pytest.raises(ValueError, match="of one size"):
        run_of(pipe, FEW_STEPS)()


BOTH = ("hidden_states", "encoder_hidden_states")


def test_skipped_modules():
    assert_skipped_as_by_hand(CASE, LAYER, "block", BLOCK, *BOTH)
    assert_skipped_as_by_hand(MORE[1], LAYER, "block", BLOCK, *BOTH)
    assert_skipped_as_by_hand(CASE, LAYER, "attention", LAYER, "hidden_states")
    network = f"{BLOCK}.video_dec_block.feed_forward"
    assert_skipped_as_by_hand(CASE, LAYER, "feed-forward", network, "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, LAYER, block=BLOCK)
    assert_shuffled_as_by_hand(MORE[0], LAYER, block=BLOCK)


def test_latents_are_the_first_channels():
    pipe = CASE.pipeline()
    family = family_of(pipe.transformer)
    given = torch.randn(2, 3, 8, 12, 9)
    call = ModuleCall(pipe.transformer, pipe.transformer.forward, (given,), {})
    latents = family.latents(Arguments(call.argument))
    assert torch.equal(latents, given[..., :4])
    other = family.with_latents(call, -latents).argument("hidden_states")
    assert torch.equal(other, torch.cat([-given[..., :4], given[..., 4:]], dim=-1))
    # Windows would cut channels.
    with SlidingWindowGuidance().attach(pipe), pytest.raises(ValueError, match="into windows"):
        run_of(pipe, CASE)()


def test_the_sound_hears_of_the_video_at_the_next_step():
    pipe = CASE.pipeline()

    def sound(steps):
        run = run_of(pipe, CASE, num_inference_steps=steps)
        found = []
        pipe.transformer.register_forward_hook(lambda module, args, out: found.append(out[1]))
        run()
        return found

    plain = sound(2)
    with SmoothedEnergyGuidance(layers=LAYER).attach(pipe):
        guided = sound(2)
    assert difference(guided[0], plain[0]) < TOLERANCE
    assert difference(guided[1], plain[1]) > MARGIN * TOLERANCE


def test_a_picture_is_left_out_of_predictions():
    video = torch.randn(2, 4, 4, 5, 6)
    layout = ChannelsLast(given=1)
    assert layout.unpack(video).shape == (2, 6, 3, 4, 5)
    packed = layout.pack(layout.unpack(video), video)
    assert torch.equal(packed[:, :-1], video[:, :-1])
    assert not packed[:, -1].any()
