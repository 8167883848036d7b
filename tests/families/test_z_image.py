"""Guidance of Z-Image."""

import math
from contextlib import ExitStack

import pytest
import torch
from brute_force_attention import brute_force
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_pipelines import MARGIN, TOLERANCE, difference, noise
from tiny_z_image import CASES, LAYERS, MORE, texts, transformer

from smoothed_energy import GaussianBlur, SmoothedEnergyGuidance
from smoothed_energy.denoisers.image_tokens import GridError
from smoothed_energy.families.layer_selection import select_layers

CASE = CASES[0]


@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(cfg, sigma):
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma)


@pytest.mark.parametrize("case", MORE, ids=lambda case: case.family)
def test_other_pipelines(case):
    assert_guided_as_by_brute_force(case, cfg=True)


def test_unconditional_formulation():
    assert_guided_as_by_brute_force(CASE, cfg=True, formulation="unconditional")


def test_skipped_modules():
    layer = LAYERS[0]
    block = layer.removesuffix(".attention")
    assert_skipped_as_by_hand(CASE, layer, "block", block, "hidden_states")
    assert_skipped_as_by_hand(CASE, layer, "attention", layer, "hidden_states")
    feed_forward = f"{block}.feed_forward"
    assert_skipped_as_by_hand(CASE, layer, "feed-forward", feed_forward, "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, LAYERS[0])


def test_cfg_ends_on_the_way():
    """The first two of three steps have CFG."""
    pipe = CASE.pipeline()
    truncated = {"cfg_truncation": 0.3, "num_inference_steps": 3}
    run = run_of(pipe, CASE, cfg=True, **truncated)
    plain = run()
    seen = []
    with ExitStack() as stack:
        stack.enter_context(brute_force(pipe, CASE, cfg=True))

        def without_cfg(pipe, index, timestep, tensors):
            following = pipe.scheduler.timesteps[index + 1 :][:1]
            stack.close()
            if len(following):
                seen.append(bool((1000 - following) / 1000 <= 0.3))
                stack.enter_context(brute_force(pipe, CASE, cfg=seen[-1]))
            return tensors

        expected = run_of(pipe, CASE, cfg=True, callback_on_step_end=without_cfg, **truncated)()
    assert seen == [True, False]
    guidance = SmoothedEnergyGuidance(blur=GaussianBlur(1.0), scale=3.0, layers=list(LAYERS))
    with guidance.attach(pipe):
        assert difference(run(), expected) < TOLERANCE
    assert difference(plain, expected) > MARGIN * TOLERANCE


def test_steps_by_the_time_that_the_denoiser_is_told():
    """The time runs backwards, and is not in a place where pipelines usually keep it."""
    pipe = CASE.pipeline()
    assert not hasattr(pipe, "_current_timestep")
    run = run_of(pipe, CASE, num_inference_steps=4)
    with SmoothedEnergyGuidance(layers="b1", steps="0:0.25").attach(pipe) as attachment:
        run()
    assert attachment.last_run.calls == 4
    assert attachment.last_run.guided_calls == 1


def predict(rows, sizes=((12, 8),) * 4, **options):
    lengths = [(5, 40, 70, 9)[row] for row in rows]
    given = {
        "x": [noise(4, 1, *sizes[row], seed=9 + row) for row in rows],
        "t": torch.full((len(rows),), 0.3),
        "cap_feats": [texts(length)[0] for length in lengths],
    }
    with torch.no_grad():
        output = transformer()(**given, **options)
    return output[0] if isinstance(output, tuple) else output.sample


@pytest.mark.parametrize("replay", [False, True])
def test_rows_of_one_batch(replay):
    """A loop of one's own may stack `[u, c]`, as many rows as a picture has channels."""
    both, alone = predict(range(4)), predict([2, 3])
    guidance = SmoothedEnergyGuidance(blur=GaussianBlur(1.0), layers="b1,b2")
    with guidance.attach(transformer(), replay=False) as attachment:
        attachment.step(0, 1)
        delta = [one - other for one, other in zip(predict([2, 3]), alone, strict=True)]
    with guidance.attach(transformer(), replay=replay) as attachment:
        attachment.step(0, 1, conditional_rows=2)
        guided = predict(range(4), return_dict=False)
    for one, clean, shift in zip(guided, both, delta * 2, strict=True):
        assert difference(one, clean + shift) < TOLERANCE
        assert difference(one, clean) > MARGIN * TOLERANCE


def test_pictures_of_several_sizes_are_refused():
    with (
        SmoothedEnergyGuidance(layers="b1").attach(transformer()) as attachment,
        pytest.raises(GridError, match="expected pictures"),
    ):
        attachment.step(0, 1)
        predict([0, 1], sizes=((12, 8), (8, 8)))


def test_layers():
    layers = select_layers(transformer(), "all")
    assert [layer.code for layer in layers] == ["n0", "n1", "b0", "b1", "b2", "b3"]
    assert {(layer.heads, layer.width) for layer in layers} == {(2, 32)}
