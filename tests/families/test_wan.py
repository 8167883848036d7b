"""Guidance of Wan 2.1 and 2.2."""

import math
from contextlib import ExitStack, contextmanager

import pytest
import torch
from brute_force_attention import _explicitly
from comparison import assert_guided_as_by_brute_force, run_of
from tiny_pipelines import MARGIN, TOLERANCE, difference
from tiny_wan import CASES, IMAGES, VIDEO_TO_VIDEO, image_to_video, transformer, wan

from smoothed_energy import GaussianBlur, GuidanceInterval, SmoothedEnergyGuidance, Steps
from smoothed_energy.families.layer_selection import LayerError
from smoothed_energy.integrations.pipeline import find_denoisers

TEXT_TO_VIDEO, TOKEN_TIMESTEPS, IMAGE_TO_VIDEO = CASES


@pytest.mark.parametrize("cfg", [False, True])
@pytest.mark.parametrize(
    ("sigma", "temporal"),
    [(1.0, None), (0.0, 1.0), (1.0, 1.0), (math.inf, None), (math.inf, math.inf)],
)
def test_as_by_brute_force(cfg, sigma, temporal):
    assert_guided_as_by_brute_force(TEXT_TO_VIDEO, cfg=cfg, sigma=sigma, temporal=temporal)


@pytest.mark.parametrize(
    "case", [TOKEN_TIMESTEPS, IMAGE_TO_VIDEO, VIDEO_TO_VIDEO], ids=lambda case: case.family
)
def test_other_pipelines(case):
    assert_guided_as_by_brute_force(case, cfg=True, sigma=1.0, temporal=1.0)


def test_unconditional_formulation():
    assert_guided_as_by_brute_force(TEXT_TO_VIDEO, cfg=True, formulation="unconditional")


def two(cls=wan, boundary=0.875, channels=4, **changes):
    """A pipeline with one denoiser for high noise and another one for low noise."""
    denoisers = [transformer(seed, channels) for seed in (0, 3)]
    names = ("transformer", "transformer_2")
    return cls(**{**dict(zip(names, denoisers, strict=True)), **changes}, boundary_ratio=boundary)


def run_two(pipe, **changes):
    case = IMAGE_TO_VIDEO if "Image" in type(pipe).__name__ else TEXT_TO_VIDEO
    return run_of(pipe, case, cfg=True, num_inference_steps=4, **changes)


@contextmanager
def by_hand(pipe, scales, low, sigma, scale=3.0):
    """A block in which the scheduler gets guided predictions.

    Args:
        pipe: The pipeline.
        scales: CFG's `g` for high and for low noise.
        low: For each step, whether it is one of low noise.
        sigma: Of the blur over space.
        scale: That of the guidance.
    """
    calls, step = [], pipe.scheduler.step
    low = iter(low)

    def recording(denoiser, forward):
        def recorded(*args, **kwargs):
            output = forward(*args, **kwargs)
            with _explicitly(denoiser, IMAGES, sigma, 0.0):
                perturbed = forward(*args, **kwargs)
            calls.append((denoiser, output[0], perturbed[0]))
            return output

        return recorded

    def combined(model_output, *args, **kwargs):
        (denoiser, c, perturbed), (again, u, _) = calls
        calls.clear()
        is_low = next(low)
        assert denoiser is again is (pipe.transformer_2 if is_low else pipe.transformer)
        plain = u + scales[is_low] * (c - u)
        assert torch.allclose(model_output, plain, rtol=1e-4, atol=1e-5)
        return step(plain + scale * (c - perturbed), *args, **kwargs)

    with ExitStack() as patches:
        for denoiser in find_denoisers(pipe):
            vars(denoiser)["forward"] = recording(denoiser, denoiser.forward)
            patches.callback(vars(denoiser).pop, "forward")
        pipe.scheduler.step = combined
        patches.callback(vars(pipe.scheduler).pop, "step")
        yield


HALF = (False, False, True, True)


