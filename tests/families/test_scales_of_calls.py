"""Pipelines that multiply by the argument of their call, whatever a callback makes of the scale."""

import pytest
import tiny_from_flux
import torch
from comparison import run_of
from older_versions import first_case, tiny_cases
from tiny_pipelines import difference

from smoothed_energy import SkipLayerGuidance
from smoothed_energy.families import family_of

NAMES = ("ernie_image", "latte", "lumina_next", "prx", "allegro", "sana_video")
CASES = [case for name in NAMES for case in tiny_cases(f"tiny_{name}")[:1]]


def lower(pipe, *_):
    pipe._guidance_scale = 0.5 if type(pipe).__name__ in BY_CALL else 1.5
    return {}


#: They ask the call whether there is CFG, too.
BY_CALL = ("AllegroPipeline", "LattePipeline", "LuminaPipeline")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)
def test_a_callback_that_changes_the_scale_changes_nothing(case):
    pipe = case.pipeline()
    run = run_of(pipe, case, cfg=True, num_inference_steps=3)
    changed = run_of(pipe, case, cfg=True, num_inference_steps=3, callback_on_step_end=lower)
    plain = run()
    assert torch.equal(changed(), plain)
    # Lumina-Next has no one scale that could be told to a combination.
    combine = () if case.family == "Lumina-Next" else "fuse"
    guidance = SkipLayerGuidance(layers=list(case.images)[-1:], scale=3.0, combine=combine)
    with guidance.attach(pipe):
        guided = run()
        assert difference(guided, plain) > 1e-3
        assert torch.equal(changed(), guided)


def test_fibo_has_cfg_by_the_call_at_the_scale_of_the_callback():
    denoiser = tiny_from_flux.FIBO.pipeline().transformer
    given = {"guidance_scale": 0.5, "arguments": {"guidance_scale": 4.0}}
    layout = family_of(denoiser).layout(denoiser, given.get, None)
    assert (layout.groups, layout.cfg_scale) == (2, 0.5)


def test_fibo_2_multiplies_by_the_scale_of_the_callback():
    denoiser = first_case("tiny_bria_fibo2").pipeline().transformer
    given = {"guidance_scale": 2.0, "arguments": {"guidance_scale": 4.0}}
    layout = family_of(denoiser).layout(denoiser, given.get, None)
    assert (layout.separate, layout.cfg_scale) == (True, 2.0)
