"""The sheets in the model card: fixed seeds unguided and guided, and the 24 listed captions.

python -m training.samples --to docs/images --sigma inf --scale 0.7 --layers mid
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.models import load

from .evaluate import Configuration
from .sheet import contact_sheet

__all__ = ["CAPTIONS", "draw", "side_by_side"]

_SPOKEN = {
    "personas": (
        "with a red mohawk and sunglasses, on a yellow background",
        "with big curly blond hair and glasses, on a pink background",
        "with a red beanie and a frown, on a teal background",
        "with a full brown beard and a bald head, on an orange background",
    ),
    "toon": (
        "with spiky green hair wearing a red t-shirt, on a purple background",
        "with a pink undercut wearing a black turtleneck, on a yellow background",
        "with dark skin and spiky white hair, on a teal background",
        "with closed eyes and a blue hair bun, on a pink background",
    ),
    "dylan": (
        "with two purple hair buns and a happy face, on a yellow background",
        "with spiky blue hair and an angry face, on a pink background",
        "with long black hair with bangs and a sad face, on an orange background",
        "with long curly pink hair and a confused face, on a teal background",
    ),
    "micah": (
        "with a green mohawk and a nervous grin wearing a purple sweater, on a gray background",
        "with a bald head, round glasses and a smile, on a light blue background",
        "with long wavy red hair and a hoop earring, on a dark blue background",
        "with a full white beard and a black turban wearing a yellow t-shirt, on a pink background",
    ),
    "bigsmile": (
        "with blue braids and starry eyes, on a purple background",
        "with a blond bowl cut, glasses and a laughing mouth, on a green background",
        "with dark skin, a wavy red bob and cat ears, on a yellow background",
        "with a purple buzz cut, angry eyes and a straight mouth, on a teal background",
    ),
    "miniavs": (
        "with a black ponytail and rosy cheeks wearing a green t-shirt, on an orange background",
        "with a big blond quiff and round glasses wearing a red turtleneck, on a gray background",
        "with long straight pink hair and a smile, on a dark blue background",
        "with curly brown hair, a brown goatee and a missing tooth, on a light blue background",
    ),
}
#: Captions to judge the model by, in the words of the data: four of each style.
CAPTIONS = tuple(
    f"a {style} portrait of someone {rest}" for style, those in _SPOKEN.items() for rest in those
)


@torch.inference_mode()
def draw(
    pipe: Any,
    prompts: Sequence[str],
    *,
    guidance: SmoothedEnergyGuidance | None = None,
    cfg: float = 1.0,
    steps: int = 25,
    batch: int = 32,
) -> np.ndarray:
    """Samples of prompts, the i-th from the seed i; ``(N, H, W, 3)`` uint8."""
    found = []
    attached = guidance.attach(pipe) if guidance else contextlib.nullcontext()
    with attached:
        for start in range(0, len(prompts), batch):
            part = list(prompts[start : start + batch])
            images = pipe(
                part,
                guidance_scale=cfg,
                num_inference_steps=steps,
                generator=[torch.Generator().manual_seed(start + i) for i in range(len(part))],
                output_type="np",
            ).images
            found.append((images * 255).round().astype(np.uint8))
    return np.concatenate(found)


def side_by_side(left: np.ndarray, right: np.ndarray, columns: int) -> Image.Image:
    """Two square sheets of the same seeds next to each other, with a gap between them."""
    sheets = [contact_sheet(images, columns) for images in (left, right)]
    width, height = sheets[0].size
    both = Image.new("RGB", (2 * width + 16, height), "white")
    both.paste(sheets[0], (0, 0))
    both.paste(sheets[1], (width + 16, 0))
    return both


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="avatars")
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--sigma", type=float, default=float("inf"))
    parser.add_argument("--scale", type=float, default=0.7)
    parser.add_argument("--layers", default="mid")
    parser.add_argument("--active", default="all", help="steps at which guidance is active")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--cfg", type=float, default=3.0, help="for the captions")
    parser.add_argument("--count", type=int, default=64)
    options = parser.parse_args(arguments)
    pipe = load(options.model)
    pipe.set_progress_bar_config(disable=True)
    guidance = Configuration(
        options.sigma, options.scale, options.layers, options.active
    ).guidance()
    empty = [""] * options.count
    unguided = draw(pipe, empty, steps=options.steps)
    guided = draw(pipe, empty, guidance=guidance, steps=options.steps)
    sheet = side_by_side(unguided, guided, columns=round(options.count**0.5))
    options.to.mkdir(parents=True, exist_ok=True)
    sheet.save(options.to / "avatars-samples.png")
    captioned = draw(pipe, CAPTIONS, cfg=options.cfg, steps=options.steps)
    contact_sheet(captioned, 8, zoom=2).save(options.to / "avatars-captions.png")


if __name__ == "__main__":
    main(sys.argv[1:])
