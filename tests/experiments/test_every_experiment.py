"""Every experiment runs, on the embedded model in a few steps."""

import json
from dataclasses import replace

from smoothed_energy.evaluation import Resampling
from smoothed_energy.experiments import EXPERIMENTS
from smoothed_energy.experiments.reproduce import reproduce
from smoothed_energy.experiments.study import Scope, Study
from smoothed_energy.experiments.subject import AVATARS

#: It fits rates to the first and the last part of a run, which need more steps.
RATES = "re-appendix-a2"
LITTLE = replace(
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
SCOPE = Scope(
    samples=4, selection=4, pilots=2, resampling=Resampling(count=20), workers=1, device="cpu"
)


def test_every_experiment_runs(tmp_path):
    experiments = [one for one in EXPERIMENTS.values() if one.name != RATES]
    outcome = reproduce(experiments, Study(LITTLE, tmp_path, SCOPE), command="all")
    assert not outcome.failed
    page = outcome.page.read_text(encoding="utf-8")
    for one in experiments:
        assert f'id="{one.name}"' in page
    found = json.loads(outcome.numbers.read_text())
    assert {one["verdict"] for one in found["verdicts"]} <= {
        "holds",
        "does not hold",
        "can't be told",
    }
    assert len(found["verdicts"]) > 20


def test_rates_of_divergence_are_fitted(tmp_path):
    study = Study(replace(LITTLE, num_inference_steps=12), tmp_path, SCOPE)
    outcome = reproduce([EXPERIMENTS[RATES]], study, command="rates")
    assert not outcome.failed
    assert f'id="{RATES}"' in outcome.page.read_text(encoding="utf-8")
