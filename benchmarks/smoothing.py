"""The time of the smoothing operators against a depthwise convolution and a plain copy.

The reference implementation blurs queries by a depthwise `conv2d` with reflect padding; `ours` is
`Smoothing.apply` of the same operator. Repeats are interleaved, so that a change of the machine's
load meets all columns alike; times are medians. A ratio is of medians in the same run.

    python benchmarks/smoothing.py            # all rows but the one that takes minutes
    python benchmarks/smoothing.py --quick    # fewer repeats, smaller batch
    python benchmarks/smoothing.py --slow     # with the float64 convolution
    python benchmarks/smoothing.py --device cuda

Two further tables tell why the operators are computed as they are. A box blur could be made of
integral images (four corners of a two-dimensional cumulative sum, so the kernel's size does not
matter); it is made of two matrix products, as the Gaussian is. A moving average is computed within
chunks of at most 64 tokens and then across them, in matrix products, where a plain recurrence has
T steps one after the other.

Bounds that the tables are held to: a float32 Gaussian of 61 taps on 64 x 64 tokens in at most 1/15
of the convolution's time; box blurs and moving averages in at most 3 times the Gaussian's.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from smoothed_energy.smoothing import BoxBlur, EMASmoothing, GaussianBlur, Smoothing

HEAD_WIDTH = 64


def depthwise_convolution(tokens: Tensor, side: int, kernel: Tensor) -> Tensor:
    """The reference's blur: `(B, heads, T, d)` to images, pad, convolve, and back."""
    batch, heads, length, width = tokens.shape
    pad = kernel.shape[-1] // 2
    images = tokens.permute(0, 1, 3, 2).reshape(batch * heads, width, side, side)
    weight = kernel.expand(width, 1, *kernel.shape)
    images = F.conv2d(F.pad(images, (pad, pad, pad, pad), mode="reflect"), weight, groups=width)
    return images.reshape(batch, heads, width, length).permute(0, 1, 3, 2)


def gaussian_kernel(sigma: float, taps: int, like: Tensor) -> Tensor:
    x = torch.linspace(-(taps - 1) / 2, (taps - 1) / 2, taps, device=like.device, dtype=like.dtype)
    weights = torch.exp(-0.5 * (x / sigma).square())
    return torch.outer(weights / weights.sum(), weights / weights.sum())


