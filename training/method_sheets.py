"""The contact sheets of all methods on the embedded model, and of its ControlNet.

    python -m training.method_sheets --to docs/images

Each sheet has the same seeds in every row. The ControlNet follows the edges of samples of the model
itself: no drawing is shown, and none is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from smoothed_energy import guidance_from_text
from smoothed_energy.models import load
from smoothed_energy.models.edges import canny
from smoothed_energy.report import Series, contact_sheet

from .samples import CAPTIONS

__all__ = ["ROWS", "Row", "draw"]

PROMPT = CAPTIONS[6]
#: Colours alone, since the edges say the rest.
CONTROL_PROMPT = "someone with purple hair and dark skin, on a yellow background"
#: What the ControlNet's edges are taken from: all styles, nothing selected.
SOURCES = CAPTIONS[::3]
CFG = 3.0
SEEDS = range(8)
#: Others than `SEEDS`: from the same noise the same picture might come without any edges.
SOURCE_SEEDS = range(100, 100 + len(SOURCES))


@dataclass(frozen=True)
class Row:
    """One way to sample.

    Args:
        label: Its name.
        guidance: A guidance as text, or nothing.
        cfg: The scale of classifier-free guidance; needs a prompt.
    """

    label: str
    guidance: str = ""
    cfg: float = 1.0

    @property
    def detail(self) -> str:
        """What the label does not say."""
        parts = self.guidance.split("; ")[1:]
        return "   ".join([*([f"cfg {self.cfg:g}"] if self.cfg > 1 else []), *parts])


ROWS = (
    Row("vanilla"),
    Row("CFG", cfg=CFG),
    Row("SAG", "sag; scale=0.75; layers=mid; steps=0.05:1"),
    Row("PAG", "pag; scale=0.7; layers=mid"),
    Row("SEG, sigma 1", "seg; blur=gaussian:1; scale=0.7; layers=mid"),
    Row("SEG, sigma 10", "seg; blur=gaussian:10; scale=0.7; layers=mid"),
    Row("SEG, sigma infinite", "seg; blur=gaussian:inf; scale=0.7; layers=mid"),
    Row("SEG, sigma infinite, and CFG", "seg; blur=gaussian:inf; scale=0.7; layers=mid", CFG),
)


@torch.inference_mode()
def draw(
    pipe: Any,
    row: Row,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = 30,
    **arguments: Any,
) -> list[Image.Image]:
    """The samples of one row, one for each prompt and seed."""
    attached = contextlib.nullcontext()
    if row.guidance:
        attached = guidance_from_text(row.guidance).attach(pipe)
    with attached:
        found: list[Image.Image] = pipe(
            list(prompts),
            guidance_scale=row.cfg,
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            **arguments,
        ).images
    return found


def methods(pipe: Any, prompt: str, steps: int) -> Image.Image:
    """The sheet of all methods, with or without a prompt."""
    rows = [row for row in ROWS if prompt or row.cfg == 1.0]
    return contact_sheet(
        [
            Series(
                row.label,
                draw(pipe, row, [prompt] * len(SEEDS), SEEDS, steps=steps),
                row.detail,
            )
            for row in rows
        ],
        [f"seed {seed}" for seed in SEEDS],
        f"“{prompt}”" if prompt else "No prompt",
        f"avatars  ·  {steps} steps",
    )


def sources(pipe: Any, steps: int) -> list[Image.Image]:
    """The pictures that the ControlNet's edges are taken from, drawn with CFG alone."""
    return draw(pipe, Row("", cfg=CFG), SOURCES, SOURCE_SEEDS, steps=steps)


def control(pipe: Any, pictures: Sequence[Image.Image], steps: int) -> Image.Image:
    """The sheet of the ControlNet: the edges of another picture in every column."""
    edges = [Image.fromarray(canny(np.asarray(picture.convert("RGB")))) for picture in pictures]
    seeds = SEEDS[: len(edges)]
    guidance = ROWS[-1].guidance
    rows: Mapping[str, tuple[str, Row]] = {
        "no prompt, unguided": ("", Row("")),
        "no prompt, SEG": ("", Row("", guidance)),
        "prompt, CFG": (CONTROL_PROMPT, Row("", cfg=CFG)),
        "prompt, SEG and CFG": (CONTROL_PROMPT, Row("", guidance, CFG)),
    }
    series = [
        Series(
            "samples of the model",
            pictures,
            f"cfg {CFG:g}   captions 1, 4, 7, ..., 22   seeds {SOURCE_SEEDS[0]} to "
            f"{SOURCE_SEEDS[-1]}",
        ),
        Series("their edges", edges),
    ]
    for label, (prompt, row) in rows.items():
        images = draw(pipe, row, [prompt] * len(edges), seeds, steps=steps, image=edges)
        series.append(Series(label, images, row.detail))
    return contact_sheet(
        series,
        [f"seed {seed}" for seed in seeds],
        f"ControlNet, with no prompt and with “{CONTROL_PROMPT}”",
        f"avatars, canny  ·  {steps} steps",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--controlnet", default="canny")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--only", choices=("methods", "control"))
    options = parser.parse_args(arguments)
    options.to.mkdir(parents=True, exist_ok=True)
    pipe = load("avatars", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    if options.only != "control":
        for name, prompt in (("no-prompt", ""), ("prompt", PROMPT)):
            methods(pipe, prompt, options.steps).save(options.to / f"methods-{name}.png")
    if options.only != "methods":
        pictures = sources(pipe, options.steps)
        pipe = load("avatars", dtype=torch.float32, controlnet=options.controlnet)
        pipe.set_progress_bar_config(disable=True)
        control(pipe, pictures, options.steps).save(options.to / "control.png")


if __name__ == "__main__":
    main(sys.argv[1:])
