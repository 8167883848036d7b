"""Second passes that are saved: differences used again, and guidance that ends by itself."""

import math

import pytest
import torch
from brute_force_guidance import Term, brute_force
from tiny_pipelines import (
    MARGIN,
    TOLERANCE,
    cfg,
    difference,
    guidance_for,
    latents_of,
    mid_grids,
    new_unet,
    prompts,
    sd,
    size,
)

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.schedule import as_refresh


def run_of(pipe, **changes):
    settings = {"guidance_scale": 5.0, "num_inference_steps": 6, **changes}
    return latents_of(pipe, **prompts(2), **size(), **settings)


class Reusing:
    """The correction of every n-th guided call, and the one before it in between."""

    def __init__(self, n):
        self.n, self.calls, self.kept = n, 0, None

    def __call__(self, delta, prediction, g):
        if self.calls % self.n == 0:
            self.kept = delta
        self.calls += 1
        return self.kept


@pytest.mark.parametrize("every", [2, 3, 10])
def test_a_difference_is_used_again_until_the_next_pass(every):
    pipe = sd()
    run = run_of(pipe)
    plain = run()
    with brute_force(pipe.unet, Term(mid_grids(), combine=Reusing(every)), cfg(5.0)):
        expected = run()
    guidance = guidance_for(Term(mid_grids()), every=every)
    assert guidance.from_json(guidance.to_json()) == guidance
    with guidance.attach(pipe) as attachment:
        for _ in range(2):  # A second run starts anew.
            assert difference(run(), expected) < TOLERANCE
            passes = -(-6 // every)
            assert attachment.last_run.guided_calls == passes
            assert attachment.last_run.reused_calls == 6 - passes
    assert difference(plain, expected) > MARGIN * TOLERANCE


class Following:
    """Corrections of some calls, and in between what their trend along `-log(sigma)` says."""

    def __init__(self, passes, sigmas, share):
        self.passes, self.sigmas, self.share, self.call, self.made = passes, sigmas, share, -1, []

    def __call__(self, delta, prediction, g):
        self.call += 1
        x = -math.log(self.sigmas[self.call])
        if self.call in self.passes:
            self.made.append((x, delta))
            return delta
        (x1, last), (x0, first) = self.made[-1], self.made[-2] if len(self.made) > 1 else (0, 0)
        if len(self.made) < 2:
            return last
        return last + self.share * (x - x1) / (x1 - x0) * (last - first)


@pytest.mark.parametrize("formulation", ["conditional", "unconditional"])
@pytest.mark.parametrize(
    ("refresh", "passes"),
    [
        ("every:2,extrapolate=0.5", [0, 2, 4]),
        ("early:4,extrapolate=1", None),
        ("early:3,power=1.5", None),
        ("early:3,extrapolate=0", None),
    ],
)
def test_differences_go_on_as_they_went(refresh, passes, formulation):
    pipe = sd()
    run = run_of(pipe)
    pipe.scheduler.set_timesteps(6)
    alphas = [float(pipe.scheduler.alphas_cumprod[t]) for t in pipe.scheduler.timesteps]
    sigmas = [math.sqrt((1 - alpha) / alpha) for alpha in alphas]
    rule = as_refresh(refresh)
    if passes is None:
        # The shares of the way, in degrees of 90.
        degrees = [math.degrees(math.atan(1 / sigma)) for sigma in sigmas]
        passes = [0]
        for index in range(1, 6):
            if (len(passes) / rule.count) ** rule.power * 90 <= degrees[index]:
                passes.append(index)
    assert 1 < len(passes) < 6
    following = Following(passes, sigmas, rule.extrapolate)
    term = Term(mid_grids(), combine=following, branch=formulation[0])
    with brute_force(pipe.unet, term, cfg(5.0)):
        expected = run()
    guidance = guidance_for(Term(mid_grids()), refresh=refresh, formulation=formulation)
    assert guidance.from_json(guidance.to_json()) == guidance
    with guidance.attach(pipe) as attachment:
        for _ in range(2):
            assert difference(run(), expected) < TOLERANCE
            assert attachment.last_run.guided_calls == len(passes)
            assert attachment.last_run.reused_calls == 6 - len(passes)
    with guidance_for(Term(mid_grids()), formulation=formulation).attach(pipe):
        # Few second passes come close to all of them, but are not the same.
        assert difference(run(), expected) > 10 * TOLERANCE


class Drifting:
    """The correction of calls by which the clean prediction has moved far enough."""

    def __init__(self, threshold):
        self.threshold, self.seen, self.passes = threshold, None, []

    def __call__(self, delta, prediction, g):
        clean = prediction["c"].flatten(1)
        if self.seen is not None:
            moved = (clean - self.seen).norm(dim=1) / self.seen.norm(dim=1)
            if float(moved.max()) <= self.threshold:
                self.passes.append(False)
                return self.kept
        self.passes.append(True)
        self.seen, self.kept = clean, delta
        return delta


@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_a_clean_prediction_that_moved_has_a_second_pass(threshold):
    pipe = sd()
    run = run_of(pipe)
    drifting = Drifting(threshold)
    with brute_force(pipe.unet, Term(mid_grids(), combine=drifting), cfg(5.0)):
        expected = run()
    assert 1 < sum(drifting.passes) < 6, drifting.passes
    guidance = guidance_for(Term(mid_grids()), refresh=f"drift:{threshold},extrapolate=0")
    with guidance.attach(pipe) as attachment:
        for _ in range(2):
            assert difference(run(), expected) < TOLERANCE
            assert attachment.last_run.guided_calls == sum(drifting.passes)
            assert attachment.last_run.reused_calls == 6 - sum(drifting.passes)


def test_a_difference_is_used_with_the_scale_of_its_step():
    pipe = sd()
    run = run_of(pipe, num_inference_steps=2)
    weights = iter([1.0, 0.5])
    reusing = Reusing(2)
    term = Term(
        mid_grids(),
        scale=4.0,
        combine=lambda delta, prediction, g: next(weights) * reusing(delta, prediction, g),
    )
    with brute_force(pipe.unet, term, cfg(5.0)):
        expected = run()
    with guidance_for(Term(mid_grids()), scale="linear:4:2", every=2).attach(pipe):
        assert difference(run(), expected) < TOLERANCE


def test_a_difference_of_another_batch_or_size_is_not_used():
    unet = new_unet()
    text = torch.randn(3, 5, 32)
    with torch.no_grad(), SmoothedEnergyGuidance(layers="mid", every=9).attach(unet) as attachment:
        seen = []
        for index, shape in enumerate([(1, 12, 8), (3, 12, 8), (3, 8, 8), (3, 8, 8)]):
            attachment.step(index, 9)
            sample = torch.randn(shape[0], 4, *shape[1:])
            unet(sample, 500, encoder_hidden_states=text[: shape[0]])
            seen.append(attachment.last_run.reused_calls)
    assert seen == [0, 0, 0, 1]


def similarities(pipe, run, guidance):
    """The cosines of clean and perturbed predictions, from the brute force's differences."""
    found = []

    def record(delta, prediction, g):
        clean = prediction["c"].flatten(1).double()
        perturbed = clean - delta.flatten(1).double() / 3.0
        found.append(float(torch.cosine_similarity(clean, perturbed).min()))
        return delta

    with brute_force(pipe.unet, Term(mid_grids(), combine=record), cfg(5.0)):
        run()
    return found


@pytest.mark.parametrize("steps", ["adaptive:{}", "0:1&adaptive:{}"])
def test_guidance_ends_once_the_predictions_agree(steps):
    pipe = sd()
    run = run_of(pipe)
    cosines = similarities(pipe, run, None)
    # Between the greatest of the first calls and one that exceeds it.
    last = max(range(1, 6), key=lambda index: cosines[index] - max(cosines[:index]))
    before = max(cosines[:last])
    assert cosines[last] > before, cosines
    threshold = (before + cosines[last]) / 2
    left = iter([True] * (last + 1) + [False] * 9)
    term = Term(mid_grids(), active=lambda time: next(left))
    with brute_force(pipe.unet, term, cfg(5.0)):
        expected = run()
    guidance = guidance_for(Term(mid_grids()), steps=steps.format(threshold))
    assert guidance.from_json(guidance.to_json()) == guidance
    with guidance.attach(pipe) as attachment:
        for _ in range(2):
            assert difference(run(), expected) < TOLERANCE
            assert attachment.last_run.guided_calls == last + 1


def test_on_a_bare_denoiser_the_first_step_begins_anew():
    unet = new_unet()
    sample, text = torch.randn(1, 4, 12, 8), torch.randn(1, 5, 32)

    def call(time=500):
        return unet(sample, time, encoder_hidden_states=text).sample

    with torch.no_grad(), SmoothedEnergyGuidance(layers="mid", every=2).attach(unet) as attachment:
        with pytest.raises(RuntimeError, match=r"call step\(index, count\)"):
            call()
        seen = []
        for index in (0, 0, 1, 2):
            attachment.step(index, 4)
            call()
            seen.append((attachment.last_run.guided_calls, attachment.last_run.reused_calls))
    assert seen == [(1, 0), (2, 0), (2, 1), (3, 1)]


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2"])
def test_every_is_a_number_of_steps(every):
    with pytest.raises(ValueError, match=r"every=.*integer >= 1"):
        SmoothedEnergyGuidance(every=every)
