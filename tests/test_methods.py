"""Methods by name, settings and text."""

from dataclasses import fields
from fractions import Fraction

import pytest

from smoothed_energy import (
    Autoguidance,
    PerturbedAttentionGuidance,
    SlidingWindowGuidance,
    SmoothedEnergyGuidance,
    TokenPerturbationGuidance,
    guidance_from_dict,
    guidance_from_text,
)
from smoothed_energy.guidance import LayerGuidance, PassGuidance
from smoothed_energy.guidance.combinations import Projection, Rescale
from smoothed_energy.guidance.result_guidance import ResultGuidance
from smoothed_energy.guidance.saliency_fusion import SaliencyFusion
from smoothed_energy.methods import METHODS, guidance_to_text
from smoothed_energy.methods.erg import AnnealedTemperature
from smoothed_energy.schedule import Drift, EarlySteps
from smoothed_energy.schedule.scales import CosineScale, LinearScale, ScaleTable
from smoothed_energy.schedule.steps import Adaptive, AllOf, AnyOf, EveryNth, NoiseLevels, Steps
from smoothed_energy.smoothing import BoxBlur, EMASmoothing, GaussianBlur

#: Values of every setting of every method, by its name: very small and large numbers, texts that
#: look like something else, and objects of every kind.
SETTINGS = {
    "scale": [
        *(-1, 0, 2, 0.1 + 0.2, 1e-7, 1e20, "cosine:3:0", Fraction(1, 3)),
        *(LinearScale(1e-7, 2), CosineScale(1e20, -1), ScaleTable(1e20, 0.1 + 0.2, -1)),
    ],
    "steps": [
        *("begin", ["begin", "end"], "0.01:0.2", Steps(1e-7, 1 / 3), NoiseLevels(1e-7, 1e20)),
        *(NoiseLevels(0.3, float("inf")), EveryNth(3, 1), AnyOf(Steps(0, 0.1), EveryNth(2))),
        AllOf(AnyOf(Steps(0, 0.1), EveryNth(2)), Steps(0, 0.7)),
    ],
    "formulation": ["conditional", "unconditional"],
    "combine": [
        *("project", ["project:0.5", "rescale:0.7:partial"], "fuse:1e+20+project"),
        *(Rescale(1e-7), Projection(0.1 + 0.2), SaliencyFusion(1e20), SaliencyFusion(1e-5)),
        (SaliencyFusion(1e20), Rescale(0.5, "partial"), Projection()),
    ],
    "every": [2, 99, 1],
    "refresh": [
        *(2, "every:3,extrapolate=0.5", "early:9", EarlySteps(9, 1.5, extrapolate=0.1 + 0.2)),
        *(Drift(0.1 + 0.2), Drift(1e-7, extrapolate=1), EarlySteps(99, 1e20)),
    ],
    "decay": [0, 0.1 + 0.2, 1],
    "layers": ["down", ["d0", "*attn1"], "d2.2-9,u0.*", "b7-b9", "blocks.[0-3].attn?"],
    "blur": [
        *("gaussian:2", GaussianBlur(0), GaussianBlur(2, 5, "symmetric", 0.5), GaussianBlur(1e-7)),
        *(GaussianBlur(float("inf"), temporal_sigma=float("inf")), GaussianBlur(0.1 + 0.2)),
        *(BoxBlur(31, 0.9), EMASmoothing(0.95, 0.1, "cosine"), "gaussian:1 then box:3"),
    ],
    "on": ["query", "key"],
    "adaptive_scale": [0.01, 1, 1e-7, 1e20, Fraction(1, 3)],
    "threshold": [2, 1e-7, 1e20],
    "temperature": [
        *(2, 1e-7, 1e20, "cosine:2", AnnealedTemperature("linear", 1e20)),
        AnnealedTemperature("exponential", 1e-7, 1e20),
    ],
    "skip": ["block", "attention", "feed-forward"],
    "seed": [7, 2**53 + 1, 2**60 + 1],
    "window": [0.5, 0.1 + 0.7, 1],
    "count": [3, 9],
    "masked": [False, True],
    "eta": [0, 0.1 + 0.2, 1],
    "momentum": [-0.99, 0, 1e-7, 0.1 + 0.2],
    "norm": [0, 1e-7, 1e20, 2],
    "base": ["unconditional", "conditional"],
    "space": ["picture", "prediction"],
    "zero_steps": [0, 3],
    "alpha": [1e-7, 0.1 + 0.2, 1],
    "scales": [5, "10:5:1e-07", (1e20, 0.1 + 0.2), [3]],
    "parallel": [0, 0.1 + 0.2],
    "cutoff": [0, 1e-7, 1],
    "of": ["prediction", "picture"],
    "least": [0, 0.1 + 0.2],
    "most": [0.5, 0.9],
    "share": [0, 0.1 + 0.2, 1],
    "noise": [2, 1e-7, 1e20],
    "power": [0, 0.1 + 0.2, 2],
    "shift": [2, 1e-7, 1e20],
    "tau": [2, 1e-7, 1e20],
    "negative_prompt": ["2024", "a;b", "True", ' "x"; y=2 ', "\N{SNOWMAN}", "blurry, low quality"],
    "negative_embeds": [None],
    "weak": [
        *("owner/model", "/a=b", "2024", "1e5", "inf", "nan", "True", "false", "1_000", "a;b"),
        *(' "x"; y=2 ', '"', "\\", "\\;", "a\n;b", "\N{SNOWMAN}", " "),
    ],
}
STEPS_OF_CORRECTIONS = [Adaptive(0.999), AllOf(Steps(0, 0.7), AnyOf(Adaptive(0.9), Steps(0, 0.1)))]


