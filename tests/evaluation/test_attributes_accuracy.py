"""The classifier of attributes, and the share of named attributes that pictures show."""

import json

import pytest
import torch
from safetensors.torch import save_file

from smoothed_energy.evaluation.attributes import NONE
from smoothed_energy.evaluation.attributes_accuracy import (
    AttributeScores,
    attribute_accuracy,
    score_attributes,
)
from smoothed_energy.evaluation.attributes_classifier import AttributeClassifier
from smoothed_energy.evaluation.attributes_network import AttributeNetwork

VALUES = {
    "style": ["toon", "dylan"],
    "hair": [NONE, "a {} bob", "a bald head"],
    "hair color": [NONE, "red", "blue"],
    "background": ["a red background", "a blue background", "a teal background"],
}
COLORS = {"hair": "hair color"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A classifier with random weights, and statistics of a batch."""
    place = tmp_path_factory.mktemp("attributes")
    torch.manual_seed(1)
    network = AttributeNetwork({k: len(v) for k, v in VALUES.items()}, image_size=32)
    network.train()
    network(torch.rand(8, 3, 32, 32) * 2 - 1)
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(weights, place / "model.safetensors")
    described = {
        "image_size": 32,
        "vocabulary": {"values": VALUES, "colors": COLORS},
        "accuracy": {"drawings": {"mean": 12.5}},
    }
    (place / "attributes.json").write_text(json.dumps(described))
    return place


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (6, 3, 2, 2), dtype=torch.uint8, generator=generator)
    return coarse.repeat_interleave(16, 2).repeat_interleave(16, 3)


def test_each_attribute_gets_its_most_probable_value(folder, pictures):
    classifier = AttributeClassifier(folder)
    probabilities = classifier.probabilities(pictures)
    for row, shown in enumerate(classifier(pictures)):
        assert list(shown) == list(VALUES)
        for attribute, value in shown.items():
            chances = probabilities[attribute][row]
            assert float(chances.sum()) == pytest.approx(1, abs=1e-5)
            assert value == VALUES[attribute][int(chances.argmax())]
    assert classifier.accuracy["drawings"]["mean"] == 12.5
    assert classifier.image_size == 32


def test_the_weights_that_were_written_are_those_that_are_read(folder, pictures):
    network = AttributeNetwork({k: len(v) for k, v in VALUES.items()}, image_size=32).eval()
    from safetensors.torch import load_file

    network.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    with torch.no_grad():
        expected = network(pictures.float() / 127.5 - 1)
    found = AttributeClassifier(folder).probabilities(pictures)
    for attribute, logits in expected.items():
        torch.testing.assert_close(found[attribute], logits.softmax(1))


def test_pictures_of_other_sizes_are_resized(folder, pictures):
    classifier = AttributeClassifier(folder)
    large = pictures.repeat_interleave(3, 2).repeat_interleave(3, 3)
    found, expected = classifier.probabilities(large), classifier.probabilities(pictures)
    for attribute, chances in expected.items():
        torch.testing.assert_close(found[attribute], chances, atol=0.05, rtol=0)


def test_named_attributes_are_compared_and_others_are_not(folder, pictures):
    classifier = AttributeClassifier(folder)
    shown = classifier(pictures)
    captions, expected = [], []
    for row, values in enumerate(shown):
        others = [v for v in VALUES["background"] if v != values["background"]]
        background = values["background"] if row % 2 else others[0]
        captions.append(f"a {values['style']} portrait, on {background}")
        expected.append(1.0 if row % 2 else 0.5)
    metric = attribute_accuracy(folder)
    assert metric(pictures, captions).tolist() == expected
    scores = score_attributes(classifier, pictures, captions)
    assert scores.per_attribute() == {"style": (6, 6), "background": (3, 6)}
    assert scores.per_picture().tolist() == expected


def test_a_phrase_with_a_color_names_two_attributes(folder, pictures):
    classifier = AttributeClassifier(folder)
    shown = classifier(pictures[:1])[0]
    scores = score_attributes(classifier, pictures[:1], ["someone with a red bob"])
    expected = {
        "hair": (int(shown["hair"] == "a {} bob"), 1),
        "hair color": (int(shown["hair color"] == "red"), 1),
    }
    assert scores.per_attribute() == expected


def test_scores_of_parts_add_up(folder, pictures):
    classifier = AttributeClassifier(folder)
    captions = ["a toon portrait", "a red bob", "a bald head", "blue hair"] * 2
    captions = captions[: len(pictures)]
    whole = score_attributes(classifier, pictures, captions)
    parts = [score_attributes(classifier, pictures[i : i + 4], captions[i : i + 4]) for i in (0, 4)]
    together = parts[0] + parts[1]
    assert together.per_attribute() == whole.per_attribute()
    assert together.per_picture().tolist() == whole.per_picture().tolist()
    with pytest.raises(ValueError, match="can't be added"):
        whole + AttributeScores(("style",), torch.ones(1, 1) > 0, torch.ones(1, 1) > 0)


def test_captions_that_name_nothing_are_refused(folder, pictures):
    classifier = AttributeClassifier(folder)
    with pytest.raises(ValueError, match="'a cat on a mat' names no attribute"):
        score_attributes(classifier, pictures[:1], ["a cat on a mat"])
    with pytest.raises(ValueError, match="1 captions for 6 pictures"):
        score_attributes(classifier, pictures, ["a bald head"])
    with pytest.raises(ValueError, match="expected uint8"):
        classifier(pictures.float())


def test_a_folder_without_a_classifier_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"has no attribute classifier; expected model\.safe"):
        AttributeClassifier(tmp_path)
    described = json.loads((folder / "attributes.json").read_text())
    described["vocabulary"]["values"]["style"].append("micah")
    (tmp_path / "attributes.json").write_text(json.dumps(described))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"do not fit its attributes\.json"):
        AttributeClassifier(tmp_path)


def test_the_embedded_classifier_knows_all_six_styles():
    classifier = AttributeClassifier()
    assert set(classifier.vocabulary.values["style"]) == {
        *("personas", "toon", "dylan"),
        *("micah", "bigsmile", "miniavs"),
    }
    assert classifier.image_size == 96
    for kind in ("drawings", "decoded"):
        accuracy = classifier.accuracy[kind]
        assert set(accuracy["named"]) == set(classifier.vocabulary.values)
        assert 80 < accuracy["mean"] <= 100
    assert attribute_accuracy().label == "attribute-accuracy (avatars-attributes-96-bicubic)"


@pytest.mark.parametrize("size", [0, 40])
def test_sizes_that_the_network_cannot_halve_are_refused(size):
    with pytest.raises(ValueError, match=f"image_size is {size}"):
        AttributeNetwork({"style": 2}, image_size=size)
