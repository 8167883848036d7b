r"""What fewer second passes save, and what they change: the frontier of cost against change.

    python benchmarks/fewer_passes.py [--count 16] [--steps 30] [--repeats 0]
    python benchmarks/fewer_passes.py --quick              # one sample, six steps: whether it runs
    python benchmarks/fewer_passes.py --repeats 3          # times, too
    python benchmarks/fewer_passes.py --plot docs/images/fewer-passes.svg

On the embedded model, without a prompt and with one under classifier-free guidance (CFG). Each way
starts from the same seeds. *Change* is the relative L2 distance of the final latents to those of
the full run, $\lVert x - x_{full} \rVert / \lVert x_{full} \rVert$, mean and median over the
samples; that of the run without the guidance says how much there is to lose. *Cost* is in runs
without the guidance, by arithmetic: a second pass is `PART` of a pass of SDXL's, since the layers
before `mid` are replayed, and with CFG it has half of the rows. Passes are counted, not estimated.
Time is the median of the ratios to the unguided run of the same turn.

Adaptive guidance has tables of its own, since a threshold must lie where the cosine of clean and
perturbed prediction goes through it, and that depends on the guidance.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smoothed_energy import (
    Guidance,
    GuidanceInterval,
    PerturbedAttentionGuidance,
    SmoothedEnergyGuidance,
)
from smoothed_energy.models import load

PROMPT = "a toon portrait of someone with spiky green hair wearing a red t-shirt"
GUIDANCE = {"blur": "gaussian:inf", "scale": 0.7, "layers": "mid"}
CFG = 3.0
USUAL = {"count": 16, "steps": 30, "repeats": 0}
#: A second pass of SDXL from `mid` on, as a part of a whole one.
PART = 0.684


@dataclass(frozen=True)
class Way:
    """One way to guide.

    Args:
        name: For the table.
        attached: What is attached.
        prompt: With a prompt and CFG.
        curve: What it is a point of in the plot.
    """

    name: str
    attached: tuple[Guidance, ...]
    prompt: bool = False
    curve: str = ""


@dataclass(frozen=True)
class Table:
    """Ways that are compared.

    Args:
        ways: The ways; the one called `FULL` is what changes are measured from.
        steps: Denoising steps, where they are not the usual ones.
        scheduler: The sampler, where it is not the model's own.
    """

    ways: Sequence[Way]
    steps: int | None = None
    scheduler: str = ""


FULL = "all steps"


def seg(**changes: Any) -> SmoothedEnergyGuidance:
    """The guidance, with changes."""
    return SmoothedEnergyGuidance(**{**GUIDANCE, **changes})


def pag(**changes: Any) -> PerturbedAttentionGuidance:
    """Another method, with changes."""
    return PerturbedAttentionGuidance(**{"scale": 0.7, "layers": "mid", **changes})


def ways(
    make: Callable[..., Guidance],
    settings: Mapping[str, Sequence[dict[str, Any]]],
    *,
    prompt: bool = False,
) -> list[Way]:
    """The unguided run, the full one, and others by curve."""
    found = [Way("CFG alone" if prompt else "unguided", (), prompt), Way(FULL, (make(),), prompt)]
    for curve, of_curve in settings.items():
        for one in of_curve:
            name = ", ".join(f"{key}=`{value}`" for key, value in one.items())
            found.append(Way(name, (make(**one),), prompt, curve))
    return found


def refreshed(*rules: str | int) -> list[dict[str, Any]]:
    return [{"refresh": rule} for rule in rules]


FRONTIER = {
    "the first steps alone": [{"steps": steps} for steps in ("0:0.2", "begin")],
    "every n-th, held": refreshed("every:2", "every:3"),
    "early, held": refreshed("early:9,extrapolate=0"),
    "early": refreshed(*(f"early:{count}" for count in (6, 8, 9, 12))),
    "drift": refreshed(*(f"drift:{part:g}" for part in (0.2, 0.3, 0.4, 0.5, 0.6, 0.8))),
}
FEW = {
    "every n-th, held": refreshed("every:3"),
    "early": refreshed("early:9"),
    "drift": refreshed("drift:0.3", "drift:0.5"),
}


def adaptive(*thresholds: float) -> dict[str, list[dict[str, Any]]]:
    """Thresholds, and ways of similar cost."""
    steps = ["0:0.1", "0:0.2", "begin", *(f"adaptive:{threshold:g}" for threshold in thresholds)]
    return {"": [*({"steps": value} for value in steps), *refreshed("early:6")]}


TABLES = {
    "SEG, no prompt": Table(ways(seg, FRONTIER)),
    "SEG and CFG, with a prompt": Table(ways(seg, FRONTIER, prompt=True)),
    "SEG, a mild blur: gaussian:1, scale 2": Table(
        ways(functools.partial(seg, blur="gaussian:1", scale=2.0), FEW)
    ),
    "PAG, scale 0.7": Table(ways(pag, FEW)),
    "SEG, 10 steps": Table(ways(seg, FEW), steps=10),
    "SEG, 50 steps": Table(ways(seg, FEW), steps=50),
    "SEG, Euler": Table(ways(seg, FEW), scheduler="EulerDiscreteScheduler"),
    "SEG, DPM++ 2M": Table(ways(seg, FEW), scheduler="DPMSolverMultistepScheduler"),
    "Adaptive SEG in one layer: d0, scale 3": Table(
        ways(
            functools.partial(seg, layers="d0", scale=3.0),
            adaptive(0.98, 0.99, 0.995, 0.9975, 0.999),
        )
    ),
    "CFG, with a prompt": Table(
        [
            Way(FULL, (), prompt=True),
            *(
                Way(f"interval `{steps}`", (GuidanceInterval(steps=steps),), prompt=True)
                for steps in ("0:0.5", "sigma:0.3:5", "sigma:0.5:2")
            ),
        ]
    ),
}


class RowCounter:
    """How many rows the denoiser predicts: a pass of a batch of N counts N."""

    def __init__(self, pipe: Any) -> None:
        self.rows = 0
        # The output layer runs in every pass, and no pass skips it.
        pipe.unet.conv_out.register_forward_hook(self)

    def __call__(self, module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Count the rows of one pass."""
        self.rows += len(output)


