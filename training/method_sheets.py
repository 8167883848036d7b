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

__all__ = ["SHEETS", "Row", "Sheet", "draw"]

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


VANILLA = Row("vanilla")
WITH_CFG = Row("CFG", cfg=CFG)
SEG = "seg; blur=gaussian:inf; scale=0.7; layers=mid"

ATTENTION = (
    Row("SAG", "sag; scale=0.75; layers=mid; steps=0.05:1"),
    Row("PAG", "pag; scale=0.7; layers=mid"),
    Row("ERG", "erg; scale=0.7; layers=mid"),
    Row("SEG, sigma 1", "seg; blur=gaussian:1; scale=0.7; layers=mid"),
    Row("SEG, sigma 10", "seg; blur=gaussian:10; scale=0.7; layers=mid"),
    Row("SEG, sigma infinite", SEG),
)
#: What perturbs something else, at one scale.
ELSE = (
    Row("SLG", "slg; scale=0.7; layers=m0"),
    Row("S2", "s2; scale=0.7"),
    Row("TPG", "tpg; scale=0.7; layers=mid"),
    Row("SWG", "swg; scale=0.7"),
    Row("TSG", "tsg; scale=0.7"),
    Row("SG", "sg; scale=0.7"),
)
FREE = (
    Row("momentum", "momentum; scale=0.7"),
    Row("HiGS", "higs; scale=1.75"),
    Row("TAG", "tag; eta=1.05"),
    Row("TAG, more", "tag; eta=1.15"),
)
#: Rules at a scale at which plain CFG does harm.
HIGH = 9.0
RULES = (
    Row("APG", "apg; norm=5", HIGH),
    Row("CFG-Zero*", "cfg-zero; zero_steps=0", HIGH),
    Row("TCFG", "tcfg", HIGH),
    Row("FDG", "fdg; scales=9:3", HIGH),
    Row("MAMBO-G", "mambo-g; alpha=8", HIGH),
    Row("CFG++", "cfgpp; scale=0.6", HIGH),
    Row("CFG in an interval", "interval; steps=0.2:0.7", HIGH),
)
#: A prompt that leaves something open, and what is not wanted of it.
OPEN, NEGATIVE = "a toon portrait of someone, on a teal background", "dark skin"
PASSES = (
    Row("NAG, no CFG", f"nag; negative_prompt={NEGATIVE}"),
    Row("PLADIS, no CFG", "pladis; scale=2"),
    Row("PLADIS and CFG", "pladis; scale=2", CFG),
    Row("PAG within CFG", "pag; layers=mid; formulation=within", CFG),
    Row("SEG within CFG", "seg; blur=gaussian:inf; layers=mid; formulation=within", CFG),
)


@dataclass(frozen=True)
class Sheet:
    """Rows at the same seeds.

    Args:
        title: What they have in common.
        rows: Ways to sample.
        prompt: For all of them; empty for none.
    """

    title: str
    rows: Sequence[Row]
    prompt: str = ""


#: By the file's name.
SHEETS: Mapping[str, Sheet] = {
    "no-prompt": Sheet("No prompt: attention is perturbed", (VANILLA, *ATTENTION)),
    "else": Sheet("No prompt: something else is perturbed", (VANILLA, *ELSE)),
    "free": Sheet("No prompt: no second pass", (VANILLA, *FREE)),
    "prompt": Sheet(
        "Beside CFG",
        (VANILLA, WITH_CFG, *ATTENTION, Row("SEG, sigma infinite, and CFG", SEG, CFG)),
        PROMPT,
    ),
    "rules": Sheet("Rules for CFG", (WITH_CFG, Row("CFG, high", cfg=HIGH), *RULES), PROMPT),
    "passes": Sheet("In the same pass", (VANILLA, WITH_CFG, *PASSES), OPEN),
}


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


def methods(pipe: Any, sheet: Sheet, steps: int) -> Image.Image:
    """A sheet of methods."""
    prompts = [sheet.prompt] * len(SEEDS)
    return contact_sheet(
        [
            Series(row.label, draw(pipe, row, prompts, SEEDS, steps=steps), row.detail)
            for row in sheet.rows
        ],
        [f"seed {seed}" for seed in SEEDS],
        f"{sheet.title}: “{sheet.prompt}”" if sheet.prompt else sheet.title,
        f"avatars  ·  {steps} steps",
    )


def sources(pipe: Any, steps: int) -> list[Image.Image]:
    """The pictures that the ControlNet's edges are taken from, drawn with CFG alone."""
    return draw(pipe, Row("", cfg=CFG), SOURCES, SOURCE_SEEDS, steps=steps)


def control(pipe: Any, pictures: Sequence[Image.Image], steps: int) -> Image.Image:
    """The sheet of the ControlNet: the edges of another picture in every column."""
    edges = [Image.fromarray(canny(np.asarray(picture.convert("RGB")))) for picture in pictures]
    seeds = SEEDS[: len(edges)]
    rows: Mapping[str, tuple[str, Row]] = {
        "no prompt, unguided": ("", Row("")),
        "no prompt, SEG": ("", Row("", SEG)),
        "prompt, CFG": (CONTROL_PROMPT, Row("", cfg=CFG)),
        "prompt, SEG and CFG": (CONTROL_PROMPT, Row("", SEG, CFG)),
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
    parser.add_argument("--only", nargs="+", choices=(*SHEETS, "control"))
    options = parser.parse_args(arguments)
    wanted = options.only or [*SHEETS, "control"]
    options.to.mkdir(parents=True, exist_ok=True)
    pipe = load("avatars", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    for name, sheet in SHEETS.items():
        if name in wanted:
            drawn = methods(pipe, sheet, options.steps)
            drawn.save(options.to / f"methods-{name}.png", optimize=True)
    if "control" in wanted:
        pictures = sources(pipe, options.steps)
        pipe = load("avatars", dtype=torch.float32, controlnet=options.controlnet)
        pipe.set_progress_bar_config(disable=True)
        control(pipe, pictures, options.steps).save(options.to / "control.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
