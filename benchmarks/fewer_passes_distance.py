r"""Fewer second passes against the distance to real pictures: the other frontier.

    python benchmarks/fewer_passes_distance.py --pictures 2000 [--device cuda] [--json FILE]

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
import time
from collections.abc import Sequence
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


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=2000, help="of each way (2000)")
    parser.add_argument("--device", default="cpu", help="where the networks run (cpu)")
    parser.add_argument("--only", default="", help="tables whose title contains this")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    options = parser.parse_args()
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
