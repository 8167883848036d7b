"""Families whose pipelines are modular alone: the guider compared with brute force."""

from brute_force_attention import brute_force
from comparison import run_of
from tiny_pipelines import MARGIN, TOLERANCE, difference

from smoothed_energy import GaussianBlur, SmoothedEnergyGuidance
from smoothed_energy.modular import SmoothedEnergyGuider


def assert_guider_as_by_brute_force(case, *, sigma=1.0, temporal=None, cfg=True):
    """A guider of this package gives what brute force gives, with CFG and without."""

    def run(scale):
        guidance = SmoothedEnergyGuidance(
            blur=GaussianBlur(sigma, temporal_sigma=temporal), scale=scale, layers=list(case.images)
        )
        guider = SmoothedEnergyGuider(guidance, guidance_scale=case.scale if cfg else 1.0)
        pipe = case.pipeline(guider=guider)
        return pipe, run_of(pipe, case, num_inference_steps=2)

    pipe, plain_run = run(0.0)
    plain = plain_run()
    with brute_force(pipe, case, cfg=cfg, sigma=sigma, temporal=temporal or 0.0):
        expected = plain_run()
    found = run(3.0)[1]()
    changed, error = difference(plain, expected), difference(found, expected)
    print(f"\nerror {error:.1e}, effect {changed:.1e}")
    assert changed > MARGIN * TOLERANCE, "the guidance does too little for a test"
    assert error < TOLERANCE
