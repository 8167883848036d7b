"""Families whose pipelines are modular alone: the guider compared with brute force."""

import torch
from as_ordinary import guided_by
from brute_force_attention import brute_force
from comparison import run_of
from tiny_pipelines import MARGIN, TOLERANCE, difference

from smoothed_energy import GaussianBlur, SmoothedEnergyGuidance


def assert_guider_as_by_brute_force(case, *, sigma=1.0, temporal=None, cfg=True):
    """A guider of this package gives what brute force gives, with CFG and without."""
    pipe = case.pipeline()
    run = run_of(pipe, case, cfg=cfg)
    plain = run()
    settings = {"cfg": cfg, "sigma": sigma, "temporal": temporal or 0.0}
    with brute_force(pipe, case, **settings):
        expected = run()
    guidance = SmoothedEnergyGuidance(
        blur=GaussianBlur(sigma, temporal_sigma=temporal),
        scale=3.0,
        layers=list(case.images),
    )
    with guided_by(guidance, pipe):
        found = run()
    changed, error = difference(plain, expected), difference(found, expected)
    print(f"\nerror {error:.1e}, effect {changed:.1e}")
    assert changed > MARGIN * TOLERANCE, "the guidance does too little for a test"
    assert error < TOLERANCE
    assert torch.equal(run(), plain)
