"""The curves of a training run as a picture: losses over samples, from its logs.

python -m training.curves --run training/history --to training/curves.png
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["draw_curves", "read_curves"]

Curve = Sequence[tuple[float, float]]
#: Line colours that differ in lightness as well as in hue.
_COLORS = ("#222222", "#d1495b", "#00798c", "#edae49", "#30638e", "#7a9e3a", "#8d5a97", "#9a9a9a")
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 860, 420, 60, 34, 150, 46
#: Where the axis of samples begins.
_FIRST = 1000.0
#: Lines of the log of training losses that are averaged into one point.
_SMOOTH = 4


def read_curves(run: Path) -> dict[str, Curve]:
    """Curves by name: ``(samples, loss)`` points of the held-out and of the training loss."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in (run / "heldout.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name, value in record["averaged"].items():
            label = "held out, all" if name == "all" else name
            curves.setdefault(label, []).append((record["seen"], value))
    losses = [json.loads(line) for line in (run / "loss.jsonl").read_text().splitlines()]
    for start in range(0, len(losses), _SMOOTH):
        part = losses[start : start + _SMOOTH]
        seen = float(np.mean([r["seen"] for r in part]))
        mean = float(np.mean([r["loss"] for r in part]))
        curves.setdefault("training", []).append((seen, mean))
    return dict(curves)


def draw_curves(curves: Mapping[str, Curve], title: str) -> Image.Image:
    """Curves over samples, both axes logarithmic; what comes before a thousand is at their left.

    Raises:
        ValueError: If there are more curves than colours, or no points at all.
    """
    if len(curves) > len(_COLORS):
        raise ValueError(f"{len(curves)} curves; expected at most {len(_COLORS)}")
    points = [point for curve in curves.values() for point in curve]
    if not points:
        raise ValueError("there are no points to draw")
    most = math.log(max(max(x for x, _ in points), 2 * _FIRST) / _FIRST)
    low = math.log(min(y for _, y in points)) - 0.05
    high = math.log(max(y for _, y in points)) + 0.05

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + math.log(max(x, _FIRST) / _FIRST) / most * (_WIDTH - _LEFT - _RIGHT)
        return across, _TOP + (high - math.log(y)) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(13)
    draw.text((_LEFT, 8), title, fill="black", font=font)
    for tick in _loss_ticks(low, high):
        (x0, y), (x1, _) = place(0, tick), place(_FIRST * math.exp(most), tick)
        draw.line((x0, y, x1, y), fill="#dddddd")
        draw.text((x0 - 8, y), f"{tick:g}", fill="black", font=font, anchor="rm")
    for tick in _sample_ticks(_FIRST * math.exp(most)):
        x, bottom = place(tick, math.exp(low))
        draw.line((x, _TOP, x, bottom), fill="#eeeeee")
        name = f"{tick / 1e6:g}M" if tick >= 1e6 else f"{tick / 1e3:g}k"
        draw.text((x, bottom + 6), name, fill="black", font=font, anchor="ma")
    middle = place(_FIRST * math.exp(most / 2), math.exp(low))
    draw.text(middle, "\nsamples", fill="black", font=font, anchor="ma")
    label_y = float(_TOP)
    for (name, curve), color in zip(curves.items(), _COLORS, strict=False):
        line = [place(x, y) for x, y in curve]
        if len(line) > 1:
            draw.line(line, fill=color, width=2)
        for x, y in line:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=color)
        draw.text((_WIDTH - _RIGHT + 12, label_y), name, fill=color, font=font)
        label_y += 18
    return image


def _loss_ticks(low: float, high: float) -> list[float]:
    every = [m * 10.0**e for e in range(-5, 3) for m in (1, 1.5, 2, 3, 5, 7)]
    return [tick for tick in every if low <= math.log(tick) <= high]


def _sample_ticks(most: float) -> list[float]:
    every = [m * 10.0**e for e in range(3, 10) for m in (1, 2, 5)]
    return [tick for tick in every if _FIRST <= tick <= most]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the logs")
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--title", default="Loss: squared error of the velocity")
    options = parser.parse_args(arguments)
    draw_curves(read_curves(options.run), options.title).save(options.to)


if __name__ == "__main__":
    main(sys.argv[1:])
