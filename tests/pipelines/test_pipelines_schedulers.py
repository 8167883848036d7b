"""Every scheduler that Stable Diffusion takes: guided runs equal brute force."""

import importlib.util

import pytest
from brute_force_guidance import Term
from diffusers import LCMScheduler, PNDMScheduler, TCDScheduler
from tiny_pipelines import (
    assert_guided_as_by_brute_force,
    ddim,
    guidance_for,
    latents_of,
    mid_grids,
    prompts,
    sd,
    size,
)

COMPATIBLE = {cls.__name__: cls for cls in [*ddim().compatibles, LCMScheduler, TCDScheduler]}
CASES = [(name, {}) for name in sorted(COMPATIBLE)]
CASES += [
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing", "solver_order": 3}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ("EulerDiscreteScheduler", {"timestep_type": "continuous", "prediction_type": "v_prediction"}),
    ("HeunDiscreteScheduler", {"use_karras_sigmas": True}),
    ("PNDMScheduler", {"skip_prk_steps": False}),
    ("UniPCMultistepScheduler", {"use_karras_sigmas": True}),
]
IDS = ["-".join([name.removesuffix("Scheduler"), *map(str, more)]) for name, more in CASES]


def pipe_with(name, settings):
    if name == "DPMSolverSDEScheduler" and importlib.util.find_spec("torchsde") is None:
        pytest.skip("DPMSolverSDEScheduler needs torchsde")
    base = {key: value for key, value in PNDMScheduler().config.items() if key[0] != "_"}
    base |= {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return sd(scheduler=COMPATIBLE[name].from_config(base | {"skip_prk_steps": True} | settings))


def first_third(scheduler, timestep):
    """Whether a timestep is in the first third of the scheduler's distinct ones."""
    times = list(dict.fromkeys(scheduler.timesteps.tolist()))
    return timestep in [time for index, time in enumerate(times) if 3 * index < len(times)]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_guidance_at_all_steps_and_in_the_first_third_equals_brute_force(name, settings):
    pipe = pipe_with(name, settings)
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=1.0, num_inference_steps=4)
    terms = [
        Term(mid_grids(), scale=2.0),
        Term(mid_grids(), sigma=2.0, active=lambda time: first_third(pipe.scheduler, time)),
    ]
    guidances = [guidance_for(terms[0]), guidance_for(terms[1], steps="begin")]
    assert_guided_as_by_brute_force(pipe, run, terms, guidances=guidances)
