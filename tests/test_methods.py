"""Methods by name, settings and text."""

import pytest

from smoothed_energy import (
    PerturbedAttentionGuidance,
    SmoothedEnergyGuidance,
    guidance_from_dict,
    guidance_from_text,
)
from smoothed_energy.methods import METHODS, guidance_to_text

EXAMPLES = [
    *(cls() for cls in METHODS.values()),
    SmoothedEnergyGuidance(
        blur="box:31,alpha=0.9", scale="cosine:3:0", layers=["down", "m0.7"], steps=["begin", "end"]
    ),
    PerturbedAttentionGuidance(scale=2, adaptive_scale=0.01, formulation="unconditional"),
]


@pytest.mark.parametrize("guidance", EXAMPLES, ids=guidance_to_text)
def test_texts_and_settings_are_read_back(guidance):
    assert guidance_from_text(guidance_to_text(guidance)) == guidance
    assert guidance_from_dict(guidance.to_dict()) == guidance


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
        ("seg; blur=3", "seg; blur=3.*got float"),
    ],
)
def test_texts_that_say_nothing_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        guidance_from_text(text)


def test_settings_without_a_method_are_refused():
    with pytest.raises(ValueError, match=r"method=None is not known; expected one of seg"):
        guidance_from_dict({"scale": 3})