def variants(cls):
    """Guidances with every value of every setting, and with the last one of all."""
    values = {field.name: SETTINGS[field.name] for field in fields(cls)}
    if cls.method in ("nag", "pladis"):
        values["scale"] = [0, 2, 0.1 + 0.2, 1e-7, 1e20, Fraction(1, 3)]
    elif cls.method in ("cfgpp", "higs"):
        values["scale"] = [2, 0.1 + 0.2, 1e-7, 1e20, Fraction(1, 3)]
    if not (cls.limits_cfg or issubclass(cls, (ResultGuidance, PassGuidance))):
        values["steps"] = [*values["steps"], *STEPS_OF_CORRECTIONS]
    for name, found in values.items():
        yield from (cls(**{name: value}) for value in found)
    if issubclass(cls, LayerGuidance):
        yield cls(formulation="within")
    yield cls(**{name: found[-1] for name, found in values.items()})


@pytest.mark.parametrize("method", METHODS)
def test_texts_and_settings_are_read_back(method):
    for guidance in variants(METHODS[method]):
        assert guidance_from_text(guidance_to_text(guidance)) == guidance
        assert guidance_from_dict(guidance.to_dict()) == guidance
        assert type(guidance).from_json(guidance.to_json()) == guidance


@pytest.mark.parametrize(
    ("guidance", "text"),
    [
        (SlidingWindowGuidance(masked=False), "swg; masked=False"),
        (TokenPerturbationGuidance(seed=2**60 + 1), f"tpg; seed={2**60 + 1}"),
        (Autoguidance(weak="2024"), 'autoguidance; weak="2024"'),
        (Autoguidance(weak="/a;b"), 'autoguidance; weak="/a;b"'),
        (Autoguidance(weak="/a=b"), "autoguidance; weak=/a=b"),
        (SmoothedEnergyGuidance(combine="fuse:1e+20+project"), "seg; combine=fuse:1e+20+project"),
    ],
)
def test_texts_say_exactly_what_is_set(guidance, text):
    assert guidance_to_text(guidance) == text
    assert guidance_from_text(text) == guidance


def test_truth_values_may_be_written_as_in_json():
    assert guidance_from_text("swg; masked=false") == SlidingWindowGuidance(masked=False)


def test_a_text_names_what_differs_from_the_defaults():
    guidance = PerturbedAttentionGuidance(layers="d0,mid", scale=2)
    assert guidance_to_text(guidance) == "pag; scale=2.0; layers=d0,mid"
    assert guidance_from_text("pag;scale=2;layers=d0, mid") == guidance
    assert guidance_to_text(SmoothedEnergyGuidance()) == "seg"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gag", "method='gag'.*seg, pag"),
        ("", "method=''.*seg, pag"),
        ("seg; scale", "'scale' in .*name=value"),
        ("seg; scale=", "name=value"),
        ("seg; scale=1; scale=2", "'scale' is set twice"),
        ("pag; blur=gaussian:10", "'blur' is not a setting of PerturbedAttentionGuidance; it has"),
        ("seg; scale=nan", "finite number"),
        ("seg; blur=3", "seg; blur=3.*got int"),
        ('autoguidance; weak="a', 'weak="a.*name=value'),
        ('autoguidance; weak="a" b', "name=value"),
        (r'autoguidance; weak="\a"', "name=value"),
        ("erg; temperature=linear:2:3", "temperature='linear:2:3'"),
    ],
)
def test_texts_that_say_nothing_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        guidance_from_text(text)


def test_settings_without_a_method_are_refused():
    with pytest.raises(ValueError, match=r"method=None is not known; expected one of seg"):
        guidance_from_dict({"scale": 3})


def test_a_rate_that_would_do_nothing_is_refused():
    with pytest.raises(ValueError, match=r"rate=3.0 with scheme='linear': expected it with"):
        AnnealedTemperature("linear", 1.5, rate=3)


def test_defaults_are_the_sources() -> None:
    """TPG's released code shuffles the path down at scale 3; SWG's sources use 0.2 to 1.5."""
    assert TokenPerturbationGuidance() == TokenPerturbationGuidance(scale=3.0, layers="down")
    assert 0.2 <= SlidingWindowGuidance().scale <= 1.5
    assert SlidingWindowGuidance().window == 40 / 64
