"""Distances of trajectories, and how fast they grow."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tiny_pipelines import latents_of, prompts, sd, size

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.trace import Trace, Trajectory, divergence

STEPS = 12


def random_trajectory(samples=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (STEPS, samples, 4, 5, 3)
    return Trajectory(torch.randn(shape, generator=generator, dtype=torch.float64))


def apart_by(a, distances):
    """A trajectory at these distances `(steps, samples)` of `a`."""
    direction = random_trajectory(a.latents.shape[1], seed=1).latents
    norms = direction.flatten(2).norm(dim=-1)
    factor = (torch.as_tensor(distances) / norms)[..., None, None, None]
    return Trajectory(a.latents + factor * direction)


def test_distances_are_those_of_numpy():
    a, b = random_trajectory(), random_trajectory(seed=3)
    found = divergence(a, b)
    for step in range(STEPS):
        for sample in range(2):
            one, other = (x.latents[step, sample].numpy().ravel() for x in (a, b))
            row = found.table.query(f"step == {step} and sample == {sample}").iloc[0]
            assert row["l2"] == pytest.approx(np.linalg.norm(one - other))
            assert row["relative_l2"] == pytest.approx(
                np.linalg.norm(one - other) / np.linalg.norm(one)
            )
            assert row["max"] == pytest.approx(np.abs(one - other).max())


def test_the_first_step_that_differs_and_the_first_that_differs_by_more():
    a = random_trajectory(3)
    distances = torch.zeros(STEPS, 3, dtype=torch.float64)
    distances[4:, 0] = 1e-15
    distances[7:, 0] = 1e-3
    distances[2:, 1] = 1e-3
    found = divergence(a, apart_by(a, distances))
    assert found.first_difference() == [4, 2, None]
    assert found.first_above(1e-13) == [7, 2, None]
    assert found.first_above(10.0) == [None, None, None]


@settings(max_examples=20)
@given(rate=st.floats(-1, 1), start=st.integers(0, 4), seed=st.integers(0, 99))
def test_an_exponential_has_its_own_rate(rate, start, seed):
    a = random_trajectory(2, seed)
    times = torch.arange(STEPS, dtype=torch.float64)
    distances = torch.stack([torch.exp(rate * times), 3 * torch.exp(rate * times)], dim=1)
    distances[:start] = 0
    found = divergence(a, apart_by(a, 1e-2 * distances)).growth()
    assert found.rate == pytest.approx(rate, abs=1e-6)
    assert found.low <= found.rate <= found.high
    assert found.high - found.low < 1e-6
    assert (found.first, found.last, found.over) == (start, STEPS - 1, "samples")


def test_the_interval_over_samples_is_that_of_a_mean_of_rates():
    a, rates = random_trajectory(4), np.array([0.1, 0.2, 0.4, 0.5])
    distances = np.exp(np.outer(np.arange(STEPS), rates))
    found = divergence(a, apart_by(a, distances)).growth(2, 9, confidence=0.9)
    low, high = stats.t.interval(0.9, 3, loc=rates.mean(), scale=stats.sem(rates))
    assert (found.rate, found.low, found.high) == pytest.approx((rates.mean(), low, high))


def test_the_interval_of_one_sample_covers_the_rate_as_often_as_it_says():
    generator = np.random.default_rng(0)
    a, covered = random_trajectory(1), 0
    for _ in range(200):
        logs = 0.3 * np.arange(STEPS) + generator.normal(size=STEPS)
        found = divergence(a, apart_by(a, np.exp(logs)[:, None])).growth(confidence=0.9)
        assert found.over == "steps"
        covered += found.low <= 0.3 <= found.high
    assert 165 <= covered <= 194  # 180 expected, three standard deviations


def test_what_has_no_rate_is_refused():
    a = random_trajectory()
    with pytest.raises(ValueError, match="three steps at least; got 12 to 11"):
        divergence(a, a).growth()
    with pytest.raises(ValueError, match="do not differ at all in some of the steps 0 to 11"):
        divergence(a, a).growth(0)
    with pytest.raises(ValueError, match="got 3 to 4"):
        divergence(a, random_trajectory(seed=2)).growth(3, 4)
    with pytest.raises(ValueError, match=r"confidence=1\.5"):
        divergence(a, random_trajectory(seed=2)).growth(confidence=1.5)
    with pytest.raises(ValueError, match="can't be compared"):
        divergence(a, random_trajectory(3))
    with pytest.raises(ValueError, match=r"expected Trace\(..., trajectory=True\)"):
        pipe = sd()
        with Trace(pipe, layers=()) as trace:
            latents_of(pipe, **prompts(), **size(), num_inference_steps=1)()
        _ = trace.trajectories


def test_trajectories_part_right_after_the_first_guided_step_and_not_before():
    pipe = sd()
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=5.0, num_inference_steps=6)
    with Trace(pipe, (), (), trajectory=True) as trace:
        run()
        for steps in ("all", "0.5:1"):
            with SmoothedEnergyGuidance(layers="mid", steps=steps).attach(pipe):
                run()
        run()
    plain, guided, late, again = trace.trajectories
    assert len(plain) == 6
    assert divergence(plain, again).first_difference() == [None, None]
    # The inputs of step 0 are the noise, and that of step 1 is the first that guidance changes.
    assert divergence(plain, guided).first_difference() == [1, 1]
    assert divergence(plain, guided).first_above(1e-13) == [1, 1]
    # Guidance of the second half begins at step 3, and is seen in the input of step 4.
    assert divergence(plain, late).first_difference() == [4, 4]


def test_half_precision_is_kept_exactly_and_double_precision_as_it_is():
    from tiny_pipelines import new_unet

    for dtype, kept in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        model = new_unet().to(dtype)
        x = torch.randn(1, 4, 12, 8, dtype=dtype)
        with Trace(model, "mid", trajectory=True) as trace, torch.no_grad():
            model(x, 500, encoder_hidden_states=prompts()["prompt_embeds"].to(dtype))
        latents = trace.trajectories[0].latents
        assert latents.dtype == kept
        assert torch.equal(latents[0], x.to(kept))
        assert trace.layers["frobenius_norm"].notna().all()
        x.zero_()
        assert latents.any(), "what is kept is a copy"
