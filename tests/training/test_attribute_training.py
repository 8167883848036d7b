"""The classifier's vocabulary beside the captions, and its training."""

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("tokenizers")

from pathlib import Path

from training.attributes import (
    augment,
    export,
    labels,
    measure,
    predict,
    read_labels,
    reconstruct,
    train,
    vocabulary,
)
from training.captions import caption, describe
from training.samples import CAPTIONS
from training.styles import BACKGROUNDS, STYLES

from smoothed_energy.evaluation.attributes import NONE
from smoothed_energy.evaluation.attributes_accuracy import score_attributes
from smoothed_energy.evaluation.attributes_classifier import AttributeClassifier
from training import attributes

ROOT = Path(__file__).parents[2]
AVATARS = ROOT / "src" / "smoothed_energy" / "models" / "avatars"


def some_attributes(style, rng):
    """A report as DiceBear's: a value for each attribute, or none for some."""
    drawn = {name: rng.choice(list(values)) for name, values in style.phrases.items()}
    for name in ("facialHair", "beard", "glasses", "accessories", "rearHair"):
        if rng.random() < 0.5:
            drawn.pop(name, None)
    for name, palette in style.colors.items():
        drawn[name] = "#" + rng.choice(list(palette.values()))
    drawn["primaryBackgroundColor"] = "#" + rng.choice(list(BACKGROUNDS.values()))
    return drawn


def spoken(values, known):
    """The phrases of parsed values, with their colours: what `describe` gives."""
    phrases = set()
    for attribute, value in values.items():
        if attribute != "style" and attribute not in known.colors.values():
            phrase = value
            if "{}" in value:
                phrase = value.replace("{}", values[known.colors[attribute]])
            phrases.add(phrase.replace("a orange", "an orange"))
    return phrases


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_every_caption_parses_back_to_exactly_what_it_names(style):
    rng, known = random.Random(7), vocabulary()
    counts = set()
    for _ in range(400):
        drawn, seed = some_attributes(style, rng), rng.random()
        phrases, keep = describe(style, drawn), rng.choice((0.3, 0.75, 1.0))
        text = caption(style.name, drawn, random.Random(seed), keep=keep)
        # The caption maker's first draws are which of the phrases it keeps.
        draws = random.Random(seed)
        kept = {
            phrase
            for name, phrase in phrases.items()
            if draws.random() < (keep if name != "skin" else keep / 2)
        }
        found = known.parse(text)
        assert spoken(found.values, known) == kept, text
        assert found.unknown == (), text
        assert found.values.get("style") == (style.word if style.word in text.split() else None)
        shown = labels(style.name, drawn)
        assert found.values.items() <= shown.items(), text
        counts.add(len(found.values))
    assert len(counts) > 5


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_labels_say_all_that_captions_can(style):
    rng, known = random.Random(8), vocabulary()
    for _ in range(100):
        drawn = some_attributes(style, rng)
        shown = labels(style.name, drawn)
        assert list(shown) == list(known.values)
        for attribute, value in shown.items():
            assert value in known.values[attribute]
        named = {a: v for a, v in shown.items() if v != NONE}
        assert spoken(named, known) == set(describe(style, drawn).values())
        for attribute, color in known.colors.items():
            assert (shown[color] != NONE) == ("{}" in shown[attribute])


def test_the_embedded_classifier_has_this_vocabulary():
    assert AttributeClassifier().vocabulary == vocabulary()