@pytest.mark.parametrize(
    ("pipeline", "low", "scales"),
    [
        (two, HALF, (5.0, 3.0)),
        (two, HALF, (5.0, None)),
        # The call without the prompt is made, and not used.
        (two, HALF, (5.0, 1.0)),
        (lambda: two(transformer=None, boundary=1.1), [True] * 4, (5.0, 3.0)),
        (lambda: two(transformer_2=None, boundary=0.0), [False] * 4, (5.0, 3.0)),
        (lambda: two(transformer_2=transformer(0, 4)), HALF, (5.0, 3.0)),
        (lambda: two(image_to_video, channels=12), HALF, (5.0, 3.0)),
    ],
    ids=["both", "one scale", "no CFG", "only low", "only high", "the same twice", "image"],
)
def test_two_denoisers(pipeline, low, scales):
    pipe = pipeline()
    run = run_two(pipe, guidance_scale_2=scales[1])
    plain = run()
    with by_hand(pipe, (scales[0], scales[1] or scales[0]), low, sigma=1.0):
        expected = run()
    changed = difference(plain, expected)
    guidance = SmoothedEnergyGuidance(blur=GaussianBlur(1.0), scale=3.0, layers=list(IMAGES))
    errors = []
    for replay in (True, False):
        with guidance.attach(pipe, replay=replay) as attachment:
            errors.append(difference(run(), expected))
        assert attachment.last_run.calls == 8
        assert attachment.last_run.layers == set(IMAGES)
    print(f"\nerror {max(errors):.1e}, effect {changed:.1e}")
    assert changed > MARGIN * TOLERANCE
    assert max(errors) < TOLERANCE
    assert torch.equal(run(), plain)
    assert all("forward" not in vars(denoiser) for denoiser in find_denoisers(pipe))


@pytest.mark.parametrize(("every", "passes"), [(1, 4), (2, 2), (3, 2)])
def test_a_call_that_the_pipeline_does_not_use_is_not_guided(every, passes):
    pipe = two()
    guidance = SmoothedEnergyGuidance(blur="gaussian:1", layers=list(IMAGES), every=every)
    with guidance.attach(pipe) as attachment:
        run_two(pipe, guidance_scale_2=1.0)()
    done = attachment.last_run
    assert (done.calls, done.guided_calls, done.reused_calls) == (8, passes, 4 - passes)


def test_the_denoisers_of_a_pipeline():
    pipe = two()
    assert find_denoisers(pipe) == (pipe.transformer, pipe.transformer_2)
    assert find_denoisers(pipe)[0] is pipe.transformer
    assert find_denoisers(two(transformer_2=None)) == (pipe.transformer,)
    assert find_denoisers(two(transformer=None)) == (pipe.transformer_2,)
    assert len(find_denoisers(two(transformer_2=transformer(0, 4)))) == 1


def test_layers_must_be_in_both_denoisers():
    shallow = transformer(seed=3)
    shallow = type(shallow)(**{**shallow.config, "num_layers": 2})
    pipe = two(transformer_2=shallow)
    with pytest.raises(LayerError, match="out of range"):
        SmoothedEnergyGuidance(layers="b3").attach(pipe)


def test_steps_are_those_of_the_whole_schedule():
    pipe = two()
    with SmoothedEnergyGuidance(steps=Steps(0.25, 0.75)).attach(pipe) as attachment:
        run_two(pipe)()
    assert attachment.last_run.calls == 8
    assert attachment.last_run.guided_calls == 2


def test_a_difference_of_one_denoiser_is_not_used_for_the_other():
    pipe = two()
    reached = []
    for denoiser in find_denoisers(pipe):
        denoiser.blocks[3].register_forward_pre_hook(
            lambda module, args: reached.append(pipe.transformer_2.blocks[3] is module)
        )
    # In both, one step is guided anew and one with its difference.
    guidance = SmoothedEnergyGuidance(layers="mid", every=4)
    with guidance.attach(pipe) as attachment:
        run_two(pipe)()
    for denoiser in find_denoisers(pipe):
        denoiser.blocks[3]._forward_pre_hooks.clear()
    assert attachment.last_run.guided_calls == 2
    assert attachment.last_run.reused_calls == 2
    assert reached == [False] * 5 + [True] * 5


def test_a_guidance_interval_acts_in_both_denoisers():
    pipe = two()
    expected = run_two(pipe, guidance_scale=1.0)()
    never = GuidanceInterval(Steps(0.99, 1.0))
    with never.attach(pipe):
        assert difference(run_two(pipe)(), expected) < TOLERANCE
    assert difference(run_two(pipe)(), expected) > MARGIN * TOLERANCE


def test_a_denoiser_with_guidance_of_its_own_is_refused():
    pipe = two()
    with (
        SmoothedEnergyGuidance().attach(pipe),
        SmoothedEnergyGuidance().attach(pipe.transformer_2),
        pytest.raises(RuntimeError, match="not to both"),
    ):
        run_two(pipe)()
