r"""Cost of a trace: guided runs with and without one, side by side.

    python benchmarks/trace_cost.py [--rounds 15] [--steps 10] [--count 1]
    python benchmarks/trace_cost.py --quick        # one round, few steps: whether it runs

On the embedded model, guided by SEG in the middle layers, with a prompt under classifier-free
guidance (CFG) and without one. Traced and untraced runs take turns, and each traced one is set
against the mean of its two neighbours, so that whatever disturbs one disturbs all. Time is that of
the whole call of the pipeline to its latents, by the clock and by the processor time of this
process (which other programs on the machine disturb less). The table has the median of the ratios
over all rounds, and their quartiles by processor time: where these are far apart, a median is known
no better than that. The latents of each run are compared with the untraced ones, bit by bit.

Bound that the table is held to: a trace with its default layers and metrics costs at most 1.10.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.models import load
from smoothed_energy.trace import DEFAULT_METRICS, Trace

MOST = 1.10
DEFAULT = "default"
CONTESTANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "no layers, no metrics": {"layers": (), "metrics": ()},
    "no layers": {"layers": ()},
    "default and energy": {"metrics": [*DEFAULT_METRICS, "energy"]},
    "energy and its change": {"metrics": ["energy", "energy_change"]},
    "all layers": {"layers": "all"},
}


def once(pipe: Any, options: dict[str, Any] | None, call: dict[str, Any], count: int):
    """One guided run: its latents, and its seconds of the processor and of the clock."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    with ExitStack() as stack:
        if options is not None:
            stack.enter_context(Trace(pipe, **options))
        stack.enter_context(SmoothedEnergyGuidance(layers="mid").attach(pipe))
        clock, processor = time.perf_counter(), time.process_time()
        latents: Tensor = pipe(generator=generators, output_type="latent", **call).images
        return latents, time.process_time() - processor, time.perf_counter() - clock


def compare(pipe: Any, call: dict[str, Any], rounds: int, count: int) -> dict[str, float]:
    """The ratio of each contestant to the untraced run, printed as a table."""
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTESTANTS}
    same = dict.fromkeys(CONTESTANTS, True)
    reference, *_ = once(pipe, None, call, count)
    before = once(pipe, None, call, count)[1:]
    for _ in range(rounds):
        for name, options in CONTESTANTS.items():
            latents, *taken = once(pipe, options, call, count)
            after = once(pipe, None, call, count)[1:]
            own = [2 * t / (a + b) for t, a, b in zip(taken, before, after, strict=True)]
            ratios[name].append((own[0], own[1]))
            same[name] = same[name] and torch.equal(latents, reference)
            before = after
    print("| trace | processor | quartiles | clock | same latents |")
    print("|---|---|---|---|---|")
    found = {}
    for name, pairs in ratios.items():
        processor, clock = ([pair[i] for pair in pairs] for i in (0, 1))
        found[name] = statistics.median(processor)
        low, _, high = statistics.quantiles(processor, n=4) if rounds > 1 else processor * 3
        print(
            f"| {name} | {found[name]:.3f} | {low:.3f} to {high:.3f} | "
            f"{statistics.median(clock):.3f} | {'yes' if same[name] else 'NO'} |"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--count", type=int, default=1, help="pictures in a batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rounds, steps = (1, 4) if options.quick else (options.rounds, options.steps)
    torch.set_num_threads(options.threads)
    pipe = load("avatars")
    pipe.set_progress_bar_config(disable=True)
    print(
        f"torch {torch.__version__}, {platform.machine()}, {options.threads} threads, "
        f"{options.count} pictures of {steps} steps, {rounds} rounds"
    )
    worst = 0.0
    for title, prompt, scale in (("without a prompt", "", 1.0), ("CFG 3", "a portrait", 3.0)):
        print(f"\n{title}\n")
        call = {
            "prompt": [prompt] * options.count,
            "guidance_scale": scale,
            "num_inference_steps": steps,
        }
        worst = max(worst, compare(pipe, call, rounds, options.count)[DEFAULT])
    print(f"\nthe default trace costs {worst:.3f} at most; bound {MOST:.2f}")
    if not options.quick and worst > MOST:
        raise SystemExit("the bound is not kept")


if __name__ == "__main__":
    main()
