r"""Times of guided steps, and of attaching, beside those of another checkout, in one run.

    python benchmarks/beside.py OTHER_CHECKOUT [--quick] [--repeats 7] [--ways mid]

Each checkout's package runs in a process of its own, with the same U-Net of SDXL's shape (channels
96, 192, 384; random weights; see `sdxl_shape.py`). The two take turns, one step at a time and the
first of a pair alternating, so that whatever disturbs one disturbs the other. What is printed is
the median of the ratios of pairs, and their least times. Each process has one thread: two that wait
for each other are at the mercy of whatever else runs.

Bounds: no median of ratios above 1.03 (what two processes of the same checkout differ by here), and
attaching and detaching, on an SDXL pipeline of that U-Net, at most 3.2 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

from sdxl_shape import arguments, build

MOST_RATIO, MOST_ATTACH_MS = 1.03, 3.2
ATTACH = "attach and detach"
STEPS = 30

#: Name, settings of the guidance (None: unguided), whether there is CFG, the number of the step.
WAYS: dict[str, tuple[dict[str, str] | None, bool, int]] = {
    "unguided": (None, False, 0),
    "mid": ({"layers": "mid", "blur": "gaussian:10"}, False, 0),
    "mid, CFG": ({"layers": "mid", "blur": "gaussian:10"}, True, 0),
    "mid, sigma = inf": ({"layers": "mid", "blur": "gaussian:inf"}, False, 0),
    "down": ({"layers": "down", "blur": "gaussian:10"}, False, 0),
    "up": ({"layers": "up", "blur": "gaussian:10"}, False, 0),
    "begin, a step after it": ({"layers": "mid", "steps": "begin"}, False, STEPS - 1),
}


def work(quick: bool) -> None:
    """Answer lines with names of ways by their seconds, until there are no more."""
    from smoothed_energy import SmoothedEnergyGuidance

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    unet, size = build(False, "cpu", torch.float32)
    size = size // 4 if quick else size
    scheduler = EulerDiscreteScheduler()
    parts = dict.fromkeys(("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipe = StableDiffusionXLPipeline(unet=unet, scheduler=scheduler, **parts)
    given = {cfg: arguments(unet, size, 2 if cfg else 1) for cfg in (False, True)}

    def seconds(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    print("ready", flush=True)
    with torch.no_grad():
        for line in sys.stdin:
            name = line.strip()
            if name == ATTACH:
                guidance = SmoothedEnergyGuidance(layers="mid", blur="gaussian:10")
                found = seconds(lambda guidance=guidance: guidance.attach(pipe).detach())
            else:
                settings, cfg, index = WAYS[name]
                with ExitStack() as stack:
                    if settings is not None:
                        guidance = SmoothedEnergyGuidance(**settings)
                        attachment = stack.enter_context(guidance.attach(unet))
                        attachment.step(index, STEPS, conditional_rows=1)
                        unet(**given[cfg])  # what is built once a run, not once a step
                    found = seconds(lambda cfg=cfg: unet(**given[cfg]))
            print(json.dumps(found), flush=True)


class Worker:
    """A process that times the package of one checkout."""

    def __init__(self, checkout: Path, quick: bool) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", *(["--quick"] if quick else [])],
            env={**os.environ, "PYTHONPATH": str(checkout / "src")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if self._line() != "ready":
            raise RuntimeError(f"the package of {checkout} could not be timed")

    def seconds(self, name: str) -> float:
        """The time of one step."""
        assert self.process.stdin is not None
        print(name, file=self.process.stdin, flush=True)
        return float(json.loads(self._line()))

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def main() -> None:
    """Time both in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, nargs="?", help="the other checkout")
    parser.add_argument("--quick", action="store_true", help="few repeats, small latents")
    parser.add_argument("--repeats", type=int, help="default: 7, with --quick 2")
    parser.add_argument("--ways", nargs="+", default=[*WAYS, ATTACH], help="some of the rows")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.quick)
        return
    if options.other is None:
        print("nothing to compare with: give another checkout")
        return
    repeats = options.repeats or (2 if options.quick else 7)
    here = Path(__file__).parents[1]
    workers = {
        "here": Worker(here, options.quick),
        "other": Worker(options.other, options.quick),
    }
    print(
        f"1 thread each, {platform.machine()}, torch {torch.__version__}; "
        f"medians of {repeats} pairs, least times\n\n"
        "| way | here, ms | other, ms | ratio | least, here | least, other | ratio |\n"
        "|---|---:|---:|---:|---:|---:|---:|"
    )
    ratios = {}
    attach_ms = 0.0
    for name in options.ways:
        many = repeats * (10 if name == ATTACH else 1)
        times: dict[str, list[float]] = {place: [] for place in workers}
        for repeat in range(many + 1):
            for place in sorted(workers, reverse=bool(repeat % 2)):
                found = 1e3 * workers[place].seconds(name)
                if repeat:  # the first round warms up
                    times[place].append(found)
        pairs = [one / two for one, two in zip(times["here"], times["other"], strict=True)]
        ratios[name] = statistics.median(pairs)
        medians = [statistics.median(times[place]) for place in ("here", "other")]
        least = [min(times[place]) for place in ("here", "other")]
        if name == ATTACH:
            attach_ms = medians[0]
        print(
            f"| {name} | {medians[0]:.1f} | {medians[1]:.1f} | {ratios[name]:.3f} "
            f"| {least[0]:.1f} | {least[1]:.1f} | {least[0] / least[1]:.3f} |",
            flush=True,
        )
    slower = [name for name, ratio in ratios.items() if ratio > MOST_RATIO]
    held = f"does not hold: {', '.join(slower)}" if slower else "holds"
    print(f"\nBound: medians of ratios at most {MOST_RATIO:g}: {held}.")
    if attach_ms:
        held = "holds" if attach_ms <= MOST_ATTACH_MS else "does not hold"
        print(f"Bound: {ATTACH} at most {MOST_ATTACH_MS:g} ms: {attach_ms:.2f} ms, {held}.")


if __name__ == "__main__":
    main()