@torch.inference_mode()
def run(pipe: Any, way: Way, count: int, steps: int) -> tuple[Tensor, float]:
    """Final latents on the processor, and the time that they took."""
    # What decides by the whole batch is drawn one by one: so it decides for each.
    alone = any(guidance.depends_on_batch for guidance in way.attached)
    seeds = [[seed] for seed in range(count)] if alone else [list(range(count))]
    with contextlib.ExitStack() as stack:
        for guidance in way.attached:
            stack.enter_context(guidance.attach(pipe))
        started = time.perf_counter()
        latents = [
            pipe(
                PROMPT if way.prompt else "",
                num_images_per_prompt=len(batch),
                guidance_scale=CFG if way.prompt else 1.0,
                num_inference_steps=steps,
                generator=[torch.Generator().manual_seed(seed) for seed in batch],
                output_type="latent",
            ).images
            for batch in seeds
        ]
        found = torch.cat(latents).float().cpu()  # waits for a GPU
        return found, time.perf_counter() - started


def changes(latents: Tensor, full: Tensor) -> Tensor:
    """Relative L2 distance of each sample."""
    return (latents - full).flatten(1).norm(dim=1) / full.flatten(1).norm(dim=1)


@dataclass(frozen=True)
class Row:
    """What was measured of one way.

    Args:
        way: The way.
        rows: How many rows the denoiser predicted, over those of the unguided run.
        cost: What the run costs, by arithmetic.
        mean: The mean change.
        median: The median change.
        times: Its times over those of the unguided run.
    """

    way: Way
    rows: float
    cost: float
    mean: float
    median: float
    times: Sequence[float]

    def __str__(self) -> str:
        time = f"{statistics.median(self.times):.2f}" if self.times else "-"
        return (
            f"| {self.way.name} | {self.rows:.2f} | {self.cost:.2f} | {time} "
            f"| {self.mean:.3f} | {self.median:.3f} |"
        )


