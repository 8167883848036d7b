r"""Cost of guidance over an unguided run: time of a step, of a run, and peak memory.

    python benchmarks/guided_step.py [--quick] [--device cuda] [--sdxl]
    python benchmarks/guided_step.py --sdxl --latents 64 --few     # the true U-Net on a CPU
    python benchmarks/guided_step.py --compile blocks      # or whole

A U-Net of SDXL's shape, scaled down so that a CPU can run it (channels 96, 192, 384; 1, 2, 10
transformer layers; 64 x 64 latents, random weights; `--sdxl` builds the real one), is called as a
pipeline calls it. All contestants take turns, so that whatever disturbs one disturbs all. The
table has medians and least times, and the ratios of each to the unguided run's: on a machine that
others use, medians say what is met, and least times what the work costs by itself. Each bound is
held to both.

A whole run with `steps="begin"` is a third of guided steps and two thirds of unguided ones,
`(guided + 2 unguided) / 3`, both from the rows of the same table. A step of such a run that is not
guided is timed too: it is the same work as the unguided step, so how far their ratio is from 1 says
how far the other ratios can be trusted.

"batch doubled" is what the released implementations do: perturbed rows are appended to the batch
and run through the whole U-Net, the queries are blurred by a depthwise convolution. It is written
here anew, for comparison.

Memory is the peak of tensors allocated during one step, by the profiler's own account of every
allocation, with the weights of the U-Net added.

`--compile blocks` compiles the U-Net's transformer blocks one by one (`compile_repeated_blocks`),
`--compile whole` the U-Net in place; then the unguided step is a compiled one, and there are fewer
ways and no memory.

Bounds that the tables are held to: a guided step with `mid` at most 1.72 unguided ones, a run with
`steps="begin"` at most 1.26 unguided ones, peak memory at most 1.15 of the unguided step's with the
same CFG. With `--compile blocks` a guided step with `mid` at most 1.75 compiled unguided ones.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from sdxl_shape import arguments, build
from smoothed_energy import GuidanceWarning, SmoothedEnergyGuidance
from smoothed_energy.families.layer_selection import select_layers

SIGMA = 10.0
RUN_STEPS = 30
UNGUIDED = "unguided"
MID = "ours, mid"
BEGIN = "ours, mid, steps = begin"
OURS = "ours"
MOST_STEP, MOST_RUN, MOST_MEMORY = 1.72, 1.26, 1.15
MOST_COMPILED = 1.75
DOUBLED = "batch doubled, mid"
JOINED = "ours, mid, joined"
OF_COMPILED = (UNGUIDED, MID, JOINED, "ours, mid, sigma = inf", "ours, up", BEGIN)


class BlurredHalf:
    """Self-attention whose last rows have queries blurred by a depthwise convolution."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs) -> Tensor:
        batch, tokens, _ = hidden_states.shape

        def heads(states: Tensor) -> Tensor:
            return states.view(batch, tokens, attn.heads, -1).transpose(1, 2)

        query, key, value = (heads(to(hidden_states)) for to in (attn.to_q, attn.to_k, attn.to_v))
        clean, blurred = query[: -self.rows], query[-self.rows :]
        side = int(tokens**0.5)
        maps = blurred.permute(0, 1, 3, 2).reshape(self.rows, -1, side, side)
        maps = depthwise_blur(maps)
        blurred = maps.view(self.rows, attn.heads, -1, tokens).permute(0, 1, 3, 2)
        attended = F.scaled_dot_product_attention(torch.cat([clean, blurred]), key, value)
        return attn.to_out[0](attended.transpose(1, 2).reshape(batch, tokens, -1))


