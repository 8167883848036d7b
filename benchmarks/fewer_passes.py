r"""What fewer second passes save, and what they change: guidance in part of the steps.

    python benchmarks/fewer_passes.py [--count 8] [--steps 30] [--repeats 3]
    python benchmarks/fewer_passes.py --quick        # one sample, six steps: whether it runs
    python benchmarks/fewer_passes.py --repeats 0    # passes and changes alone, no times

On the embedded model, without a prompt and with one under classifier-free guidance (CFG). Each way
starts from the same seeds. *Change* is the relative L2 distance of the final latents to those of
the full run, $\lVert x - x_{full} \rVert / \lVert x_{full} \rVert$, mean over the samples; that of
the run without the guidance says how much there is to lose. Passes are counted, not estimated. Time
is the median of the ratios to the unguided run of the same turn.

Adaptive guidance has tables of its own, since a threshold must lie where the cosine of clean and
perturbed prediction goes through it, and that depends on the guidance. The first table's never
gets as close as in its first step.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smoothed_energy import Guidance, GuidanceInterval, SmoothedEnergyGuidance
from smoothed_energy.models import load

PROMPT = "a toon portrait of someone with spiky green hair wearing a red t-shirt"
GUIDANCE = {"blur": "gaussian:inf", "scale": 0.7, "layers": "mid"}
CFG = 3.0
USUAL = {"count": 8, "steps": 30, "repeats": 3}


@dataclass(frozen=True)
class Way:
    """One way to guide.

    Args:
        name: For the table.
        attached: What is attached.
        prompt: With a prompt and CFG.
    """

    name: str
    attached: tuple[Guidance, ...]
    prompt: bool = False


def seg(**changes: Any) -> SmoothedEnergyGuidance:
    """The guidance, with changes."""
    return SmoothedEnergyGuidance(**{**GUIDANCE, **changes})


def adaptive(*thresholds: float, prompt: bool = False, **changes: Any) -> list[Way]:
    """Thresholds, beside the run without guidance, that at all steps, and ways of similar cost."""
    other: dict[str, dict[str, Any]] = {
        'steps="0:0.1"': {"steps": "0:0.1"},
        'steps="0:0.2"': {"steps": "0:0.2"},
        'steps="begin"': {"steps": "begin"},
        "every=5": {"every": 5},
    }
    limits = {
        f'steps="adaptive:{threshold:g}"': {"steps": f"adaptive:{threshold:g}"}
        for threshold in thresholds
    }
    return [
        Way("CFG alone" if prompt else "unguided", (), prompt),
        *(
            Way(name, (seg(**changes, **settings),), prompt)
            for name, settings in {FULL: {}, **limits, **other}.items()
        ),
    ]


FULL = "all steps"


WAYS = {
    "SEG, no prompt": [
        Way("unguided", ()),
        Way("all steps", (seg(),)),
        Way('steps="begin"', (seg(steps="begin"),)),
        Way('steps="mid"', (seg(steps="mid"),)),
        Way('steps="end"', (seg(steps="end"),)),
        Way('steps="every:2"', (seg(steps="every:2"),)),
        Way("every=2", (seg(every=2),)),
        Way("every=3", (seg(every=3),)),
        Way("every=5", (seg(every=5),)),
        Way('steps="begin", every=2', (seg(steps="begin", every=2),)),
        Way('steps="sigma:0.5:5"', (seg(steps="sigma:0.5:5"),)),
        Way('steps="adaptive:0.88"', (seg(steps="adaptive:0.88"),)),
        Way('steps="adaptive:0.9"', (seg(steps="adaptive:0.9"),)),
    ],
    "SEG, no prompt, a mild blur: gaussian:1, scale 2": adaptive(
        0.96, 0.97, 0.975, 0.98, blur="gaussian:1", scale=2.0
    ),
    "SEG, no prompt, in one layer: d0, scale 3": adaptive(
        0.98, 0.99, 0.995, 0.9975, 0.999, layers="d0", scale=3.0
    ),
    "SEG and CFG, with a prompt": adaptive(0.93, 0.95, 0.955, 0.96, prompt=True),
    "CFG, with a prompt": [
        Way("all steps", (), prompt=True),
        Way('interval "0:0.5"', (GuidanceInterval(steps="0:0.5"),), prompt=True),
        Way('interval "sigma:0.3:5"', (GuidanceInterval(steps="sigma:0.3:5"),), prompt=True),
        Way('interval "sigma:0.5:2"', (GuidanceInterval(steps="sigma:0.5:2"),), prompt=True),
    ],
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
    """Final latents, and the time that they took."""
    with contextlib.ExitStack() as stack:
        for guidance in way.attached:
            stack.enter_context(guidance.attach(pipe))
        started = time.perf_counter()
        latents = pipe(
            PROMPT if way.prompt else "",
            num_images_per_prompt=count,
            guidance_scale=CFG if way.prompt else 1.0,
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(i) for i in range(count)],
            output_type="latent",
        ).images
        return latents.float(), time.perf_counter() - started


def change(latents: Tensor, full: Tensor) -> float:
    """Relative L2 distance, mean over the samples."""
    distance = (latents - full).flatten(1).norm(dim=1) / full.flatten(1).norm(dim=1)
    return float(distance.mean())


def measure(pipe: Any, ways: Sequence[Way], count: int, steps: int, repeats: int) -> list[str]:
    """The rows of a table."""
    counter = RowCounter(pipe)
    latents, passes = {}, {}
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    baseline = Way("unguided", (), prompt=ways[0].prompt)
    baseline_times = []
    for turn in range(repeats + 1):
        for way in (baseline, *ways):
            counter.rows = 0
            found, seconds = run(pipe, way, count, steps)
            if way is baseline:
                baseline_times.append(seconds)
                baseline_rows = counter.rows
                continue
            latents[way.name], passes[way.name] = found, counter.rows
            if turn:  # the first turn warms up
                times[way.name].append(seconds / baseline_times[-1])
    return [
        f"| {way.name} | {passes[way.name] / baseline_rows:.2f} "
        f"| {_ratio(times[way.name])} "
        f"| {change(latents[way.name], latents[FULL]):.3f} |"
        for way in ways
    ]


def _ratio(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f}" if ratios else "-"


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one sample, six steps, one turn")
    parser.add_argument("--count", type=int, help="samples (8)")
    parser.add_argument("--steps", type=int, help="denoising steps (30)")
    parser.add_argument("--repeats", type=int, help="timed turns (3); 0: passes and changes alone")
    options = parser.parse_args()
    usual = {"count": 1, "steps": 6, "repeats": 1} if options.quick else USUAL
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    print(
        f"Embedded model, {options.count} samples, {options.steps} steps; "
        f"SEG: {', '.join(f'{k}={v}' for k, v in GUIDANCE.items())}; CFG {CFG:g}; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
    )
    for title, ways in WAYS.items():
        pipe = load("avatars", dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        print(f"\n### {title}\n")
        first = "the run with CFG" if ways[0].prompt else "the unguided run"
        print(f"| way | passes / {first} | time / {first} | change |")
        print("|---|---:|---:|---:|")
        rows = measure(pipe, ways, options.count, options.steps, options.repeats)
        print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