def box_by_integral_image(tokens: Tensor, side: int, taps: int) -> Tensor:
    """The mean over windows of taps x taps, reflected edges, by a summed-area table."""
    *batch, _, width = tokens.shape
    images = tokens.reshape(-1, side, side, width)
    place = torch.arange(-(taps // 2), side + taps // 2, device=tokens.device)
    place = place.remainder(2 * side - 2)
    place = torch.minimum(place, 2 * side - 2 - place)  # reflected
    padded = images.index_select(1, place).index_select(2, place)
    table = F.pad(padded.cumsum(1).cumsum(2), (0, 0, 1, 0, 1, 0))
    inside, above = table[:, taps:], table[:, :-taps]
    sums = inside[:, :, taps:] - inside[:, :, :-taps] - above[:, :, taps:] + above[:, :, :-taps]
    return (sums / taps**2).reshape(*batch, side * side, width)


def measure(
    candidates: Sequence[Callable[[], Tensor]], repeats: int, synchronise: Callable[[], None]
) -> list[float]:
    """Median seconds of each candidate, one repeat of all after the other."""
    times: list[list[float]] = [[] for _ in candidates]
    for repeat in range(repeats + 1):
        for candidate, taken in zip(candidates, times, strict=True):
            synchronise()
            start = time.perf_counter()
            candidate()
            synchronise()
            if repeat:  # the first one warms up
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def milliseconds(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:.0f} ms" if value >= 100 else f"{value:.2g} ms"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def verdict(holds: bool) -> str:
    return "holds" if holds else "does not hold"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(device: torch.device) -> str:
    where = f"{processor()}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    return f"{where}; torch {torch.__version__}; Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the smoothing operators.")
    parser.add_argument("--quick", action="store_true", help="fewer repeats of a smaller batch")
    parser.add_argument("--slow", action="store_true", help="time the float64 convolution, too")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, help="default: 7, with --quick 3")
    options = parser.parse_args()

    device = torch.device(options.device)
    repeats = options.repeats or (3 if options.quick else 7)
    batch, heads = (1, 8) if options.quick else (3, 20)

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def queries(side: int, dtype: torch.dtype, transposed: bool) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (batch, side * side, heads, HEAD_WIDTH)
        tokens = torch.randn(shape, generator=generator).to(device, dtype).transpose(1, 2)
        return tokens if transposed else tokens.contiguous()

    print(f"{machine(device)}; queries ({batch}, {heads}, T, {HEAD_WIDTH}); {repeats} repeats\n")

    rows: list[tuple[str, ...]] = []
    bound = math.nan
    with torch.inference_mode():
        for dtype, side, taps in (
            (torch.float32, 32, 61),
            (torch.float32, 64, 31),
            (torch.float32, 64, 61),
            (torch.float64, 64, 61),
        ):
            tokens = queries(side, dtype, transposed=False)
            strided = queries(side, dtype, transposed=True)
            blur = GaussianBlur((taps - 1) / 6, taps)
            limited = min(taps, side - (side % 2 - 1))  # as the reference limits it
            kernel = gaussian_kernel(blur.sigma, limited, tokens)
            candidates: list[Callable[[], Tensor]] = [
                tokens.clone,
                partial(blur.apply, tokens, (side, side)),
                partial(blur.apply, strided, (side, side)),
            ]
            if dtype == torch.float32 or options.slow:
                candidates.append(partial(depthwise_convolution, tokens, side, kernel))
                torch.testing.assert_close(candidates[1](), candidates[-1](), rtol=1e-4, atol=1e-5)
            copy, ours, ours_strided, *convolution = measure(
                candidates, 1 if dtype == torch.float64 and options.slow else repeats, synchronise
            )
            ratio = convolution[0] / ours if convolution else math.nan
            if (dtype, side, taps) == (torch.float32, 64, 61):
                bound = ratio
            rows.append(
                (
                    str(dtype).removeprefix("torch."),
                    f"{side}x{side}",
                    str(taps) if limited == taps else f"{taps} (limited to {limited})",
                    milliseconds(convolution[0]) if convolution else "(--slow)",
                    milliseconds(ours),
                    milliseconds(ours_strided),
                    milliseconds(copy),
                    f"{ratio:.0f}x" if convolution else "",
                )
            )
    print("Gaussian blur\n")
    header = ["dtype", "grid", "kernel", "conv2d", "ours", "ours, head-transposed", "copy"]
    table([*header, "conv2d / ours"], rows)
    print(f"\nBound: at least 15x at float32 64x64 k=61: {bound:.1f}x, {verdict(bound >= 15)}.\n")

    operators: list[Smoothing] = [
        GaussianBlur(10, 61),
        GaussianBlur(10, 61, "symmetric"),
        GaussianBlur(math.inf),
        BoxBlur(31),
        BoxBlur(31, alpha=0.9),
        EMASmoothing(0.95),
        EMASmoothing(0.95, 0.5, "cosine"),
    ]
    worst = 0.0
    rows = []
    with torch.inference_mode():
        columns = []
        for transposed in (False, True):
            tokens = queries(64, torch.float32, transposed)
            smoothers = [partial(operator.apply, tokens, (64, 64)) for operator in operators]
            columns.append(measure([*smoothers, tokens.clone], repeats, synchronise))
    for index, operator in enumerate(operators):
        ratios = [column[index] / column[0] for column in columns]
        worst = max(worst, *ratios)
        cells = [
            f"{milliseconds(column[index])} ({ratio:.2f})"
            for column, ratio in zip(columns, ratios, strict=True)
        ]
        rows.append((f"`{operator}`", *cells))
    rows.append(("a plain copy", *(milliseconds(column[-1]) for column in columns)))
    print("Operators on 64x64 float32 (in brackets: over the first row's time)\n")
    table(["operator", "contiguous", "head-transposed"], rows)
    print(f"\nBound: at most 3 times the Gaussian: {worst:.2f}, {verdict(worst <= 3)}.")

    rows = []
    quickest = math.inf
    with torch.inference_mode():
        for side, taps in ((32, 61), (64, 31), (64, 61)):
            tokens = queries(side, torch.float32, transposed=False)
            limited = min(taps, side - (side % 2 - 1))
            integral = partial(box_by_integral_image, tokens, side, limited)
            ours = partial(BoxBlur(taps).apply, tokens, (side, side))
            # A long cumulative sum in float32 is the less exact of the two.
            torch.testing.assert_close(integral(), ours(), rtol=0, atol=1e-3)
            times = measure([integral, ours], repeats, synchronise)
            quickest = min(quickest, times[0] / times[1])
            rows.append(
                (
                    f"{side}x{side}",
                    str(taps) if limited == taps else f"{taps} (limited to {limited})",
                    *map(milliseconds, times),
                    f"{times[0] / times[1]:.1f}x",
                )
            )
    print("\nBox blur, float32: integral images against matrices\n")
    table(["grid", "kernel", "integral images", "ours", "integral images / ours"], rows)
    print(
        f"\nMatrices are the faster way at every size: at least {quickest:.1f}x, "
        f"{verdict(quickest >= 1)}."
    )

    rows = []
    sides = (16, 32, 64) if options.quick else (32, 64, 128)
    with torch.inference_mode():
        for smoother in (EMASmoothing(0.95), EMASmoothing(0.95, 0.5, "cosine"), None):
            # Few heads, so that the longest sequence does not fill the memory.
            lengths = [queries(side, torch.float32, False)[:1, :4].contiguous() for side in sides]
            times = measure(
                [
                    partial(smoother.apply, tokens, (side, side)) if smoother else tokens.clone
                    for tokens, side in zip(lengths, sides, strict=True)
                ],
                5 * repeats,
                synchronise,
            )
            growth = math.log(times[-1] / times[0]) / math.log(sides[-1] ** 2 / sides[0] ** 2)
            rows.append(
                (
                    f"`{smoother}`" if smoother else "a plain copy",
                    *map(milliseconds, times),
                    f"{times[1] / times[0]:.1f}, {times[2] / times[0]:.1f}",
                    f"{growth:.2f}",
                )
            )
    counts = [side**2 for side in sides]
    print(f"\nMoving average of 4 heads, float32, over T = {counts[0]}, 4 T and 16 T tokens\n")
    table(
        ["operator", *(f"{count} tokens" for count in counts), "4 T / T, 16 T / T", "power of T"],
        rows,
    )


if __name__ == "__main__":
    main()
