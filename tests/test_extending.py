"""A method and a metric of a user's own: one file each, and a registration.

The same for a family is in `tests/families/test_registry.py`.
"""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from brute_force_guidance import Term, brute_force
from comparison import run_of
from diffusers import logging
from modular_pipelines import modular_xl, run_xl, xl_arguments
from tiny_model import text_to_image
from tiny_pipelines import (
    MARGIN,
    TOLERANCE,
    assert_guided_as_by_brute_force,
    cfg,
    difference,
    latents_of,
    size,
    xl,
    xl_mid_grids,
    xl_prompts,
)
from tiny_sana import CASES as SANA

from smoothed_energy import SmoothedEnergyGuidance, guidance_from_dict, guidance_from_text
from smoothed_energy.cli import main
from smoothed_energy.evaluation import METRICS
from smoothed_energy.families.layer_selection import LayerError
from smoothed_energy.guidance import Guidance
from smoothed_energy.methods import METHODS, as_guidances, guidance_to_text, register
from smoothed_energy.modular import SmoothedEnergyGuider
from smoothed_energy.report import read_settings

PAGE = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
(METHOD,) = re.findall(r"```python\n(.*?)```", PAGE.split("## A method of your own")[1], re.DOTALL)

TEXT = "mean; scale=2.0; layers=mid"
#: Where all logits are zero, attention gives every token the mean of the values.
TERM = Term(xl_mid_grids(), sigma=0.0, temperature=math.inf, scale=2.0)
SCALE = 5.0


@pytest.fixture
def mean(own_file):
    """The method of the documentation's example."""
    return own_file(METHOD, "mean").MeanValueGuidance


class TestMethod:
    def test_it_is_read_from_and_written_as_text_and_json(self, mean):
        guidance = mean(scale=2, layers="up", steps="begin", combine="project")
        text = "mean; scale=2.0; steps=begin; combine=project; layers=up"
        assert set(guidance_to_text(guidance).split("; ")) == set(text.split("; "))
        assert guidance_from_text(text) == guidance
        assert guidance_from_dict(json.loads(guidance.to_json())) == guidance
        assert mean.from_json(guidance.to_json()) == guidance
        assert as_guidances(["mean", "seg"]) == (mean(), SmoothedEnergyGuidance())

    @pytest.mark.parametrize("rescale", [0.0, 0.7])
    def test_attached_to_a_pipeline_it_equals_brute_force(self, mean, rescale):
        pipe = xl()
        settings = {"guidance_scale": SCALE, "guidance_rescale": rescale}
        run = latents_of(pipe, **xl_prompts(), **size(), **settings)
        assert_guided_as_by_brute_force(
            pipe,
            run,
            TERM,
            cfg(SCALE, rescale),
            guidances=[guidance_from_text(TEXT)],
            replay=(True, False),
        )

    def test_beside_another_method_it_equals_brute_force(self, mean):
        pipe = xl()
        run = latents_of(pipe, **xl_prompts(), **size(), guidance_scale=SCALE)
        guidances = as_guidances([TEXT, "seg; blur=gaussian:1; scale=3; layers=mid"])
        terms = [TERM, Term(xl_mid_grids(), sigma=1.0)]
        assert_guided_as_by_brute_force(pipe, run, terms, cfg(SCALE), guidances=guidances)

    def test_in_a_guider_it_equals_brute_force(self, mean):
        pipe = xl()
        run = latents_of(pipe, **xl_prompts(), **size(), guidance_scale=SCALE)
        plain = run()
        with brute_force(pipe.unet, TERM, cfg(SCALE)):
            expected = run()
        before = logging.get_verbosity()
        logging.set_verbosity_error()  # guiders are experimental
        try:
            guider = SmoothedEnergyGuider(TEXT, guidance_scale=SCALE)
            found = run_xl(modular_xl(guider), prompts=xl_arguments())
        finally:
            logging.set_verbosity(before)
        assert difference(plain, expected) > MARGIN * TOLERANCE
        assert difference(found, expected) < TOLERANCE

    def test_the_command_line_lists_it(self, mean, capsys):
        assert main(["methods"]) == 0
        (row,) = [line for line in capsys.readouterr().out.splitlines() if " mean " in f" {line}"]
        assert mean.about.perturbs in row
        assert main(["methods", "--json"]) == 0
        listing = json.loads(capsys.readouterr().out)
        assert guidance_from_dict(listing["mean"]["defaults"]) == mean()

    def test_the_command_line_draws_with_it(self, mean, tmp_path, capsys):
        model = str(tmp_path / "model")
        text_to_image().save_pretrained(model)
        fast = ["--num-inference-steps", "2", "--steps", "all", "--model", model]
        for folder, method in (("own", TEXT), ("other", "seg; blur=gaussian:0.5; layers=mid")):
            arguments = ["generate", "a cat", "--method", method, *fast, "--out"]
            assert main([*arguments, str(tmp_path / folder)]) == 0, capsys.readouterr().err
        own, other = (tmp_path / name / "a-cat-seed0.png" for name in ("own", "other"))
        remembered = read_settings(own)
        expected = {"method": "mean", "scale": 2.0, "layers": "mid", "blur": None}
        assert remembered | expected == remembered
        assert own.read_bytes() != other.read_bytes()
        again = ["generate", "--from", str(own), "--trust", "--out", str(tmp_path / "again")]
        assert main(again) == 0, capsys.readouterr().err
        assert (tmp_path / "again" / own.name).read_bytes() == own.read_bytes()

    def test_it_is_not_named_where_a_layer_has_no_softmax(self, mean):
        pipe = SANA[0].pipeline()
        with pytest.raises(LayerError, match=r"linear attention.*another method: pag(?!.*mean)"):
            mean(layers="b1").attach(pipe)


