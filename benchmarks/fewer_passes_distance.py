r"""Fewer second passes against the distance to real pictures: the other frontier.

    python benchmarks/fewer_passes_distance.py --pictures 2000 [--device cuda] [--json FILE]
    python benchmarks/fewer_passes_distance.py --plot docs/images/fewer-passes-distance.svg

The second draws the tables that stand in docs/benchmarks.md.

On the embedded model without a prompt: its own guidance at few steps, where there is something to
mend, and a strong one at thirty. Frechet and kernel distance (times 1000) of EfficientNet-Lite0
features to the held-out drawings that come with the model, and the paired difference of both to
the run with a second pass at every step, with 95 % intervals over seeds. Cost is in runs without
the guidance, as in `fewer_passes.py`. Ways that look at the whole batch, such as `drift`, are left
out: they would have to be drawn one by one.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewer_passes import FULL, PART, RowCounter, Way, machine, refreshed, seg, ways
from smoothed_energy.evaluation import METRICS, FeatureStore, open_extractor, paired_interval
from smoothed_energy.evaluation.metric import SubsetValue
from smoothed_energy.experiments.reference import read_reference
from smoothed_energy.experiments.subject import AVATARS
from smoothed_energy.models import load

BATCH = 100
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
#: By how names of ways begin: what they are called in the plot, and their colour.
KINDS = {
    "unguided": ("without the guidance", "grey"),
    "all steps": ("all steps", "black"),
    "steps=": ("some steps alone", "tab:blue"),
    "refresh=`every": ("refresh, evenly", "tab:orange"),
    "refresh=`early": ("refresh, early", "tab:green"),
}
TIMES = {"frechet": 1.0, "kernel": 1000.0}


def settings(*early: int) -> dict[str, list[dict[str, Any]]]:
    """The ways to save passes, with `early` of these counts."""
    first = [{"steps": steps} for steps in ("0:0.2", "begin")]
    held = refreshed("every:2", "every:3")
    return {"": [*first, *held, *refreshed(*(f"early:{count}" for count in early))]}


#: The guidance that the embedded model is best with.
own = functools.partial(seg, blur="gaussian:1", layers="down,mid")

TABLES: dict[str, tuple[int, Sequence[Way]]] = {
    "gaussian:1, scale 0.7, down,mid; 8 steps": (8, ways(own, settings(2, 3, 4, 5))),
    "gaussian:1, scale 0.7, down,mid; 15 steps": (15, ways(own, settings(4, 6, 8))),
    "gaussian:inf, scale 0.7, mid; 30 steps": (30, ways(seg, settings(6, 8, 9, 12))),
}


@torch.inference_mode()
def features(pipe: Any, extractor: Any, way: Way, count: int, steps: int) -> Tensor:
    """Features `(N, D)` of pictures of the first seeds."""
    found = []
    for start in range(0, count, BATCH):
        seeds = range(start, min(start + BATCH, count))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        call = {
            "num_images_per_prompt": len(generators),
            "guidance_scale": 1.0,
            "num_inference_steps": steps,
            "generator": generators,
            "output_type": "pt",
        }
        if way.attached:
            with way.attached[0].attach(pipe):
                pictures = pipe("", **call).images
        else:
            pictures = pipe("", **call).images
        found.append(extractor((pictures * 255).round().to(torch.uint8).cpu()))
    return torch.cat(found)


def scaled(value: SubsetValue, by: float) -> SubsetValue:
    """A number of a subset, times something."""
    return lambda indices: by * value(indices)


@dataclass(frozen=True)
class Point:
    """A row of a table on the page: the interval is of the difference to all steps."""

    name: str
    cost: float
    value: float
    low: float
    high: float


def read_page(page: Path) -> dict[str, list[Point]]:
    """The Frechet distances in the tables of this benchmark on a page."""
    section = page.read_text().split("## benchmarks/fewer_passes_distance.py")[1].split("\n## ")[0]
    found: dict[str, list[Point]] = {}
    for part in section.split("\n### ")[1:]:
        title, *lines = part.splitlines()
        rows = [[cell.strip() for cell in line.split("|")[1:]] for line in lines if "|" in line]
        points = found[title] = []
        for name, cost, value, difference, *_ in rows[2:]:
            ends = re.findall(r"[+-][\d.]+", difference) or ["0", "0", "0"]
            middle, low, high = map(float, ends)
            points.append(Point(name, float(cost), float(value), middle - low, high - middle))
    return found


def plot(page: Path, path: Path) -> None:
    """Frechet distance over cost, a panel for each table."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    tables = read_page(page)
    style = {"svg.hashsalt": "fewer-passes-distance", "font.size": 9}
    style |= {"axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        figure, axes = plt.subplots(
            1, len(tables), figsize=(3.6 * len(tables) + 1.6, 3.4), layout="constrained"
        )
        for axis, (title, points) in zip(axes, tables.items(), strict=True):
            for kind, (label, colour) in KINDS.items():
                of_kind = [point for point in points if point.name.startswith(kind)]
                axis.errorbar(
                    [point.cost for point in of_kind],
                    [point.value for point in of_kind],
                    [[getattr(p, end) for p in of_kind] for end in ("low", "high")],
                    fmt="o",
                    elinewidth=0.8,
                    color=colour,
                    label=label,
                )
                for point in of_kind:
                    short = point.name.partition("=")[2].strip("`")
                    axis.annotate(
                        short,
                        (point.cost, point.value),
                        xytext=(-5, 3) if short.startswith("0:") else (5, 3),
                        ha="right" if short.startswith("0:") else "left",
                        textcoords="offset points",
                        fontsize=8,
                    )
            axis.set_title(title, fontsize=9)
            axis.set(xlabel="cost, in runs without the guidance", xlim=(0.9, 1.8))
        axes[0].set_ylabel("Frechet distance to real pictures")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right upper", frameon=False)
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=2000, help="of each way (2000)")
    parser.add_argument("--device", default="cpu", help="where the networks run (cpu)")
    parser.add_argument("--only", default="", help="tables whose title contains this")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    parser.add_argument("--plot", type=Path, help="draw the tables of docs/benchmarks.md instead")
    options = parser.parse_args()
    if options.plot:
        plot(PAGE, options.plot)
        return
    extractor = open_extractor(AVATARS.features, device=options.device)
    assert AVATARS.reference is not None
    real = read_reference(AVATARS.reference, extractor, FeatureStore(Path("unused"))).features
    print(
        f"Embedded model, {options.pictures} pictures a way against {len(real)} drawings; "
        f"torch {torch.__version__}, {machine(options.device)}"
    )
    numbers: dict[str, Any] = {}
    for title, (steps, table) in TABLES.items():
        if options.only not in title:
            continue
        pipe = load("avatars", dtype=torch.float32, device=options.device)
        pipe.set_progress_bar_config(disable=True)
        counter = RowCounter(pipe)
        found: dict[str, Tensor] = {}
        passes: dict[str, int] = {}
        for way in table:
            counter.rows, started = 0, time.perf_counter()
            found[way.name] = features(pipe, extractor, way, options.pictures, steps)
            passes[way.name] = counter.rows
            rate = options.pictures / (time.perf_counter() - started)
            print(f"[{way.name}: {rate:.1f} pictures a second]", flush=True)
        print(f"\n### {title}\n")
        print("| way | cost | Frechet | to all steps | kernel | to all steps |")
        print("|---|---:|---:|---:|---:|---:|")
        of_all = {
            name: {key: METRICS[key].subsets(each, real) for key in TIMES}
            for name, each in found.items()
        }
        everything = torch.arange(options.pictures)
        for way in table:
            cost = 1 + PART * (passes[way.name] / passes[table[0].name] - 1)
            cells, kept = [], {"cost": cost}
            for key, by in TIMES.items():
                mine, full = (scaled(of_all[name][key], by) for name in (way.name, FULL))
                value = kept[key] = mine(everything)
                cells.append(f"{value:.2f}")
                if way.name == FULL:
                    cells.append("")
                    continue
                gap = paired_interval(mine, full, options.pictures)
                kept[f"{key} difference"] = [gap.value, gap.low, gap.high]
                cells.append(f"{gap.value:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]")
            print(f"| {way.name} | {cost:.2f} | {' | '.join(cells)} |", flush=True)
            numbers.setdefault(title, {})[way.name] = kept
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
