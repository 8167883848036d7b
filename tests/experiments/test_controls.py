"""Controls are as strong as what they are controls of, by what was measured in their runs."""

import math
from types import SimpleNamespace

import pytest

from smoothed_energy.experiments.best_scale import best_scales
from smoothed_energy.experiments.controls import matched_cfg, momentum_of_equal_norm
from smoothed_energy.experiments.drawn import Drawn, Sample
from smoothed_energy.experiments.guidances import sag, unguided
from smoothed_energy.experiments.row import UNGUIDED, Row
from smoothed_energy.experiments.study import PILOT_SEED, SELECTION_SEED
from smoothed_energy.experiments.subject import AVATARS, SDXL


class FakeStudy:
    """Draws nothing: the facts of a row are a function of it."""

    def __init__(self, facts, distance=None, samples=6):
        self.facts, self.samples = facts, samples
        self.scope = SimpleNamespace(pilots=4, selection=500)
        self.subject = SimpleNamespace(prompts=("a", "b"))
        self.drawn, self.kept = [], {}
        self.measuring = SimpleNamespace(
            distances=lambda drawn, name: {row.label: distance(row) for row in drawn.rows},
            extractor=SimpleNamespace(name="fake-8"),
        )

    def draw(self, name, rows, *, seeds=None, prompts=None):
        self.drawn.append((rows, list(seeds)))
        samples = [Sample(seed) for seed in seeds]
        facts = {row.label: [self.facts(row)] * len(samples) for row in rows}
        return Drawn(tuple(rows), tuple(samples), {}, facts)

    def draw_captioned(self, name, rows, seeds):
        return self.draw(name, rows, seeds=seeds)

    def keep(self, what, numbers):
        self.kept[what] = numbers


def test_matched_cfg_has_the_mean_effective_scale():
    study = FakeStudy(lambda row: {"effective_cfg_scale": 4.25})
    row = Row("SEG", ("seg; scale=3",), cfg=3.0)
    control = matched_cfg(study, row, captions=True)
    assert (control.cfg, control.guidance, control.controls) == (4.25, (), "SEG")
    ((rows, seeds),) = study.drawn
    assert rows == [row]
    assert seeds == list(range(PILOT_SEED, PILOT_SEED + 4))


def test_without_cfg_the_runs_have_one_that_does_nothing():
    study = FakeStudy(lambda row: {"effective_cfg_scale": 2.0})
    matched_cfg(study, Row("SEG", ("seg",)))
    assert study.drawn[0][0][0].cfg == pytest.approx(1, abs=1e-5)
    assert study.drawn[0][0][0].cfg > 1  # a pipeline predicts without the prompt, too


def test_an_unknown_effective_scale_is_refused():
    study = FakeStudy(lambda row: {"effective_cfg_scale": math.nan})
    with pytest.raises(RuntimeError, match="effective_cfg_scale is not known of 4 pictures"):
        matched_cfg(study, Row("SEG", ("seg",)))


def scale_of(row):
    return float(row.guidance[0].removeprefix("momentum; scale="))


def test_momentum_is_matched_by_its_norm():
    """The norm is not quite proportional to the scale."""

    def facts(row):
        if row.label == "SEG":
            return {"relative_correction": 0.2}
        return {"relative_correction": 0.5 * scale_of(row) ** 0.9}

    study = FakeStudy(facts)
    control = momentum_of_equal_norm(study, Row("SEG", ("seg",)))
    assert 0.5 * scale_of(control) ** 0.9 == pytest.approx(0.2, rel=0.02)
    assert control.controls == "SEG"


def test_a_norm_that_is_not_reached_has_no_control():
    study = FakeStudy(lambda row: {"relative_correction": 0.2 if row.label == "SEG" else 0.1})
    assert momentum_of_equal_norm(study, Row("SEG", ("seg",))) is None
    kept = study.kept["momentum as strong as SEG"]
    assert not kept["matched"]
    assert kept["wanted"] == 0.2
    assert [*kept["relative norms by scale"].values()] == [0.1] * 6


def test_a_control_of_no_correction_at_all_is_none():
    study = FakeStudy(lambda row: {"relative_correction": 0.2 if row.label == "SEG" else 0.0})
    assert momentum_of_equal_norm(study, Row("SEG", ("seg",))) is None


def test_a_control_acts_in_the_steps_of_its_row():
    study = FakeStudy(lambda row: {"relative_correction": 0.2})
    control = momentum_of_equal_norm(study, Row("SEG", ("seg; steps=begin",)), steps="begin")
    assert control.guidance == ("momentum; scale=0.5; steps=begin",)


@pytest.mark.parametrize("scale", [1.0, 0.97])
def test_an_effective_scale_of_1_or_less_has_no_control(scale):
    study = FakeStudy(lambda row: {"effective_cfg_scale": scale})
    assert matched_cfg(study, Row("SEG", ("seg",))) is None
    assert study.kept["matched CFG of SEG"]["scale"] == scale


def test_sag_is_compared_with_an_unguided_row_of_its_scheduler():
    row = sag(SDXL, 1.0)
    plain, other = unguided(SDXL)
    assert row.baseline == other.label != plain.label
    assert row.scheduler == other.scheduler == "DDIMScheduler"
    assert sag(AVATARS, 1.0).baseline == UNGUIDED.label
    assert unguided(AVATARS) == [UNGUIDED]


def test_the_best_scale_is_chosen_on_other_seeds():
    def distance(row):
        return 10.0 if row == UNGUIDED else abs(scale_of(row) - 1.1)

    study = FakeStudy(lambda row: {}, distance)
    methods = {"m": lambda scale: Row(f"m {scale:g}", (f"momentum; scale={scale:g}",))}
    chosen = best_scales(study, "name", methods, (0.5, 1.0, 2.0))
    assert chosen.scales == {"m": 1.0}
    assert study.drawn[0][1] == list(range(SELECTION_SEED, SELECTION_SEED + 6))
    assert study.kept["best scales"]["frechet"]["unguided"] == 10.0
