"""Every experiment runs, on the embedded model in two steps."""

import json
from dataclasses import replace

from smoothed_energy.evaluation import Resampling
from smoothed_energy.experiments import EXPERIMENTS
from smoothed_energy.experiments.reproduce import reproduce
from smoothed_energy.experiments.study import Scope, Study
from smoothed_energy.experiments.subject import AVATARS


def test_every_experiment_runs(tmp_path):
    little = replace(
        AVATARS,
        num_inference_steps=2,
        scales=(0.3, 1.0, 3.0),
        sigmas=("gaussian:1", "gaussian:inf"),
        cfg_scales=(1.0, 3.0),
        kernels=(3, 13),
        box_kernels=(3, 13),
        prompts=AVATARS.prompts[:1],
        picture_seeds=(0, 1),
    )
    scope = Scope(
        samples=4,
        selection=4,
        pilots=2,
        resampling=Resampling(count=20),
        workers=1,
        device="cpu",
    )
    outcome = reproduce(list(EXPERIMENTS.values()), Study(little, tmp_path, scope), command="all")
    assert not outcome.failed
    page = outcome.page.read_text(encoding="utf-8")
    for name in EXPERIMENTS:
        assert f'id="{name}"' in page
    found = json.loads(outcome.numbers.read_text())
    assert {one["verdict"] for one in found["verdicts"]} <= {
        "holds",
        "does not hold",
        "can't be told",
    }
    assert len(found["verdicts"]) > 20
