"""Self-guidance tells more noise where timesteps count to 1000, and is refused elsewhere."""

import pytest
import tiny_wan
import tiny_z_image
import torch
from comparison import run_of
from older_versions import tiny_cases

from smoothed_energy import SelfGuidance

NAMES = ("ace_step", "cascade", "longcat_audio", "mochi", "omnigen", "svd")
REFUSED = [case for name in NAMES for case in tiny_cases(f"tiny_{name}")[:1]]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.family)
def test_other_times_are_refused(case):
    pipe = case.pipeline()
    # OmniGen has CFG always.
    run = run_of(pipe, case, cfg=case.family == "OmniGen")
    plain = run()
    with SelfGuidance().attach(pipe), pytest.raises(ValueError, match="time"):
        run()
    assert torch.equal(run(), plain)


@pytest.mark.parametrize(
    ("case", "more"), [(tiny_wan.CASES[0], 10.0), (tiny_z_image.CASES[0], -0.01)]
)
def test_a_later_time_is_one_of_more_noise(case, more):
    pipe = case.pipeline()
    denoiser = getattr(pipe, case.denoiser)
    name = "timestep" if case is tiny_wan.CASES[0] else "t"
    told = []

    def note(module, args, kwargs):
        told.append(kwargs[name] if name in kwargs else args[1])

    hook = denoiser.register_forward_pre_hook(note, with_kwargs=True)
    with SelfGuidance(steps="0.5:1").attach(pipe):
        run_of(pipe, case)()
    hook.remove()
    second, first = told[-1].double(), told[-2].double()
    assert torch.allclose(second - first, torch.tensor(more).double(), atol=1e-5)
