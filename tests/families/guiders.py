"""Families whose pipelines are modular alone: the guider compared with brute force."""

import torch
from as_ordinary import guided_by
from brute_force_attention import brute_force
from brute_force_fusion import fused
from comparison import run_of
from fusion_in_places import in_places
from tiny_pipelines import MARGIN, TOLERANCE, difference

from smoothed_energy import GaussianBlur, SmoothedEnergyGuidance


def assert_guider_as_by_brute_force(case, *, sigma=1.0, temporal=None, cfg=True, fuse=False):
    """A guider of this package gives what brute force gives, with CFG and without."""
    pipe = case.pipeline()
    run = run_of(pipe, case, cfg=cfg)
    plain = run()
    scale, places = 3.0, {}
    if fuse:
        scale = 30.0
        places["combined_with"] = in_places(lambda d, text: fused(d, text) - text, pipe, case)
    settings = {"cfg": cfg, "sigma": sigma, "temporal": temporal or 0.0, "scale": scale}
    with brute_force(pipe, case, **settings, **places):
        expected = run()
    guidance = SmoothedEnergyGuidance(
        blur=GaussianBlur(sigma, temporal_sigma=temporal),
        scale=scale,
        layers=list(case.images),
        combine="fuse" if fuse else (),
    )
    with guided_by(guidance, pipe):
        found = run()
    changed, error = difference(plain, expected), difference(found, expected)
    print(f"\nerror {error:.1e}, effect {changed:.1e}")
    assert changed > MARGIN * TOLERANCE, "the guidance does too little for a test"
    assert error < TOLERANCE
    assert torch.equal(run(), plain)
