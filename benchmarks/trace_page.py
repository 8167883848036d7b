r"""The numbers and plots of docs/traces.md, on the embedded model.

    python benchmarks/trace_page.py [--count 4] [--plots docs/images]
    python benchmarks/trace_page.py --quick        # one picture, few steps: whether it runs

First the effective CFG scale of SEG under CFG, with a plot of the trace. Then trajectories with and
without guidance, from the same noise: the first step whose input differs at all, the first that
differs by more than 1e-13 of its norm, and how far apart they are at some steps. Guidance acts at
all steps, in the first third, or from step 17 on, at scale 3 and at scales so small that rounding
nearly hides them. Last, in double precision, how fast a difference that is made in the first step
alone grows by itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.models import load
from smoothed_energy.trace import Trace, Trajectory, divergence

STEPS = 30
PROMPT = "a portrait of someone with curly red hair and round glasses"


def run(pipe: Any, count: int, steps: int, prompt: str = "", scale: float = 1.0) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    pipe(
        [prompt] * count,
        guidance_scale=scale,
        num_inference_steps=steps,
        generator=generators,
        output_type="latent",
    )


def guided(**changes: Any) -> SmoothedEnergyGuidance:
    return SmoothedEnergyGuidance(**{"layers": "mid", **changes})


def trajectory(pipe: Any, count: int, steps: int, guidance: Any = None) -> Trajectory:
    with Trace(pipe, (), (), trajectory=True) as trace:
        if guidance is None:
            run(pipe, count, steps)
        else:
            with guidance.attach(pipe):
                run(pipe, count, steps)
    return trace.trajectories[0]


def effective_scales(pipe: Any, count: int, steps: int, plots: Path | None) -> None:
    print(f"\n{count} pictures of {steps} steps, CFG 3\n")
    print("| guidance | effective CFG scale | size of the correction | cos(s, s~) |")
    print("|---|---|---|---|")
    for name, guidance in (
        ("none", guided(scale=0)),
        ("SEG, sigma 1", guided(blur="gaussian:1")),
        ("SEG, sigma inf", guided()),
        ("SEG, sigma inf, first third", guided(steps="begin")),
    ):
        with Trace(pipe, "mid") as trace, guidance.attach(pipe):
            run(pipe, count, steps, PROMPT, 3.0)
        means = trace.summary()["mean"]
        cosine = f"{means['seg.cosine']:.3f}" if "seg.cosine" in means else ""
        print(
            f"| {name} | {means['effective_cfg_scale']:.2f} | "
            f"{means['correction_relative_norm']:.2f} | {cosine} |"
        )
        if plots is not None and name == "SEG, sigma inf":
            trace.plot().savefig(plots / "trace.png", dpi=110)


def partings(pipe: Any, count: int, steps: int) -> None:
    print(f"\n{count} pictures of {steps} steps without a prompt, {pipe.unet.dtype}\n")
    late = f"{17 / STEPS}:1"
    single = pipe.unet.dtype == torch.float32
    shown = [step for step in (1, 2, 5, 10, 17, 18, steps - 1) if step < steps]
    print(f"| guidance | differs | by 1e-13 | {' | '.join(f'step {s}' for s in shown)} |")
    print("|---" * (3 + len(shown)) + "|")
    plain = trajectory(pipe, count, steps)
    small = (1e-4, 1e-7) if single else (1e-7, 1e-12)
    cases = [("all steps", guided()), ("first third", guided(steps="begin"))]
    cases += [("from step 17", guided(steps=late))]
    cases += [(f"all steps, scale {scale:g}", guided(scale=scale)) for scale in small]
    for name, guidance in cases:
        found = divergence(plain, trajectory(pipe, count, steps, guidance))
        firsts = [_range(found.first_difference()), _range(found.first_above(1e-13))]
        means = [f"{found.relative_l2[step].mean():.1e}" for step in shown]
        print(f"| {name} | {' | '.join([*firsts, *means])} |")


def growth(pipe: Any, count: int, steps: int) -> None:
    plain = trajectory(pipe, count, steps)
    touched = trajectory(pipe, count, steps, guided(scale=1e-6, steps=f"0:{1 / STEPS}"))
    found = divergence(plain, touched)
    print(f"\nmade in step 0 alone, scale 1e-6, {pipe.unet.dtype}: distance e^(rate * step)\n")
    print("| steps | rate | 95 % |")
    print("|---|---|---|")
    for first, last in ((1, steps - 1), (1, min(10, steps - 1)), (min(10, steps - 4), steps - 1)):
        rate = found.growth(first, last)
        print(f"| {first} to {last} | {rate.rate:.3f} | {rate.low:.3f} to {rate.high:.3f} |")


def _range(steps: list[int | None]) -> str:
    known = [step for step in steps if step is not None]
    if not known:
        return "never"
    text = str(known[0]) if min(known) == max(known) else f"{min(known)} to {max(known)}"
    return text if len(known) == len(steps) else f"{text} ({len(known)} of {len(steps)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--plots", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    count, steps = (1, 6) if options.quick else (options.count, STEPS)
    pipe = load("avatars")
    pipe.set_progress_bar_config(disable=True)
    effective_scales(pipe, count, steps, options.plots)
    partings(pipe, count, steps)
    pipe.to(torch.float64)
    partings(pipe, count, steps)
    growth(pipe, count, steps)


if __name__ == "__main__":
    main()