def measure(pipe: Any, table: Table, count: int, steps: int, repeats: int) -> list[Row]:
    """The rows of a table."""
    counter = RowCounter(pipe)
    latents, passes = {}, {}
    times: dict[str, list[float]] = {way.name: [] for way in table.ways}
    baseline = Way("unguided", (), prompt=table.ways[0].prompt)
    baseline_times = []
    for turn in range(repeats + 1):
        for way in (baseline, *table.ways):
            counter.rows = 0
            found, seconds = run(pipe, way, count, table.steps or steps)
            if way is baseline:
                baseline_times.append(seconds)
                baseline_rows = counter.rows
                continue
            latents[way.name], passes[way.name] = found, counter.rows
            if turn:  # the first turn warms up
                times[way.name].append(seconds / baseline_times[-1])
    rows = []
    for way in table.ways:
        found = changes(latents[way.name], latents[FULL])
        more = passes[way.name] / baseline_rows
        cost = more if more < 1 else 1 + PART * (more - 1)
        mean, median = float(found.mean()), float(found.median())
        rows.append(Row(way, more, cost, mean, median, times[way.name]))
    return rows


def machine(device: str) -> str:
    """What runs the model, for the first line."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads, {platform.machine()}"


def plot(tables: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Change over cost, for the tables with curves of many points."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    shown = {title: rows for title, rows in tables.items() if len(rows) >= 15}
    style = {"svg.hashsalt": "fewer-passes", "font.size": 9}
    style |= {"axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        size = (4.8 * len(shown) + 1.7, 3.6)
        figure, axes = plt.subplots(
            1, len(shown), figsize=size, layout="constrained", squeeze=False
        )
        axes = axes[0]
        for axis, (title, rows) in zip(axes, shown.items(), strict=True):
            curves: dict[str, list[Row]] = {}
            for row in rows:
                if row.way.curve:
                    curves.setdefault(row.way.curve, []).append(row)
            for name, points in curves.items():
                points.sort(key=lambda row: row.cost)
                axis.plot(
                    [row.cost for row in points],
                    [row.mean for row in points],
                    "o-",
                    markersize=3.5,
                    label=name,
                )
            unguided = rows[0].mean
            axis.axhline(unguided, color="grey", linewidth=0.8, linestyle=":")
            axis.annotate(
                "without the guidance",
                (1, unguided),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                color="grey",
            )
            axis.set(title=title, xlabel="cost, in runs without the guidance", yscale="log")
            ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
            axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
            axis.set_ylim(0.8 * min(row.mean for row in rows if row.mean), 1.2 * unguided)
        axes[0].set_ylabel("mean change of the final latents")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right upper", frameon=False)
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one sample, six steps, one turn")
    parser.add_argument("--count", type=int, help="samples (16)")
    parser.add_argument("--steps", type=int, help="denoising steps (30)")
    parser.add_argument("--repeats", type=int, help="timed turns (0: passes and changes alone)")
    parser.add_argument("--device", default="cpu", help="where the model runs (cpu)")
    parser.add_argument("--only", default="", help="tables whose title contains this")
    parser.add_argument("--plot", type=Path, help="write the plot of the frontier here")
    options = parser.parse_args()
    usual = {"count": 1, "steps": 6, "repeats": 1} if options.quick else USUAL
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    print(
        f"Embedded model, {options.count} samples, {options.steps} steps where not said; "
        f"SEG: {', '.join(f'{k}={v}' for k, v in GUIDANCE.items())}; CFG {CFG:g}; "
        f"torch {torch.__version__}, {machine(options.device)}"
    )
    tables = {}
    for title, table in TABLES.items():
        if options.only not in title:
            continue
        pipe = load("avatars", dtype=torch.float32, device=options.device)
        pipe.set_progress_bar_config(disable=True)
        if table.scheduler:
            import diffusers

            cls = getattr(diffusers, table.scheduler)
            pipe.scheduler = cls.from_config(pipe.scheduler.config)
        print(f"\n### {title}\n")
        first = "the run with CFG" if table.ways[0].prompt else "the unguided run"
        print(f"| way | rows / {first} | cost | time | change | median |")
        print("|---|---:|---:|---:|---:|---:|")
        tables[title] = measure(pipe, table, options.count, options.steps, options.repeats)
        print("\n".join(map(str, tables[title])), flush=True)
    if options.plot:
        plot(tables, options.plot)


if __name__ == "__main__":
    main()
