"""What axes and lists come to."""

from itertools import product

import pytest

from smoothed_energy import PerturbedAttentionGuidance, SmoothedEnergyGuidance
from smoothed_energy.sweeps import Sweep, SweepError
from smoothed_energy.sweeps.axes import configurations


def made(**given):
    return configurations(Sweep(name="a", seeds="0", **given))


def labels(**given):
    return [one.label for one in made(**given)]


def test_several_axes_are_a_product_in_the_order_of_loops():
    scales, layers = [1, 2.5], ["mid", "down", "up"]
    found = made(
        base={"guidance": "seg"}, axes=[{"guidance.scale": scales}, {"guidance.layers": layers}]
    )
    assert [one.settings.guidance[0] for one in found] == [
        SmoothedEnergyGuidance(scale=scale, layers=part) for scale, part in product(scales, layers)
    ]
    assert [one.index for one in found] == [*range(6)]
    assert found[1].label == "scale=1, layers=down"
    assert found[4].varying == {"guidance.scale": 2.5, "guidance.layers": "down"}


def test_settings_of_one_axis_go_together():
    found = made(
        axes=[
            {"guidance": ["seg; scale=3", "pag; scale=2"], "cfg": [1, 4], "label": ["SEG", "PAG"]}
        ]
    )
    assert [(one.label, one.settings.cfg) for one in found] == [("SEG", 1), ("PAG", 4)]
    assert isinstance(found[1].settings.guidance[0], PerturbedAttentionGuidance)


def test_the_list_is_appended_and_without_axes_it_is_all():
    listed = [{"guidance": None}, {"guidance": ["seg", "interval; steps=begin"], "cfg": 3}]
    assert labels(axes=[{"cfg": [1, 2]}], base={"guidance": "seg"}, list=listed) == [
        "cfg=1",
        "cfg=2",
        "unguided",
        "seg + interval; steps=begin, cfg=3",
    ]
    assert labels(list=listed) == ["unguided", "seg + interval; steps=begin, cfg=3"]
    assert labels() == ["base"]


def test_labels_tell_what_varies_only():
    assert labels(base={"cfg": 2}, axes=[{"cfg": [3]}, {"num_inference_steps": [5, 6]}]) == [
        "num_inference_steps=5",
        "num_inference_steps=6",
    ]


def test_what_varies_is_told_of_every_configuration():
    found = made(
        base={"guidance": "seg"}, axes=[{"guidance.scale": [1, 2]}], list=[{"guidance": "none"}]
    )
    assert [one.varying["guidance.scale"] for one in found] == [1.0, 2.0, None]
    assert [one.varying["guidance"] for one in found] == [
        "seg; scale=1.0",
        "seg; scale=2.0",
        "none",
    ]


def test_parts_change_the_first_guidance_alone():
    (found,) = made(base={"guidance": ["seg; layers=mid", "pag; layers=up"], "guidance.scale": 7})
    assert [one.scale for one in found.settings.guidance] == [
        7.0,
        PerturbedAttentionGuidance().scale,
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"axes": [{"cfg": [1, 2], "size": ["8x8"]}]}, "axes.0: settings of one axis go together"),
        ({"axes": [{"cfg": []}]}, "axes.0: expected settings with at least one value"),
        ({"axes": [{"label": ["x"]}]}, "axes.0: expected settings"),
        ({"axes": [{"cfg": [1]}, {"cfg": [2]}]}, "axes.1: 'cfg' is in an earlier axis, too"),
        ({"axes": [{"cfg": [3, 3.0]}]}, "'cfg=3' and 'cfg=3' are the same"),
        ({"axes": [{"cfg": [1, 2], "label": ["x", "x"]}]}, "have the label 'x'"),
        ({"axes": [{"guidance.scale": [1]}]}, "guidance.scale=1 needs a guidance to change"),
        ({"axes": [{"guidance": ["sag", "segg"]}]}, "method='segg' is not known"),
        ({"base": {"guidance": "seg; blur=gauss:1"}}, "unknown smoothing 'gauss:1'"),
        ({"base": {"guidance": "seg; layers=7"}}, "layers"),
        (
            {"base": {"guidance": "seg", "guidance.weak": "x"}},
            "'weak' is not a setting of Smoothed",
        ),
        ({"base": {"guidance": 5}}, "guidance=5 is none"),
        ({"base": {"cfg": 0.5}}, "cfg=0.5: expected a finite number from 1"),
        ({"base": {"size": "64"}}, "size='64': expected HEIGHTxWIDTH"),
        ({"base": {"num_inference_steps": 0}}, "expected an integer >= 1"),
        ({"base": {"negative_prompt": "x"}}, "expected cfg above 1"),
        ({"base": {"scheduler": "EulerDiscretScheduler"}}, "did you mean 'EulerDiscreteSch"),
        ({"base": {"scheduler": "DPMSolverSDEScheduler"}}, "draws noise for a whole batch"),
    ],
)
def test_what_makes_no_sense_is_refused(given, message):
    with pytest.raises(SweepError) as caught:
        made(**given)
    assert message in str(caught.value)
