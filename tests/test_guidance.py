"""Guidance values: checking, comparison, text and JSON."""

import json
import math

import numpy as np
import pytest

from smoothed_energy import (
    BoxBlur,
    GaussianBlur,
    GuidanceInterval,
    NoiseLevels,
    SmoothedEnergyGuidance,
    Steps,
)


def test_the_defaults_are_those_of_the_paper():
    guidance = SmoothedEnergyGuidance()
    assert guidance.blur == GaussianBlur(math.inf)
    assert guidance.scale == 3.0
    assert guidance.layers == "mid"
    assert guidance.steps == Steps(0, 1)
    assert guidance.formulation == "conditional"


def test_text_forms_give_equal_values():
    by_text = SmoothedEnergyGuidance(blur="gaussian:10", scale=3, layers=["mid"], steps="begin")
    by_value = SmoothedEnergyGuidance(blur=GaussianBlur(10), layers="mid", steps=Steps(0, 1 / 3))
    assert by_text == by_value
    assert hash(by_text) == hash(by_value)
    assert by_text != SmoothedEnergyGuidance(blur="gaussian:9", steps="begin")


@pytest.mark.parametrize(
    "guidance",
    [
        SmoothedEnergyGuidance(),
        SmoothedEnergyGuidance(blur=GaussianBlur(0.1, kernel_size=7, padding="symmetric")),
        SmoothedEnergyGuidance(blur=BoxBlur(31, alpha=0.9), layers=["down", "m0"]),
        SmoothedEnergyGuidance(blur="ema:0.95", steps=Steps(1 / 3, 0.7), scale=0.1),
        SmoothedEnergyGuidance(steps=NoiseLevels(0.28, 5.42), formulation="unconditional"),
    ],
    ids=str,
)
def test_json_round_trips(guidance, tmp_path):
    assert SmoothedEnergyGuidance.from_json(guidance.to_json()) == guidance
    guidance.save(tmp_path / "guidance.json")
    assert SmoothedEnergyGuidance.load(tmp_path / "guidance.json") == guidance
    assert json.loads(guidance.to_json())["method"] == "seg"


@pytest.mark.parametrize(
    "scale",
    [-1.01, -2, math.nan, math.inf, "much", "linear:3", "linear:3:nan", "table:", None, True],
)
def test_a_scale_that_is_no_finite_number_from_minus_one_up_is_refused(scale):
    with pytest.raises(
        ValueError, match=r"is not a guidance scale; expected a finite number >= -1"
    ):
        SmoothedEnergyGuidance(scale=scale)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blur": "gaussian:-1"}, "-1"),
        ({"blur": "median:3"}, "median"),
        ({"blur": "box:4"}, "odd"),
        ({"layers": "middle"}, "middle.*mid"),
        ({"layers": []}, "empty"),
        ({"steps": "start"}, "start.*begin"),
        ({"steps": "0.7:0.2"}, "0.7"),
        ({"formulation": "cond"}, "'cond'.*'conditional', 'unconditional'"),
    ],
)
def test_bad_settings_are_refused_with_the_valid_choices(settings, message):
    with pytest.raises(ValueError, match=message):
        SmoothedEnergyGuidance(**settings)


def test_settings_of_another_method_are_refused():
    with pytest.raises(ValueError, match="method='pag' is not SmoothedEnergyGuidance"):
        SmoothedEnergyGuidance.from_dict({"method": "pag"})
    with pytest.raises(ValueError, match=r"'sigma' is not a setting.*blur"):
        SmoothedEnergyGuidance.from_dict({"sigma": 1})


def test_json_that_is_no_object_is_refused():
    with pytest.raises(ValueError, match="JSON object; got list"):
        SmoothedEnergyGuidance.from_json("[]")


def test_any_real_number_is_a_scale():
    assert SmoothedEnergyGuidance(scale=np.float32(3)) == SmoothedEnergyGuidance(scale=3)


def test_a_predicate_selects_layers_but_cannot_be_saved(unet):
    guidance = SmoothedEnergyGuidance(layers=lambda layer: layer.part == "mid")
    assert [layer.code for layer in guidance.select(unet)] == ["m0", "m1"]
    with pytest.raises(ValueError, match="predicate"):
        guidance.to_json()


@pytest.mark.parametrize(
    ("guidance", "needs"),
    [
        (SmoothedEnergyGuidance(steps="begin"), False),
        (SmoothedEnergyGuidance(steps="begin&adaptive:0.9"), True),
        (GuidanceInterval("sigma:0.3:5"), False),
    ],
    ids=["fractions", "adaptive", "interval"],
)
def test_a_guidance_looks_at_predictions_if_its_steps_do(guidance, needs):
    assert guidance.needs_similarity is needs
