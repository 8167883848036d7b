"""The examples for models of this year guide as brute force does, on tiny instances."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_flux2
import tiny_ltx2
import tiny_qwen_image
import tiny_wan
import tiny_z_image
from brute_force_attention import brute_force
from tiny_pipelines import MARGIN, TOLERANCE, difference

from smoothed_energy.families.layer_selection import select_layers

EXAMPLES = Path(__file__).parents[2] / "examples"
# Z-Image Turbo has no CFG.
CASES = [
    ("flux2", tiny_flux2.CASES[0], True),
    ("z_image", tiny_z_image.CASES[0], False),
    ("qwen_image", tiny_qwen_image.CASES[0], True),
    ("wan", tiny_wan.CASES[0], True),
    ("ltx2", tiny_ltx2.CASES[0], True),
]


@pytest.mark.parametrize(("name", "case", "cfg"), CASES, ids=[name for name, *_ in CASES])
def test_an_example_guides_as_brute_force_does(monkeypatch, name, case, cfg):
    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module(name)
    pipe = case.pipeline()
    pipe.set_progress_bar_config(disable=True)
    arguments = {**case.arguments, **(case.cfg if cfg else {})}
    arguments |= {"output_type": "latent", "num_inference_steps": 2}
    image = next(iter(case.images.values()))
    layers = select_layers(pipe.transformer, example.GUIDANCE.layers)
    case = replace(case, images={layer.name: image for layer in layers})
    plain = example.draw(pipe, **arguments)
    with brute_force(pipe, case, cfg=cfg, sigma=10.0, scale=example.GUIDANCE.scale):
        expected = example.draw(pipe, **arguments)
    with example.GUIDANCE.attach(pipe):
        guided = example.draw(pipe, **arguments)
    assert difference(plain, expected) > MARGIN / 2 * TOLERANCE
    assert difference(guided, expected) < TOLERANCE
