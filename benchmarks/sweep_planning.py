"""What it takes to plan and run a sweep of 600,000 pictures: the driver's time and memory.

    python benchmarks/sweep_planning.py             # 30,000 prompts x 20: 15 minutes
    python benchmarks/sweep_planning.py --quick     # 200 x 20: whether it runs

A sampler stands in for the model that draws single pixels, so what is left is the scheduler: plan,
look for what is there, hand out units, write each picture with its facts, and write the tables.
Each file is synced to the disk, so on a disk the times are the disk's; the default is a folder in
memory where there is one (2.4 GB of it), which shows the scheduler's own. *Peak* is the most memory
that the driver has at once (resident, Linux), less what it has after its imports.

The runs: from nothing; the same again when all is there; and with every 97th picture cut short.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

import smoothed_energy.sweeps.cluster  # noqa: F401 - all imports count as the beginning
from smoothed_energy.sweeps import Configuration, Sweep, plan, run
from smoothed_energy.sweeps.tables import pyarrow

CUT = 97


@dataclass(frozen=True)
class PixelSource:
    """Opens a sampler of pixels."""

    name: str = "pixels"

    def open(self, worker: int) -> PixelSampler:
        """A sampler."""
        return PixelSampler()


class PixelSampler:
    """Draws pictures of one pixel, whose colour is the seed."""

    def draw(
        self, configuration: Configuration, pictures: Sequence[tuple[str, int]]
    ) -> list[tuple[Image.Image, dict[str, Any]]]:
        """Draw."""
        return [
            (Image.new("RGB", (1, 1), (seed % 256, seed // 256 % 256, 0)), {"guided_steps": 10})
            for _, seed in pictures
        ]


class Phases:
    """A progress that notes when a run begins to draw."""

    def __init__(self) -> None:
        self.began = 0.0
        self.drawn = 0

    def begin(self, total: int, done: int) -> None:
        """Drawing begins."""
        self.began = time.perf_counter()

    def advance(self, pictures: int) -> None:
        """Count."""
        self.drawn += pictures

    def note(self, line: str) -> None:
        """Show what should not happen."""
        print(line)

    def end(self) -> None:
        """Nothing."""


def resident(field: str = "VmRSS") -> float:
    """Memory of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no {field} in /proc/self/status")


def forget_peak() -> None:
    """Let the peak begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def sweep_of(samples: int, configurations: int) -> Sweep:
    """A prompt and a seed for each sample, and as many configurations as are wanted."""
    return Sweep(
        name="scheduler",
        prompts=[
            f"caption {number} of someone who is doing something" for number in range(samples)
        ],
        seeds=range(samples),
        pairs="zip",
        base={"guidance": "seg; layers=mid"},
        axes=[{"guidance.scale": [0.5 + 0.25 * number for number in range(configurations)]}],
    )


def measure(name: str, sweep: Sweep, folder: Path, workers: int, batch: int) -> None:
    """Run the sweep and print a row."""
    forget_peak()
    before, begin, phases = resident(), time.perf_counter(), Phases()
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    results = run(
        sweep, folder, workers=workers, batch_size=batch, progress=phases, source=PixelSource()
    )
    end = time.perf_counter()
    used = resource.getrusage(resource.RUSAGE_SELF)
    processor = used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime
    peak = resident("VmHWM")
    count = pyarrow(".parquet").read_metadata(folder / "pictures.parquet").num_rows
    assert count == len(results.plan)
    print(
        f"| {name} | {phases.drawn:,} | {phases.began - begin:.1f} | {end - phases.began:.1f} | "
        f"{processor:.1f} | {peak - before:.0f} |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=30_000)
    parser.add_argument("--configurations", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    samples = 200 if given.quick else given.samples
    pyarrow(".parquet")  # and so does this
    memory = Path("/dev/shm")
    folder = given.folder or Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    sweep = sweep_of(samples, given.configurations)
    print(f"{samples:,} samples x {given.configurations} configurations, {given.workers} workers, ")
    print(f"batches of {given.batch_size}; after the imports the driver has {resident():.0f} MiB\n")
    forget_peak()
    begin = time.perf_counter()
    planned = plan(sweep, drawn_by="pixels")
    last = max(row.id for row in planned.rows())
    seconds = time.perf_counter() - begin
    print(f"planned, and all {len(planned):,} ids made, in {seconds:.1f} s (the last is {last})\n")
    print("| run | drawn | plan and look, s | draw and tables, s | driver's CPU, s | peak, MiB |")
    print("|---|---:|---:|---:|---:|---:|")
    try:
        measure("from nothing", sweep, folder, given.workers, given.batch_size)
        measure("all is there", sweep, folder, given.workers, given.batch_size)
        for row in planned.rows():
            if row.index % CUT == 0:
                path = folder / "pictures" / row.id[:2] / f"{row.id}.png"
                path.write_bytes(path.read_bytes()[:-20])
        measure(f"every {CUT}th is cut", sweep, folder, given.workers, given.batch_size)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