#: A method for attention of any kind.
FLAT = """
from dataclasses import dataclass

from smoothed_energy.guidance import About, LayerGuidance, Perturbation
from smoothed_energy.methods import register


class MeanTokens(Perturbation):
    def run(self, call):
        tokens = call.input()
        return call.with_input(tokens.mean(dim=-2, keepdim=True).expand_as(tokens))()


@register
@dataclass(frozen=True)
class FlatGuidance(LayerGuidance):
    method = "flat"
    about = About("Flat", "all tokens are their mean", "a second pass", "an example")
    needs_softmax = False
    perturbation = MeanTokens()
"""


class TestMethodWithoutSoftmax:
    def test_it_is_named_where_a_layer_has_no_softmax_and_works_there(self, own_file):
        own_file(FLAT)
        pipe = SANA[0].pipeline()
        with pytest.raises(LayerError, match=r"another method: pag.*, flat$"):
            SmoothedEnergyGuidance(layers="b1").attach(pipe)
        run = run_of(pipe, SANA[0], cfg=True)
        plain = run()
        with guidance_from_text("flat; layers=b1").attach(pipe):
            assert difference(run(), plain) > MARGIN * TOLERANCE

    def test_tokens_that_are_their_mean_equal_brute_force(self, own_file):
        own_file(FLAT)
        pipe = xl()
        run = latents_of(pipe, **xl_prompts(), **size(), guidance_scale=SCALE)
        guidances = [guidance_from_text("flat; scale=2; layers=mid")]
        assert_guided_as_by_brute_force(pipe, run, TERM, cfg(SCALE), guidances=guidances)


class TestRegistration:
    def test_the_view_of_the_methods_is_live_and_read_only(self, own_file):
        assert "mean" not in METHODS
        cls = own_file(METHOD, "mean").MeanValueGuidance
        assert METHODS["mean"] is cls
        assert list(METHODS)[-1] == "mean"
        with pytest.raises(TypeError, match="does not support item assignment"):
            METHODS["other"] = cls

    def test_what_a_test_registered_is_forgotten(self):
        assert not {"mean", "flat"} & {*METHODS, *METRICS}

    def test_a_second_class_of_the_same_name_is_refused(self, mean, own_file):
        with pytest.raises(
            ValueError, match=r"other\.MeanValueGuidance and mean\.MeanValueGuidance.*'mean'"
        ):
            own_file(METHOD, "other")
        assert METHODS["mean"] is mean
        seg = type("Other", (mean,), {"method": "seg", "__module__": "own"})
        with pytest.raises(ValueError, match=r"own\.Other and smoothed_energy\..*method='seg'"):
            register(seg)
        assert METHODS["seg"] is SmoothedEnergyGuidance

    def test_a_class_that_is_defined_again_takes_the_place_of_its_earlier_self(
        self, mean, own_file
    ):
        again = own_file(METHOD, "mean").MeanValueGuidance
        assert again is not mean
        assert METHODS["mean"] is again

    def test_what_is_no_method_is_refused(self, mean):
        with pytest.raises(TypeError, match="not a guidance"):
            register(mean())
        with pytest.raises(TypeError, match=r"not complete.*method, about, is_off, select"):
            register(Guidance)

    @pytest.mark.parametrize("name", ["", "a; b", "a=b", 3])
    def test_a_name_that_no_text_can_carry_is_refused(self, mean, name):
        with pytest.raises(ValueError, match=r"method=.*expected letters"):
            register(type("Other", (mean,), {"method": name}))

    def test_a_setting_without_a_default_is_refused(self, own_file):
        needs = METHOD.replace("    perturbation =", "    amount: float\n    perturbation =")
        with pytest.raises(TypeError, match="no default for amount"):
            own_file(needs.replace("frozen=True", "frozen=True, kw_only=True"))


METRIC = """
from smoothed_energy.evaluation import Metric, register_metric


def likeness(samples, real):
    return float(samples.mean(0) @ real.mean(0))


LIKENESS = register_metric(Metric("likeness", likeness, better="higher", least=1))
"""


def test_a_metric_is_one_file(own_file):
    metric = own_file(METRIC).LIKENESS
    assert METRICS["likeness"] is metric
    assert list(METRICS)[:2] == ["frechet", "kernel"]
    assert list(METRICS)[-1] == "likeness"
    samples, real = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0], [5.0, 3.0]])
    values = {name: METRICS[name](samples, real) for name in METRICS if METRICS[name].least < 2}
    assert values == {"likeness": 1 * 4 + 2 * 2}
    with pytest.raises(ValueError, match=r"likeness.*\(0, 2\).*N >= 1"):
        metric(samples[:0], real)
    with pytest.raises(ValueError, match=r"another\.likeness and own_file\.likeness.*'likeness'"):
        own_file(METRIC, "another")
    again = own_file(METRIC).LIKENESS
    assert METRICS["likeness"] is again
