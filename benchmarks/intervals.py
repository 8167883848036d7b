"""How often intervals of metrics hold what they should: three ways to make them, by simulation.

    python benchmarks/intervals.py [--rows 200] [--resamples 100] [--only frechet,kernel]

A row of samples is drawn again and again from one known distribution (60 or 300 features, rectified
so that they are skewed like those of networks, spectrum k^-0.7), beside a second row of the same
seeds, whose features are correlated with the first's. Each row gets 95 % intervals, and the two a
paired one of their difference. What they should hold is the mean of the number over all rows: the
number to expect at this count of samples.

* halves: quantiles of random halves, moved by the difference of their mean to the whole's number.
  It is what the package does.
* bootstrap, moved: the same of resamples with replacement.
* bootstrap: their quantiles as they are (percentile bootstrap).

Printed is the share of intervals that hold it, and their width over 2 x 1.96 times the standard
deviation of the number over rows (1 is right; more is cautious). No bound: it is a choice's reason.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from smoothed_energy.evaluation import METRICS, FrechetReference, moments

#: Metric, features, samples and real images.
CASES = (
    ("frechet", 60, 40, 400),
    ("frechet", 60, 200, 2000),
    ("frechet", 300, 200, 2000),
    ("kernel", 60, 200, 400),
    ("precision", 60, 200, 400),
    ("recall", 60, 200, 400),
    ("density", 60, 200, 400),
    ("coverage", 60, 200, 400),
    ("vendi", 60, 200, 400),
)
WAYS = ("halves", "bootstrap, moved", "bootstrap")


class Model:
    """Where rows of samples come from."""

    def __init__(self, size):
        generator = torch.Generator().manual_seed(0)
        self.size = size
        self.spectrum = 2 * torch.arange(1, size + 1, dtype=torch.float64) ** -0.7
        mixed = torch.randn(size, size, generator=generator, dtype=torch.float64)
        self.rotation = torch.linalg.qr(mixed)[0]

    def noise(self, count, generator):
        return torch.randn(count, self.size, generator=generator, dtype=torch.float64)

    def features(self, noise, shift, scale):
        return torch.relu((noise * self.spectrum * scale + shift) @ self.rotation + 0.3)

    def rows(self, count, generator):
        """Two rows of the same seeds."""
        noise, own = self.noise(count, generator), self.noise(count, generator)
        return (
            self.features(noise, 0.12, 0.9),
            self.features(0.8 * noise + 0.6 * own, 0.06, 0.95),
        )


def ends(numbers, whole, way):
    low, high = np.quantile(numbers, [0.025, 0.975])
    move = 0 if way == "bootstrap" else whole - np.mean(numbers)
    return low + move, high + move


def simulate(case, rows, resamples):
    """The mean and deviation of the number over rows, and intervals by way and by kind."""
    name, size, count, real_count = case
    model = Model(size)
    real = model.features(model.noise(real_count, torch.Generator().manual_seed(1)), 0, 1)
    reference = FrechetReference(moments(real))
    whole, found = [], {}
    for row in range(rows):
        generator = torch.Generator().manual_seed(1000 + row)
        values = [
            reference.subsets(x) if name == "frechet" else METRICS[name].subsets(x, real)
            for x in model.rows(count, generator)
        ]
        first, second = (value(torch.arange(count)) for value in values)
        whole.append((first, first - second))
        halves, resampled = [], []
        for _ in range(resamples):
            half = torch.randperm(count, generator=generator)[: count // 2]
            halves.append([value(half) for value in values])
            again = torch.randint(0, count, (count,), generator=generator)
            resampled.append([value(again) for value in values])
        for way in WAYS:
            numbers = np.array(halves if way == "halves" else resampled)
            for kind, series in enumerate((numbers[:, 0], numbers[:, 0] - numbers[:, 1])):
                found.setdefault((way, kind), []).append(ends(series, whole[-1][kind], way))
    return np.mean(whole, axis=0), np.std(whole, axis=0), found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=100)
    parser.add_argument("--only", default="", help="metrics, joined by commas")
    options = parser.parse_args()
    print(f"{options.rows} rows, {options.resamples} resamples; held (width)\n")
    columns = [f"{way}{kind}" for way in WAYS for kind in ("", ", paired")]
    print(f"| metric | features | samples | {' | '.join(columns)} |")
    print("|---" * (3 + len(columns)) + "|")
    for case in CASES:
        if options.only and case[0] not in options.only.split(","):
            continue
        mean, deviation, found = simulate(case, options.rows, options.resamples)
        cells = []
        for way in WAYS:
            for kind in range(2):
                low, high = np.array(found[way, kind]).T
                held = np.mean((low <= mean[kind]) & (mean[kind] <= high))
                width = np.mean(high - low) / (2 * 1.96 * deviation[kind])
                cells.append(f"{held:.2f} ({width:.2f})")
        print(f"| {' | '.join(map(str, case[:3]))} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
