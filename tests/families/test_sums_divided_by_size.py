"""A prediction of zero is refused where a pipeline divides what it predicts by its size."""

import pytest
import tiny_from_flux
import tiny_hunyuan_image
import tiny_joyimage
import tiny_nucleusmoe
from comparison import run_of

from smoothed_energy import guidance_from_text

CASES = {
    "Bria": (tiny_from_flux.BRIA, {"normalize": True}),
    "HunyuanImage": (tiny_hunyuan_image.case("x", guidance_scale=3.0, guidance_rescale=0.7), {}),
    "JoyImage": (tiny_joyimage.CASES[0], {}),
    "NucleusMoE": (tiny_nucleusmoe.CASES[0], {}),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused(name):
    case, changes = CASES[name]
    pipe = case.pipeline()
    run = run_of(pipe, case, cfg=True, **changes)
    with (
        guidance_from_text("cfg-zero").attach(pipe),
        pytest.raises(ValueError, match="divides what it predicts by its size"),
    ):
        run()
    with guidance_from_text("cfg-zero; zero_steps=0").attach(pipe) as attachment:
        run()
    assert attachment.last_run.guided_calls > 0