def test_the_classifier_agrees_with_the_eye_about_the_sheet_of_the_model_card():
    sheet = np.asarray(Image.open(ROOT / "docs" / "images" / "avatars-captions.png").convert("RGB"))
    side = 2 * 96
    cells = [
        sheet[row * side : (row + 1) * side : 2, column * side : (column + 1) * side : 2]
        for row in range(sheet.shape[0] // side)
        for column in range(8)
    ]
    pictures = torch.from_numpy(np.stack(cells)[: len(CAPTIONS)]).permute(0, 3, 1, 2)
    classifier = AttributeClassifier()
    scores = score_attributes(classifier, pictures, CAPTIONS)
    # By eye, 21 of 24 show everything.
    assert scores.per_picture().mean() > 0.95
    right, named = scores.per_attribute()["background"]
    assert right == named == len(CAPTIONS)
    turned = score_attributes(classifier, pictures, [*CAPTIONS[9:], *CAPTIONS[:9]])
    assert turned.per_picture().mean() < 0.3


def tiny_split(path, count):
    """Labels of drawn attributes, and pictures that show the background alone."""
    rng, lines, pixels = random.Random(9), [], []
    for index in range(count):
        style = list(STYLES.values())[index % len(STYLES)]
        drawn = some_attributes(style, rng)
        lines.append(json.dumps({"style": style.name, "attributes": drawn}))
        color = bytes.fromhex(drawn["primaryBackgroundColor"][1:])
        pixels.append(np.broadcast_to(np.frombuffer(color, np.uint8), (32, 32, 3)))
    path.write_text("\n".join(lines) + "\n")
    return np.stack(pixels)


class CountedClock:
    """A clock that goes by the questions it is asked, two a step: a second a step."""

    def __init__(self, budget, elapsed=0.0):
        self.budget, self.elapsed = budget, elapsed

    @property
    def fraction(self):
        self.elapsed += 0.5
        return min(self.elapsed / self.budget, 1.0)


def test_training_learns_what_pictures_show_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr("training.attributes.Clock", CountedClock)
    pixels = tiny_split(tmp_path / "lines.jsonl", 200)
    targets = read_labels(tmp_path / "lines.jsonl", 200)
    decoded = (pixels[:40], targets[:40])
    checkpoint = tmp_path / "checkpoint.pt"
    train(pixels, targets, decoded, checkpoint, minutes=0.5)
    steps = [torch.load(checkpoint, weights_only=True)["step"]]
    network = train(pixels, targets, decoded, checkpoint, minutes=1)
    steps.append(torch.load(checkpoint, weights_only=True)["step"])
    assert steps == [30, 59]
    accuracy = measure(predict(network, pixels), targets)
    assert accuracy["named"]["background"] > 60  # ten colours
    export(network, {"drawings": accuracy}, tmp_path / "classifier")
    classifier = AttributeClassifier(tmp_path / "classifier")
    again = classifier(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    values = vocabulary().values
    found = predict(network, pixels)
    agree = [
        shown[a] == values[a][found[row, i]]
        for row, shown in enumerate(again)
        for i, a in enumerate(values)
    ]
    assert np.mean(agree) > 0.98  # float16 weights
    answers = attributes._answers(classifier, pixels)
    assert np.mean(answers == found) == pytest.approx(np.mean(agree))


def test_accuracies_are_counted_by_attribute_and_by_style(tmp_path):
    tiny_split(tmp_path / "lines.jsonl", 60)
    targets = read_labels(tmp_path / "lines.jsonl", 60)
    values = vocabulary().values
    names = list(values)
    found = targets.copy()
    skin, beard = names.index("skin"), names.index("facial hair")
    found[:15, skin] = (found[:15, skin] + 1) % len(values["skin"])
    found[:, beard] = 0  # no beard anywhere
    accuracy = measure(found, targets)
    assert accuracy["named"]["skin"] == 75
    assert accuracy["named"]["facial hair"] == 0
    assert accuracy["all"]["facial hair"] == pytest.approx(
        100 * np.mean(targets[:, beard] == 0), abs=0.01
    )
    assert accuracy["named"]["hair"] == 100
    named = sum(values[a][t] != NONE for row in targets for a, t in zip(names, row, strict=True))
    wrong = 15 + np.sum(targets[:, beard] != 0)
    assert accuracy["mean"] == pytest.approx(100 * (1 - wrong / named), abs=0.01)
    assert set(accuracy["styles"]) == {style.word for style in STYLES.values()}


def test_augmented_pictures_keep_their_size_and_range():
    images = torch.rand(5, 3, 32, 32) * 2 - 1
    found = augment(images, torch.Generator().manual_seed(0))
    assert found.shape == images.shape
    assert found.min() >= -1
    assert found.max() <= 1
    assert (found - images).abs().mean() > 0.01
    flat = augment(torch.full((5, 3, 32, 32), 0.2), torch.Generator().manual_seed(1))
    assert (flat.mean((1, 2, 3)) - 0.2).abs().max() < 0.1  # colours are what is asked for


def test_reconstructions_are_near_and_noise_makes_them_differ():
    sheet = np.asarray(Image.open(ROOT / "docs" / "images" / "avatars-captions.png").convert("RGB"))
    pixels = np.stack([sheet[:192:2, :192:2], sheet[192:384:2, :192:2]])
    clean, noisy = (reconstruct(pixels, [0, 1], AVATARS, noise=noise) for noise in (0.0, 0.5))
    assert clean.shape == pixels.shape
    assert clean.dtype == np.uint8
    near, far = (np.abs(x.astype(float) - pixels).mean() for x in (clean, noisy))
    assert near < 6
    assert far > near
