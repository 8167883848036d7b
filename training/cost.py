"""What more attention costs: seconds of a training step of U-Nets of several sizes.

    python -m training.cost --recipe cpu --steps 6

The sizes take turns, step by step. On a CPU, seconds are those that the process got, so that other
programs hardly matter.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from transformers import CLIPTokenizer

from .networks import TOKENS
from .recipes import RECIPES, Recipe
from .train import JointTrainer

__all__ = ["markdown", "sizes", "step_seconds"]


def sizes(recipe: Recipe) -> Mapping[str, Recipe]:
    """The recipe as it is and with more layers, tokens or width, by what is different."""
    return {
        "as it is": recipe,
        "two layers more in the middle and down": replace(
            recipe, down_layers=tuple(n + 2 for n in recipe.down_layers)
        ),
        "attention in the upper level too": replace(recipe, upper_layers=1),
        "twice the width of the upper level": replace(
            recipe, channels=(2 * recipe.channels[0], recipe.channels[1])
        ),
        "half as wide again below": replace(
            recipe, channels=(recipe.channels[0], recipe.channels[1] * 3 // 2)
        ),
    }


def step_seconds(
    trainers: Mapping[str, JointTrainer], *, steps: int, device: str
) -> dict[str, float]:
    """The median seconds of a step on random latents and captions, by the trainers' names."""
    generator = torch.Generator().manual_seed(0)
    taken: dict[str, list[float]] = {name: [] for name in trainers}
    clock = time.process_time if device == "cpu" else time.monotonic
    for round_ in range(steps + 1):
        for name, trainer in trainers.items():
            side, batch = trainer.recipe.image_size // 4, trainer.recipe.batch
            latents = torch.randn(batch, 4, side, side, generator=generator)
            tokens = torch.randint(0, 500, (batch, TOKENS), generator=generator)
            started = clock()
            trainer.train_step((latents, tokens), 1.0)
            if device == "cuda":
                torch.cuda.synchronize()
            if round_:  # the first step allocates
                taken[name].append(clock() - started)
    return {name: float(np.median(seconds)) for name, seconds in taken.items()}


def markdown(trainers: Mapping[str, JointTrainer], seconds: Mapping[str, float]) -> str:
    """A table of sizes: parameters, seconds a step, and the same relative to the first."""
    first = next(iter(seconds.values()))
    lines = ["| U-Net | parameters | seconds a step | relative |", "|---|---|---|---|"]
    for name, trainer in trainers.items():
        count = sum(p.numel() for p in trainer.unet.parameters()) / 1e6
        relative = seconds[name] / first
        lines.append(f"| {name} | {count:.1f} M | {seconds[name]:.2f} | {relative:.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    here = Path(__file__).parents[1]
    avatars = here / "src" / "smoothed_energy" / "models" / "avatars"
    parser.add_argument("--recipe", choices=RECIPES, default="cpu")
    parser.add_argument("--tokenizer", type=Path, default=avatars / "tokenizer_2")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args(arguments)
    tokenizer = CLIPTokenizer.from_pretrained(options.tokenizer)
    trainers = {
        name: JointTrainer(recipe, tokenizer, device=options.device)
        for name, recipe in sizes(RECIPES[options.recipe]).items()
    }
    fused = JointTrainer(RECIPES[options.recipe], tokenizer, device=options.device)
    fused.unet.set_attn_processor(AttnProcessor2_0())
    trainers["as it is, fused attention"] = fused
    upper = replace(RECIPES[options.recipe], upper_layers=1)
    fused_upper = JointTrainer(upper, tokenizer, device=options.device)
    fused_upper.unet.set_attn_processor(AttnProcessor2_0())
    trainers["attention in the upper level too, fused"] = fused_upper
    print(markdown(trainers, step_seconds(trainers, steps=options.steps, device=options.device)))


if __name__ == "__main__":
    main(sys.argv[1:])
