import json
import math

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers")

from training.evaluate import (
    Configuration,
    Evaluation,
    acting_group,
    alone_group,
    markdown,
    table_group,
)
from training.samples import CAPTIONS, side_by_side
from training.sheet import contact_sheet

from smoothed_energy.guidance.combine_text import combinations_text
from training import evaluate


class Stub(Evaluation):
    """An evaluation with features that are cheap and known, and a count of what was drawn."""

    def __init__(self, folder):
        self.place = folder
        self.input_size = 64
        self.drawn = []
        self.extractor = lambda images: images.flatten(1)

    def reference(self, count):
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, 1280, generator=generator)

    def reconstructions(self):
        return self.reference(30) + 0.1

    def sample(self, configuration, start, stop):
        self.drawn.extend(range(start, stop))
        return torch.stack(
            [
                torch.randn(1280, generator=torch.Generator().manual_seed(i))
                for i in range(start, stop)
            ]
        )


def test_measurements_resume_and_extend(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "CHUNK", 4)
    first = Stub(tmp_path)
    short = list(first.measure([Configuration()], 6, 10))
    assert first.drawn == list(range(6))
    again = Stub(tmp_path)
    assert list(again.measure([Configuration()], 6, 10)) == short
    assert again.drawn == []
    longer = Stub(tmp_path)
    list(longer.measure([Configuration()], 9, 10))
    assert longer.drawn == [6, 7, 8]
    assert len(json.loads((tmp_path / "results.json").read_text())) == 2


def test_every_configuration_has_its_own_label():
    group = table_group(25, "mid")
    assert len(group) == 16
    assert len({c.label for c in group}) == 16
    assert Configuration(steps="all").label != Configuration(inference_steps=10).label


def test_a_configuration_becomes_the_guidance_it_names():
    guidance = Configuration(math.inf, 2.0, "down+mid", "begin").guidance()
    assert math.isinf(guidance.blur.sigma)
    assert guidance.scale == 2.0
    assert Configuration().guidance() is None


def test_ways_to_act_differ_and_become_guidance():
    group = acting_group(15)
    assert len({c.label for c in group}) == len(group) == 11
    combined = [combinations_text(c.guidance().combine) for c in group if c.combine]
    assert combined == ["rescale:1.0", "project"]
    assert "| rescale:1 |" in markdown(
        [
            {"sigma": "inf", "scale": 0.7, "layers": "mid", "steps": "all", "inference_steps": 15}
            | {"combine": "rescale:1", "count": 1, "reference": 1}
            | {"frechet": 1.0, "kernel": 2.0, "kernel_decoded": 3.0}
        ]
    )


def test_the_perturbed_prediction_is_measured_alone_in_every_part():
    first, *rest = alone_group(25)
    assert first == Configuration()
    assert {c.layers for c in rest} == {"down", "mid", "up"}
    assert all(c.guidance().scale == -1 for c in rest)


def test_the_table_states_its_counts_and_refuses_to_mix_them():
    row = {
        "sigma": None,
        "scale": 0.0,
        "layers": "",
        "steps": "all",
        "inference_steps": 25,
        "count": 300,
        "reference": 10_000,
        "frechet": 123.46,
        "kernel": 1.234,
        "kernel_decoded": 0.456,
    }
    guided = row | {"sigma": "inf", "scale": 2.0, "layers": "mid", "frechet": 100.0}
    text = markdown([row, guided])
    assert "300 samples" in text
    assert "| unguided | - | - | - | - | 25 | 123.5 | 1.23 | 0.46 |" in text
    assert "| inf | 2 | mid | all | - | 25 | 100.0 | 1.23 | 0.46 |" in text
    with pytest.raises(ValueError, match="numbers"):
        markdown([row, guided | {"count": 400}])


def test_a_sheet_holds_its_images_in_rows():
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((6, 4, 4, 3), np.uint8)
    sheet = np.asarray(contact_sheet(images, 3, zoom=2))
    assert sheet.shape == (16, 24, 3)
    assert sheet[0, 0, 0] == 0
    assert sheet[15, 23, 0] == 5
    assert side_by_side(images, images, 3).size == (40, 8)
    assert contact_sheet(images, 3, labels=["first", "second"]).size == (12, 36)


def test_there_are_24_captions():
    assert len(set(CAPTIONS)) == 24


def test_prompts_are_taken_in_turn_and_their_samples_kept_apart(tmp_path, monkeypatch):
    class Pipe:
        def __init__(self):
            self.asked = []

        def __call__(self, prompts, **settings):
            self.asked += prompts
            return type("Output", (), {"images": torch.zeros(len(prompts), 3, 2, 2)})

    evaluation = Stub(tmp_path)
    plain = evaluation.label(Configuration())
    assert plain == Configuration().label
    evaluation.pipe, evaluation.device = Pipe(), "cpu"
    evaluation.prompts = ("a toon portrait", "a dylan portrait")
    Evaluation.sample(evaluation, Configuration(), 3, 6)
    assert evaluation.pipe.asked == ["a dylan portrait", "a toon portrait", "a dylan portrait"]
    assert evaluation.label(Configuration()) != plain
    evaluation.prompts = ("a toon portrait",)
    assert evaluation.label(Configuration()) != plain
