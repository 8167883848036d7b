"""Guidance of denoisers that derive from Wan's: VACE, Animate, ChronoEdit, SkyReels V2."""

import math

import pytest
import torch
from brute_force_in_calls import assert_guided_in_calls
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import assert_skipped_as_by_hand
from tiny_pipelines import MARGIN, TOLERANCE, difference, noise
from tiny_wan import WIDTH
from tiny_wan_derived import (
    CASES,
    CHRONOEDIT,
    FORCING,
    SKYREELS_FROM_PICTURE,
    VACE,
    VACE_OF_A_PICTURE,
    animate_transformer,
)

from smoothed_energy import SlidingWindowGuidance, SmoothedEnergyGuidance
from smoothed_energy.families import family_of

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)
BLOCK = "blocks.1"


@CASE
def test_as_by_brute_force(case):
    assert_guided_as_by_brute_force(case, cfg=True, temporal=1.0)
    assert_guided_as_by_brute_force(case, sigma=math.inf)


@pytest.mark.parametrize(
    "case", [VACE_OF_A_PICTURE, SKYREELS_FROM_PICTURE], ids=lambda case: case.family
)
def test_from_pictures(case):
    assert_guided_as_by_brute_force(case, cfg=True, sigma=1.0)


@CASE
def test_skipped(case):
    assert_skipped_as_by_hand(case, f"{BLOCK}.attn1", "block", BLOCK, "hidden_states")


def test_the_branch_of_vace_has_no_layers():
    transformer = VACE.pipeline().transformer
    layers = family_of(transformer).layers(transformer)
    assert [layer.name for layer in layers] == [f"blocks.{n}.attn1" for n in range(4)]


@pytest.mark.parametrize("case", CASES[:2], ids=lambda case: case.family)
def test_what_is_followed_has_no_windows(case):
    pipe = case.pipeline()
    with (
        SlidingWindowGuidance().attach(pipe),
        pytest.raises(ValueError, match="hidden_states into windows"),
    ):
        run_of(pipe, case)()


@pytest.mark.parametrize("replay", [False, True])
def test_animate_encodes_faces_of_several_rows_in_one_call(replay):
    """18 frames of two faces come in parts of 6, so that a row of such a part is no sample."""
    transformer = animate_transformer()
    given = {
        "hidden_states": noise(2, 12, 4, 8, 12, seed=1),
        "timestep": torch.tensor([300, 300]),
        "encoder_hidden_states": noise(2, 5, WIDTH, seed=2),
        "encoder_hidden_states_image": noise(2, 3, WIDTH, seed=3),
        "pose_hidden_states": noise(2, 4, 3, 8, 12, seed=4),
        "face_pixel_values": 50 * noise(2, 3, 9, 16, 16, seed=5),
    }

    def predict(rows):
        with torch.no_grad():
            return transformer(**{name: value[rows] for name, value in given.items()}).sample

    both, alone = predict(slice(2)), predict(slice(1, 2))
    guidance = SmoothedEnergyGuidance(blur="gaussian:1", layers="b0,b1")
    with guidance.attach(transformer, replay=False) as attachment:
        attachment.step(0, 1)
        delta = predict(slice(1, 2)) - alone
    with guidance.attach(transformer, replay=replay) as attachment:
        attachment.step(0, 1, conditional_rows=1)
        guided = predict(slice(2))
    assert difference(both, guided) > MARGIN * TOLERANCE
    assert difference(guided, both + delta.repeat(2, 1, 1, 1, 1)) < TOLERANCE


def test_frames_of_chronoedit_are_dropped_on_the_way():
    """A difference of all frames is not used for the two that are left."""
    pipe = CHRONOEDIT.pipeline()
    changes = {
        "enable_temporal_reasoning": True,
        "num_temporal_reasoning_steps": 2,
        "num_inference_steps": 4,
    }
    guidance = SmoothedEnergyGuidance(layers="mid", every=4)
    with guidance.attach(pipe) as attachment:
        latents = run_of(pipe, CHRONOEDIT, cfg=True, **changes)()
    assert latents.shape[2] == 2 < 3
    assert (attachment.last_run.guided_calls, attachment.last_run.reused_calls) == (2, 2)
    assert latents.isfinite().all()


@pytest.mark.parametrize(
    ("cfg", "changes"),
    [(False, {}), (True, {}), (True, {"ar_step": 1, "causal_block_size": 1})],
    ids=["alike", "alike, CFG", "one after the other"],
)
def test_frames_with_times_of_their_own(cfg, changes):
    assert_guided_in_calls(FORCING, cfg=cfg, **changes)


def test_steps_of_frames_with_times_of_their_own():
    pipe = FORCING.pipeline()
    guidance = SmoothedEnergyGuidance(layers="mid", steps="0:0.5")
    with guidance.attach(pipe) as attachment:
        run_of(pipe, FORCING, num_inference_steps=4)()
    assert (attachment.last_run.calls, attachment.last_run.guided_calls) == (4, 2)
    with guidance.attach(pipe), pytest.raises(ValueError, match="no single step of a schedule"):
        run_of(pipe, FORCING, ar_step=1, num_inference_steps=4)()


def test_rows_of_skyreels_are_told_how_fast_they_are():
    transformer = FORCING.pipeline().transformer
    given = {
        "hidden_states": noise(2, 4, 2, 4, 4, seed=1),
        "timestep": torch.tensor([300, 300]),
        "encoder_hidden_states": noise(2, 5, WIDTH, seed=2),
        "fps": [0, 1],
    }
    last = {name: value[1:] for name, value in given.items()}
    with torch.no_grad():
        plain, plain_last = transformer(**given).sample, transformer(**last).sample
        with SmoothedEnergyGuidance(layers="mid").attach(transformer) as attachment:
            attachment.step(0, 1)
            expected = transformer(**last).sample - plain_last
            attachment.step(0, 1, conditional_rows=1)
            delta = transformer(**given).sample - plain
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(delta, expected.expand_as(delta), rtol=0, atol=1e-5)