def depthwise_blur(maps: Tensor) -> Tensor:
    """The reference's blur of `(B, C, H, W)`: one 2-D kernel a channel, reflected edges."""
    side, channels = maps.shape[-1], maps.shape[1]
    taps = min(61, side - (side % 2 - 1))
    if taps > side:  # torch can't reflect by as much as the axis is long
        taps = side - 1 + side % 2
    place = torch.linspace(-(taps - 1) / 2, (taps - 1) / 2, taps, device=maps.device)
    line = torch.exp(-0.5 * (place / SIGMA) ** 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    kernel = kernel.to(maps.dtype).expand(channels, 1, taps, taps)
    padded = F.pad(maps, [taps // 2] * 4, mode="reflect")
    return F.conv2d(padded, kernel, groups=channels)


@contextmanager
def batch_doubled(unet: UNet2DConditionModel, layers: str, rows: int) -> Iterator[None]:
    """The U-Net with blurred queries for the last rows of its batch."""
    before = dict(unet.attn_processors)
    chosen = {f"{layer.name}.processor": BlurredHalf(rows) for layer in select_layers(unet, layers)}
    unet.set_attn_processor(before | chosen)
    try:
        yield
    finally:
        unet.set_attn_processor(before)


def widened(given: dict, rows: int) -> dict:
    """The arguments with the last rows appended once more."""

    def widen(value):
        if isinstance(value, dict):
            return {key: widen(item) for key, item in value.items()}
        if isinstance(value, Tensor) and value.ndim:
            return torch.cat([value, value[-rows:]])
        return value

    return {key: widen(value) for key, value in given.items()}


@dataclass
class Contestant:
    """One way to make a step: what is set up before a run, and what one step of it calls."""

    name: str
    set_up: Callable[[int], AbstractContextManager]
    call: Callable[[], object]


def contestants(unet: UNet2DConditionModel, size: int, cfg: bool) -> list[Contestant]:
    """The unguided step and all guided ones; `set_up` gets the number of the step in the run."""
    given = arguments(unet, size, 2 if cfg else 1)
    wide = widened(given, 1)

    @contextmanager
    def attached(index: int, options: dict, settings: dict) -> Iterator[None]:
        with warnings.catch_warnings():
            # A run of nothing but a step that is not guided is what "begin" is timed by.
            warnings.filterwarnings("ignore", "none of the", GuidanceWarning)
            with SmoothedEnergyGuidance(**settings).attach(unet, **options) as attachment:
                attachment.step(index, RUN_STEPS, conditional_rows=1)
                unet(**given)  # what is built once a run, not once a step
                yield

    def guided(name: str, options: dict | None = None, **settings) -> Contestant:
        settings = {"blur": f"gaussian:{SIGMA:g}"} | settings
        return Contestant(
            name, lambda index: attached(index, options or {}, settings), lambda: unet(**given)
        )

    return [
        Contestant(UNGUIDED, lambda index: nullcontext(), lambda: unet(**given)),
        Contestant(
            DOUBLED,
            lambda index: batch_doubled(unet, "mid", 1),
            lambda: unet(**wide),
        ),
        guided("ours without replay, mid", {"replay": False}, layers="mid"),
        guided(JOINED, {"joined": True}, layers="mid"),
        guided(MID, layers="mid"),
        guided("ours, mid, sigma = inf", layers="mid", blur="gaussian:inf"),
        guided("ours, down", layers="down"),
        guided("ours, up", layers="up"),
        guided(BEGIN, layers="mid", steps="begin"),
    ]


def timed(call: Callable[[], object], device: str) -> float:
    """Seconds of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def verdict(what: str, found: float, most: float) -> None:
    """Print whether a bound holds."""
    holds = "holds" if found <= most else "does not hold"
    print(f"Bound: {what}: at most {most:g}: {found:.2f}, {holds}.")


@dataclass(frozen=True)
class Extent:
    """What a table has.

    Args:
        repeats: How often every way is timed.
        ways: The names of its ways; all if there are none.
        cfg: Whether there are steps with CFG, too.
        compiled: How the U-Net is compiled, if it is.
    """

    repeats: int
    ways: tuple[str, ...] = ()
    cfg: bool = True
    compiled: str = ""


def time_table(unet: UNet2DConditionModel, size: int, device: str, extent: Extent) -> None:
    """Print times of steps and of a run, their ratios to the unguided ones, and bounds."""
    compiled = extent.compiled
    print("| CFG | way | median, ms | / unguided | least, ms | / unguided |")
    print("|---|---|---:|---:|---:|---:|")
    # Of medians and of least times, without CFG and with it.
    of_step: list[list[float]] = []
    of_run: list[list[float]] = []
    checks: list[float] = []
    for cfg in (False, True) if extent.cfg else (False,):
        ways = contestants(unet, size, cfg)
        if extent.ways:
            ways = [way for way in ways if way.name in extent.ways]
        times: dict[str, list[float]] = {way.name: [] for way in ways}
        for repeat in range(extent.repeats + 1):
            for way in ways:
                # A step of the guided third; of "begin", one after it.
                with way.set_up(RUN_STEPS - 1 if way.name == BEGIN else 0):
                    seconds = timed(way.call, device)
                if repeat:  # the first round warms up
                    times[way.name].append(seconds)
        ratios: dict[str, list[float]] = {}
        for name, values in times.items():
            cells = ["yes" if cfg else "no", name]
            for of_times in (statistics.median, min):
                seconds = of_times(values)
                ratios.setdefault(name, []).append(seconds / of_times(times[UNGUIDED]))
                cells += [f"{1e3 * seconds:.0f}", f"{ratios[name][-1]:.2f}"]
            if name != BEGIN:
                print(f"| {' | '.join(cells)} |", flush=True)
        checks.append(ratios[BEGIN][0])
        of_step.append(ratios[MID])
        runs = [(ratio + 2) / 3 for ratio in ratios[MID]]
        of_run.append(runs)
        print(f"| {'yes' if cfg else 'no'} | {BEGIN} | | {runs[0]:.2f} | | {runs[1]:.2f} |")
    print()
    for number, kind in enumerate(("medians", "least times")):
        step, run = (max(found[number] for found in of) for of in (of_step, of_run))
        most = MOST_COMPILED if compiled else MOST_STEP
        verdict(f"a guided step, mid, over an unguided one, {kind}", step, most)
        if compiled:
            continue
        verdict(f"a run with steps = begin, mid, over an unguided one, {kind}", run, MOST_RUN)
    print(
        "Check: a step of the begin run that is not guided, over the unguided one, should be 1: "
        f"{', '.join(f'{ratio:.2f}' for ratio in checks)}{' with CFG' if extent.cfg else ''}."
    )


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """The peak of bytes allocated for tensors during a call, above those before it."""
    call()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    events = [
        event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def memory_table(unet: UNet2DConditionModel, size: int, device: str) -> None:
    """Print the peak memory of a step, its ratio to the unguided one with the same CFG, bounds."""
    weights = sum(p.numel() * p.element_size() for p in unet.parameters())
    print(f"Weights: {weights / 2**20:.0f} MiB.\n")
    print("| CFG | way | peak of tensors, MiB | / unguided | with weights / unguided |")
    print("|---|---|---:|---:|---:|")
    of_tensors, of_all = [], []
    for cfg in (False, True):
        plain = 0
        for way in contestants(unet, size, cfg):
            if way.name == BEGIN:
                continue
            with way.set_up(0):
                peak = peak_bytes(way.call, device)
            plain = plain or peak
            if way.name.startswith(OURS):
                of_tensors.append(peak / plain)
                of_all.append((peak + weights) / (plain + weights))
            print(
                f"| {'yes' if cfg else 'no'} | {way.name} | {peak / 2**20:.0f} "
                f"| {peak / plain:.2f} | {(peak + weights) / (plain + weights):.2f} |",
                flush=True,
            )
    print()
    verdict("peak memory with the weights, every way of ours", max(of_all), MOST_MEMORY)
    verdict("the same of the tensors alone", max(of_tensors), MOST_MEMORY)


def main() -> None:
    """Run both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repeats, small latents")
    parser.add_argument("--repeats", type=int, help="default: 5, with --quick 2")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sdxl", action="store_true", help="the real shape (fp16 on a GPU)")
    parser.add_argument("--latents", type=int, help="height and width; default: the shape's own")
    parser.add_argument("--few", action="store_true", help="few ways, no CFG, no memory")
    parser.add_argument("--compile", choices=["blocks", "whole"], default="")
    options = parser.parse_args()

    dtype = torch.float16 if options.device == "cuda" else torch.float32
    unet, size = build(options.sdxl, options.device, dtype)
    size = options.latents or (size // 4 if options.quick else size)
    if options.compile == "blocks":
        unet.compile_repeated_blocks(fullgraph=True)
    elif options.compile:
        unet.compile()
    if options.device == "cuda":
        machine = torch.cuda.get_device_name()
    else:
        machine = f"{torch.get_num_threads()} threads, {platform.machine()}"
    shape = "SDXL" if options.sdxl else "SDXL's shape, channels 96-384"
    shape += f", compiled: {options.compile}" if options.compile else ""
    print(f"U-Net: {shape}, latents {size} x {size}, {dtype}; torch {torch.__version__}, {machine}")
    with torch.no_grad():
        print("\n### Time\n")
        repeats = options.repeats or (2 if options.quick else 5)
        ways = (DOUBLED, *OF_COMPILED) if options.few else OF_COMPILED if options.compile else ()
        extent = Extent(repeats, ways, not options.few, options.compile)
        time_table(unet, size, options.device, extent)
        if options.compile or options.few:
            return
        print("\n### Peak memory\n")
        memory_table(unet, size, options.device)


if __name__ == "__main__":
    main()
