"""The comparison of sizes: every variant is another U-Net, and trains."""

import dataclasses

import pytest

pytest.importorskip("tokenizers")

from training.cost import markdown, sizes, step_seconds
from training.networks import build_unet, train_tokenizer
from training.recipes import RECIPES
from training.train import JointTrainer


def small():
    return dataclasses.replace(
        RECIPES["cpu"],
        image_size=32,
        channels=(16, 32),
        heads=1,
        down_layers=(1,),
        up_layers=(1, 1),
        text_width=64,
        batch=2,
    )


def test_attention_in_the_upper_level_sees_all_of_its_tokens():
    recipe = dataclasses.replace(small(), upper_layers=2)
    names = [n for n in build_unet(recipe).attn_processors if "attn1" in n]
    upper = [n for n in names if n.startswith(("down_blocks.0", "up_blocks.1"))]
    assert len(upper) == 2 * (1 + 2), "two layers after each residual block"
    assert not [n for n in build_unet(small()).attn_processors if n.startswith("down_blocks.0")]


def test_each_size_takes_its_seconds():
    tokenizer = train_tokenizer(["a red mohawk, a teal background"] * 5, vocabulary=800)
    trainers = {name: JointTrainer(recipe, tokenizer) for name, recipe in sizes(small()).items()}
    assert len({sum(p.numel() for p in t.parameters) for t in trainers.values()}) == len(trainers)
    seconds = step_seconds(trainers, steps=1, device="cpu")
    assert all(value > 0 for value in seconds.values())
    lines = markdown(trainers, seconds).splitlines()
    assert len(lines) == 2 + len(trainers)
    assert lines[2].startswith("| as it is |")
    assert lines[2].endswith("| 1.00 |")
