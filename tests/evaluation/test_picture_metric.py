"""Metrics of pictures by name, and what they refuse."""

import math

import pytest
import torch

import smoothed_energy.evaluation.picture_metric as module
from smoothed_energy.evaluation.attributes_accuracy import ATTRIBUTE_ACCURACY
from smoothed_energy.evaluation.clip import ClipNetwork
from smoothed_energy.evaluation.diversity import DIVERSITY
from smoothed_energy.evaluation.lpips import LPIPS_ALEX, LPIPS_VGG
from smoothed_energy.evaluation.perceptual import DEEP_FEATURE_DISTANCE
from smoothed_energy.evaluation.pickscore import PICKSCORE
from smoothed_energy.evaluation.picture_metric import (
    PICTURE_METRICS,
    NetworkMetric,
    PairMetric,
    PictureMetric,
    SeedsMetric,
    TextMetric,
    open_picture_metric,
    register_picture_metric,
)
from smoothed_energy.evaluation.side_effects import (
    CHROMA,
    CLIPPED,
    COLOR_SHIFT,
    CONTRAST,
    SATURATION,
    SHARPNESS,
)
from smoothed_energy.evaluation.text_metrics import CLIP_SCORE, CLIP_SIMILARITY

PICTURES = torch.randint(
    0, 256, (3, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
FORMULAS = (SATURATION, CHROMA, CONTRAST, CLIPPED, SHARPNESS, COLOR_SHIFT, DIVERSITY)
NETWORKS = (
    CLIP_SIMILARITY,
    CLIP_SCORE,
    PICKSCORE,
    LPIPS_VGG,
    LPIPS_ALEX,
    DEEP_FEATURE_DISTANCE,
    ATTRIBUTE_ACCURACY,
)


@pytest.fixture(autouse=True)
def _own_registry():
    """What a test registers is forgotten after it."""
    before = dict(module._registered)
    yield
    module._registered.clear()
    module._registered.update(before)


def brightness(pictures):
    return pictures.float().mean((1, 2, 3))


BRIGHTNESS = PictureMetric(name="brightness", measure=brightness, bounds=(0, 255))


def test_a_metric_is_found_by_its_name():
    register_picture_metric(BRIGHTNESS)
    assert PICTURE_METRICS["brightness"] is BRIGHTNESS
    opened = open_picture_metric("brightness")
    assert opened is BRIGHTNESS
    numbers = opened(PICTURES)
    assert numbers.dtype == torch.float64
    torch.testing.assert_close(numbers, PICTURES.double().mean((1, 2, 3)), rtol=1e-6, atol=0)


def test_a_network_is_loaded_when_the_metric_is_opened():
    seen = []

    def load(*, device="cpu"):
        seen.append(device)
        return BRIGHTNESS

    register_picture_metric(NetworkMetric("loaded", PictureMetric, load))
    assert not seen
    assert open_picture_metric("loaded", device="meta") is BRIGHTNESS
    assert seen == ["meta"]
    with pytest.raises(TypeError, match="size"):
        open_picture_metric("loaded", size=3)


def test_all_metrics_can_be_registered_side_by_side():
    for metric in (*FORMULAS, *NETWORKS):
        register_picture_metric(metric)
        register_picture_metric(metric)  # as when a module is imported again
    names = {metric.name for metric in (*FORMULAS, *NETWORKS)}
    assert names <= set(PICTURE_METRICS)
    assert len(names) == len(FORMULAS) + len(NETWORKS)
    for metric in NETWORKS:
        assert metric.kind in (TextMetric, PairMetric)


def test_unknown_names_options_and_strangers_are_refused():
    register_picture_metric(BRIGHTNESS)
    with pytest.raises(ValueError, match=r"'brigthness'; available: .*brightness"):
        open_picture_metric("brigthness")
    with pytest.raises(TypeError, match="brightness is a formula and takes no options; got device"):
        open_picture_metric("brightness", device="cpu")
    with pytest.raises(TypeError, match="expected a PictureMetric"):
        register_picture_metric(brightness)
    other = PictureMetric(name="brightness", measure=lambda pictures: brightness(pictures))
    with pytest.raises(ValueError, match=r"lambda.*test_picture_metric\.brightness.*'brightness'"):
        register_picture_metric(other)


@pytest.mark.parametrize(
    "pictures",
    [PICTURES.float(), PICTURES[0], PICTURES[:, :2], PICTURES.permute(0, 2, 3, 1)],
    ids=["floats", "one picture", "two channels", "channels last"],
)
def test_other_pictures_are_refused(pictures):
    text = TextMetric(name="text", measure=lambda pictures, prompts: brightness(pictures))
    pair = PairMetric(name="pair", measure=lambda pictures, others: brightness(pictures))
    with pytest.raises(ValueError, match=r"brightness: .*expected uint8 of shape \(B, 3, H, W\)"):
        BRIGHTNESS(pictures)
    with pytest.raises(ValueError, match=r"text: .*expected uint8"):
        text(pictures, ["a"] * 3)
    with pytest.raises(ValueError, match=r"pair: .*expected uint8"):
        pair(PICTURES, pictures)


def test_a_prompt_for_each_picture_and_none_of_them_empty():
    text = TextMetric(name="text", measure=lambda pictures, prompts: brightness(pictures))
    assert len(text(PICTURES, ("a", "b", "c"))) == 3
    with pytest.raises(ValueError, match="2 prompts for 3 pictures"):
        text(PICTURES, ["a", "b"])
    with pytest.raises(ValueError, match="'abc' for 3 pictures"):
        text(PICTURES, "abc")
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        text(PICTURES, ["a", " ", "c"])


def test_pairs_have_one_size():
    pair = PairMetric(name="pair", measure=lambda pictures, others: brightness(pictures))
    with pytest.raises(ValueError, match=r"\(3, 3, 5, 4\) beside others of shape \(2, 3, 5, 4\)"):
        pair(PICTURES, PICTURES[:2])


def test_numbers_are_one_a_picture():
    wrong = PictureMetric(name="wrong", measure=lambda pictures: pictures.double().mean((2, 3)))
    with pytest.raises(ValueError, match=r"wrong gave numbers of shape \(3, 3\) for 3 pictures"):
        wrong(PICTURES)


def test_seeds_need_pictures_enough():
    spread = SeedsMetric(name="spread", measure=lambda features: features.std(), least=3)
    assert spread(torch.eye(3)) == pytest.approx(math.sqrt(2 / 8))
    with pytest.raises(ValueError, match="N >= 3"):
        spread(torch.eye(2))


def test_a_label_says_the_network_and_the_size():
    assert BRIGHTNESS.label == "brightness"
    named = PictureMetric(name="x", measure=brightness, model="network-224-bicubic")
    assert named.label == "x (network-224-bicubic)"


def test_clip_is_needed_where_a_model_is_opened():
    with pytest.raises(ValueError, match=r"cannot load .* from '/nowhere'"):
        ClipNetwork("/nowhere")
