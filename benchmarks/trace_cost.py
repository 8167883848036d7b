r"""Cost of a trace: guided runs with and without one, side by side.

    python benchmarks/trace_cost.py [--rounds 10] [--steps 20] [--count 1]
    python benchmarks/trace_cost.py --quick        # one round, few steps: whether it runs

On the embedded model, guided by SEG in the middle layers, with a prompt under classifier-free
guidance (CFG) and without one. A round runs every contestant once, forwards and then backwards in
turn, so that whatever disturbs one disturbs all. Time is that of the whole call of the pipeline to
its latents, by the processor time of this process (other programs on the machine don't count) and
by the clock. The ratio is the median over the rounds of each contestant's time over that of the
untraced run in the same round; the latents of each are compared with the untraced ones, bit by bit.

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
from smoothed_energy.trace import Trace

MOST = 1.10
UNTRACED, DEFAULT = "no trace", "default"
CONTESTANTS: dict[str, dict[str, Any] | None] = {
    UNTRACED: None,
    DEFAULT: {},
    "no layers, no metrics": {"layers": (), "metrics": ()},
    "no layers": {"layers": ()},
    "energy alone": {"metrics": ["energy"]},
    "all layers": {"layers": "all"},
    "with energy_change": {"metrics": ["energy", "energy_change"]},
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
    """The ratios of all contestants, printed as a table."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTESTANTS}
    same: dict[str, bool] = {}
    reference, *_ = once(pipe, None, call, count)
    for turn in range(rounds):
        for name in list(CONTESTANTS)[:: -1 if turn % 2 else 1]:
            latents, processor, clock = once(pipe, CONTESTANTS[name], call, count)
            times[name].append((processor, clock))
            same[name] = same.get(name, True) and torch.equal(latents, reference)
    print("| trace | processor | clock | seconds | same latents |")
    print("|---|---|---|---|---|")
    found = {}
    for name, taken in times.items():
        pairs = list(zip(taken, times[UNTRACED], strict=True))
        ratios = [statistics.median(one[i] / base[i] for one, base in pairs) for i in (0, 1)]
        seconds = statistics.median(one[0] for one in taken)
        found[name] = ratios[0]
        agrees = "yes" if same[name] else "NO"
        print(f"| {name} | {ratios[0]:.3f} | {ratios[1]:.3f} | {seconds:.2f} | {agrees} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
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
