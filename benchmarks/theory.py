r"""What of the theory holds: the numbers, tables and plots of `docs/theory.md`.

    python benchmarks/theory.py                     # measures, and prints the tables
    python benchmarks/theory.py --out docs          # also writes theory.json, page and plots
    python benchmarks/theory.py --page docs         # renders the page again from theory.json
    python benchmarks/theory.py --check docs        # whether the page says what theory.json does
    python benchmarks/theory.py --quick             # one sample, two steps: whether it runs

The embedded model draws without a prompt, in float64, so that the numbers are those of the
mathematics. Queries and keys are looked at in all self-attention layers, on the spot: numbers are
kept of them, and nothing else. In the same steps the prediction is made again with smoothed queries
in the middle layers; the run itself stays unguided.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import _theory_page as page
from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.denoisers.attention_layer import SelfAttentionLayer
from smoothed_energy.energy import (
    analyse,
    entrywise_hessian,
    log_sum_exp,
    smoothed_hessian,
    softmax_curvature,
    softmax_hessian,
)
from smoothed_energy.families.layer_selection import select_layers
from smoothed_energy.guidance.attention_perturbation import AttentionCall, AttentionPerturbation
from smoothed_energy.guidance.guidance import About
from smoothed_energy.guidance.negative_guidance import NegativeGuidance
from smoothed_energy.guidance.perturbation import LayerCall
from smoothed_energy.guidance.plan import NegativeContext, Plan
from smoothed_energy.methods.seg import BlurQueries
from smoothed_energy.models import load
from smoothed_energy.smoothing import Smoothing

#: The operators that are looked at, by the names that the tables and the page have for them.
OPERATORS = {
    "sigma1": "gaussian:1",
    "sigma10": "gaussian:10",
    "sigma1_symmetric": "gaussian:sigma=1,padding=symmetric",
    "sigma10_symmetric": "gaussian:sigma=10,padding=symmetric",
    "infinite": "gaussian:inf",
    "box_zeros": "box:31,alpha=0.9,padding=zeros",
    "box_symmetric": "box:31,alpha=0.9,padding=symmetric",
    "ema": "ema:0.95",
}
#: The grid of the embedded model's layers, and that of SDXL's middle ones.
GRIDS = {"avatars": (12, 12), "sdxl": (32, 32)}
SIGMAS = (0.5, 1.0, 2.0, 5.0, 10.0, math.inf)
#: How far apart two runs begin, relative to the noise that they begin with.
EPSILON = 1e-6
Numbers = dict[str, float]


def operators(grid: tuple[int, ...]) -> dict[str, Any]:
    """The analysis of all operators on a grid, as JSON values."""
    found = {}
    for name, text in OPERATORS.items():
        one = analyse(text, grid)
        values = {
            field.name: getattr(one, field.name)
            for field in dataclasses.fields(one)
            if field.name not in ("operator", "grid")
        }
        found[name] = {
            key: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
            for key, value in values.items()
        }
        found[name]["requirements"] = {
            each.name: {"margin": each.margin, "holds": each.holds} for each in one.requirements
        }
    return found


def axis_facts() -> dict[str, Any]:
    """One axis of 32 tokens: column sums at sigma = 10, and what may grow, by sigma."""
    paddings = ("reflect", "symmetric", "zeros")
    sigmas = [0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0]
    columns = {
        padding: Smoothing.parse(f"gaussian:sigma=10,padding={padding}").matrix((1, 32)).sum(0)
        for padding in paddings
    }
    grown: dict[str, Any] = {"sigmas": sigmas}
    for padding in ("reflect", "symmetric"):
        found = [analyse(f"gaussian:sigma={sigma},padding={padding}", (1, 32)) for sigma in sigmas]
        grown[padding] = {
            "spectral": [one.spectral_norm for one in found],
            "deviation": [one.deviation_norm for one in found],
        }
    # Twice sigma = 1 would be sigma = sqrt(2), were it not for borders and kernels' ends.
    semigroup = {}
    for padding in paddings:
        once, both = (
            Smoothing.parse(f"gaussian:sigma={sigma},padding={padding}").matrix((1, 32))
            for sigma in (1.0, math.sqrt(2))
        )
        semigroup[padding] = float((once @ once - both).abs().max() / both.max())
    return {
        "columns": {name: sums.tolist() for name, sums in columns.items()},
        "grown": grown,
        "semigroup_error": semigroup,
    }


class Attention:
    r"""Numbers of attention, averaged over heads, keys or queries, at each layer and step.

    The logits are $A = Q K^\top / \sqrt d$. *Columns* hold the queries' logits with one key, as
    SEG's definition 2.1 has them; *rows* those of one query with all keys, which a layer computes.
    """

    def __init__(self, grid: tuple[int, ...]) -> None:
        self.operators = {name: Smoothing.parse(text) for name, text in OPERATORS.items()}
        self.matrices = {name: one.matrix(grid) for name, one in self.operators.items()}
        self.grid = grid
        self.found: dict[tuple[int, str, str], Numbers] = {}

    def observe(self, step: int, layer: str, query: Tensor, key: Tensor) -> None:
        """Look at one layer's queries and keys, `(B, heads, T, d)`."""
        query, key = query.double(), key.double()
        before = self._energies(query, key)
        columns = key @ query.mT / math.sqrt(query.shape[-1])
        # Eigenvalues take long: of one column of each head, another one at each step.
        picked = slice(17 * step % len(self.matrices["ema"]), None, len(self.matrices["ema"]))
        own = torch.linalg.eigvalsh(-softmax_hessian(columns[:, :, picked]))
        for name, operator in self.operators.items():
            smoothed = operator.apply(query, self.grid)
            after = self._energies(smoothed, key)
            numbers = self._changes(before, after)
            matrix = self.matrices[name]
            blurred = columns @ matrix.mT
            scale = columns.std()
            numbers["proposition_error"] = float(
                (blurred - key @ smoothed.mT / math.sqrt(query.shape[-1])).abs().max() / scale
            )
            numbers |= self._lemmas(columns, blurred, before["columns"], after["columns"])
            numbers |= self._theorem(columns, blurred, matrix)
            numbers |= self._hessians(columns[:, :, picked], own, matrix)
            self.found[step, layer, name] = numbers

    def _energies(self, query: Tensor, key: Tensor) -> dict[str, dict[str, Tensor]]:
        both = {"columns": (key, query), "rows": (query, key)}
        return {
            name: {"lse": log_sum_exp(*pair), **vars(softmax_curvature(*pair))}
            for name, pair in both.items()
        }

    def _changes(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Numbers:
        """How energy and curvature at the smoothed logits differ from those at the logits."""
        numbers = {}
        for name in before:
            was, now = before[name], after[name]
            rise = was["lse"] - now["lse"]
            numbers[f"{name}_energy_rise"] = float(rise.mean())
            numbers[f"{name}_head_energy_falls"] = share(rise.sum(-1) < -1e-9)
            for measure in ("trace", "spectral_norm"):
                numbers[f"{name}_{measure}"] = float(was[measure].mean())
                numbers[f"{name}_{measure}_smoothed"] = float(now[measure].mean())
                numbers[f"{name}_{measure}_grows"] = share(now[measure] > was[measure] + 1e-12)
            change = now["log_pseudo_determinant"] - was["log_pseudo_determinant"]
            numbers[f"{name}_log_pseudo_determinant_rise"] = float(change.mean())
        return numbers

    def _lemmas(
        self, columns: Tensor, blurred: Tensor, before: Mapping[str, Tensor], after: Any
    ) -> Numbers:
        """Mean, variance and lse of every column, and what lse is by its second order."""
        was, now = columns.var(-1, correction=0), blurred.var(-1, correction=0)
        shift = (blurred.mean(-1) - columns.mean(-1)).abs() / was.sqrt()
        flat = columns.mean(-1) + math.log(columns.shape[-1])
        approximated = flat + (1 + was / 2).log()
        excess = before["lse"] - flat
        return {
            "mean_shift": float(shift.mean()),
            "variance_kept": float((now / was).mean()),
            "variance_grows": share(now > was * (1 + 1e-9)),
            "lse_grows": share(after["lse"] > before["lse"] + 1e-9),
            "logit_deviation": float(was.sqrt().mean()),
            "lse_excess": float(excess.mean()),
            "lse_excess_second_order": float((approximated - flat).mean()),
        }

    def _theorem(self, columns: Tensor, blurred: Tensor, matrix: Tensor) -> Numbers:
        """The products that stand for determinants in the proof of theorem 3.1, in logarithms."""
        was, now = (x.log_softmax(-1).sum(-1) for x in (columns, blurred))
        kept = float(matrix.diag().log().sum())
        p, squares = blurred.softmax(-1), matrix.square().sum(1)
        composed = p @ squares - (p @ matrix).square().sum(-1)
        own = columns.softmax(-1)
        trace = 1 - own.square().sum(-1)
        return {
            "product_rise": float((now - was).mean()),
            "log_diagonal": kept,
            "second_inequality_holds": share(now <= was + 1e-9),
            "conclusion_holds": share(now + kept < was),
            "composed_trace_ratio": float(composed.mean() / trace.mean()),
            "composed_trace_grows": share(composed > trace + 1e-12),
        }

    def _hessians(self, columns: Tensor, own: Tensor, matrix: Tensor) -> Numbers:
        """Determinants and spectral norms of the Hessians of some columns, `own` eigenvalues."""
        blurred = columns @ matrix.mT
        composed = torch.linalg.eigvalsh(-smoothed_hessian(columns, matrix))
        entrywise = torch.linalg.slogdet(entrywise_hessian(columns, matrix)).logabsdet
        approximated = blurred.log_softmax(-1).sum(-1) + matrix.diag().log().sum()
        return {
            "least_eigenvalue": float(own[..., 0].abs().max()),
            "composed_norm_ratio": float(composed[..., -1].mean() / own[..., -1].mean()),
            "composed_norm_grows": share(composed[..., -1] > own[..., -1] + 1e-12),
            "entrywise_log_determinant": float(entrywise.mean()),
            "approximated_log_determinant": float(approximated.mean()),
        }

    def means(self, layers: Callable[[str], bool] = lambda _: True) -> dict[str, Numbers]:
        """By operator, the means over steps and layers."""
        return {
            name: mean([row for (_, layer, one), row in self.found.items() if one == name
                        and layers(layer)])
            for name in OPERATORS
        }  # fmt: skip

    def by_step(self, layers: Callable[[str], bool], names: Sequence[str]) -> dict[str, Any]:
        """By operator, the means over layers at each step, of some numbers."""
        steps = sorted({step for step, _, _ in self.found})
        found: dict[str, Any] = {"steps": steps}
        for operator in OPERATORS:
            rows = [
                mean([row for (at, layer, one), row in self.found.items()
                      if (at, one) == (step, operator) and layers(layer)])
                for step in steps
            ]  # fmt: skip
            found[operator] = {name: [row[name] for row in rows] for name in names}
        return found


class Predictions:
    """The directions of what is predicted with and without smoothed queries, at each step."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, list[float]]]] = defaultdict(list)
        self.history: list[Tensor] = []
        self.momentum: dict[str, list[dict[str, list[float]]]] = defaultdict(list)

    def observe(self, second: NegativeContext, predicted: Mapping[str, Tensor]) -> None:
        """Compare the predictions of a velocity by all blurs with the one without."""
        sigma = second.position().sigma
        assert sigma is not None
        signal = 1 / math.sqrt(1 + sigma * sigma)
        noise = math.sqrt(1 - signal * signal)
        x, v = second.sample, second.clean
        clean, score = signal * x - noise * v, -(noise * x + signal * v)
        for name, other in predicted.items():
            self.rows[name].append({
                "score": cosine(score, -(noise * x + signal * other)),
                "velocity": cosine(v, other),
                "difference": ratio(v - other, v),
            })  # fmt: skip
            change = (signal * x - noise * v) - (signal * x - noise * other)
            if self.history:
                average = torch.stack(self.history).mean(0)
                self.momentum[name].append({
                    "last": cosine(change, clean - self.history[-1]),
                    "average": cosine(change, clean - average),
                })  # fmt: skip
        self.history.append(clean)

    def as_json(self) -> dict[str, Any]:
        """By sigma, means over samples by step, and over all; and how often the angle grows."""
        found: dict[str, Any] = {}
        for name, rows in self.rows.items():
            found[name] = {
                key: {
                    "by_step": [sum(row[key]) / len(row[key]) for row in rows],
                    "mean": mean_of([value for row in rows for value in row[key]]),
                }
                for key in rows[0]
            }
            found[name]["momentum"] = {
                key: {
                    "by_step": [sum(row[key]) / len(row[key]) for row in self.momentum[name]],
                    "mean": mean_of([value for row in self.momentum[name] for value in row[key]]),
                }
                for key in ("last", "average")
            }
        names = list(self.rows)
        for key in ("score", "velocity"):
            wider = [
                after < before
                for one, next_one in itertools.pairwise(names)
                for row, next_row in zip(self.rows[one], self.rows[next_one], strict=True)
                for before, after in zip(row[key], next_row[key], strict=True)
            ]
            found[f"{key}_wider"] = sum(wider) / len(wider)
        return found


class Switch(AttentionPerturbation):
    """Attention with queries that are smoothed, or only looked at."""

    def __init__(self, attention: Attention, blurred: frozenset[str]) -> None:
        self.attention, self.blurred = attention, blurred
        self.smoothing: Smoothing | None = None
        self.looking_at: int | None = None
        self.layer = ""

    def run(self, call: LayerCall) -> Any:
        self.layer = call.name
        return super().run(call)

    def attend(self, call: AttentionCall) -> Tensor:
        if self.smoothing is None:
            if self.looking_at is not None:
                self.attention.observe(self.looking_at, self.layer, call.query, call.key)
            return call()
        if self.layer in self.blurred:
            return BlurQueries(self.smoothing).attend(call)
        return call()


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Watching(NegativeGuidance):
    """No guidance: what is predicted is compared with what smoothed queries would predict."""

    method: ClassVar[str] = "watching"
    about: ClassVar[About] = About("Watching", "nothing", "a pass for each blur", "this script")

    attention: Attention
    predictions: Predictions
    layers: str = "all"
    every_nth: int = 1

    def select(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        return select_layers(denoiser, self.layers)

    def plan(self, denoiser: nn.Module, *, replay: bool = True) -> Plan:
        middle = frozenset(layer.name for layer in select_layers(denoiser, "mid"))
        switch = Switch(self.attention, middle)

        def compare(second: NegativeContext) -> Tensor:
            step = second.position().index
            if step % self.every_nth == 0:
                switch.smoothing, switch.looking_at = None, step
                second.predict(second.call)
                switch.looking_at = None
            predicted = {}
            for sigma in SIGMAS:
                switch.smoothing = Smoothing.parse(f"gaussian:{sigma}")
                predicted[f"{sigma:g}"] = second.predict(second.call)
            self.predictions.observe(second, predicted)
            return second.clean

        edits = {layer.module: layer.name for layer in self.select(denoiser)}
        return self._plan(perturbation=switch, edits=edits, negative=compare)


def noise(samples: int) -> Tensor:
    """The starting noise of seeds 0, 1, ..."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(samples)]
    shape = (4, 24, 24)
    return torch.stack([torch.randn(shape, generator=each).double() for each in generators])


def draw(pipe: Any, latents: Tensor, steps: int) -> list[Tensor]:
    """The latents of an unprompted run: at the start and after each step."""
    trajectory = [latents]

    def keep(pipe: Any, step: int, time: Any, kept: dict[str, Any]) -> dict[str, Any]:
        trajectory.append(kept["latents"].clone())
        return kept

    pipe(
        "",
        num_images_per_prompt=len(latents),
        guidance_scale=1.0,
        num_inference_steps=steps,
        latents=latents.clone(),
        output_type="latent",
        callback_on_step_end=keep,
    )
    return trajectory


def watch(
    pipe: Any, samples: int, steps: int, every_nth: int, layers: str = "all"
) -> dict[str, Any]:
    """What is seen in one run: attention at every n-th step, and predictions."""
    attention, predictions = Attention(GRIDS["avatars"]), Predictions()
    watching = Watching(
        scale=1.0,
        attention=attention,
        predictions=predictions,
        layers=layers,
        every_nth=every_nth,
    )
    plain = draw(pipe, noise(samples), steps)
    with watching.attach(pipe):
        watched = draw(pipe, noise(samples), steps)
    assert torch.equal(plain[-1], watched[-1]), "watching changed the picture"

    def middle(layer: str) -> bool:
        return layer.startswith("mid_block")

    names = [
        "columns_energy_rise",
        "rows_energy_rise",
        "columns_trace",
        "columns_trace_smoothed",
        "composed_trace_ratio",
    ]
    return {
        "attention": {"all": attention.means(), "mid": attention.means(middle)},
        "by_step": attention.by_step(middle, names),
        "predictions": predictions.as_json(),
    }


def small(pipe: Any) -> dict[str, Numbers]:
    """What a test measures again: the middle layers at the first step of one sample."""
    found: dict[str, Numbers] = watch(pipe, 1, 2, 2, "mid")["attention"]["mid"]
    return found


def divergence(pipe: Any, samples: int, steps: int) -> dict[str, Any]:
    """How far apart runs end that begin a little apart, unguided and guided."""
    start = noise(samples)
    nudge = torch.randn(start.shape, generator=torch.Generator().manual_seed(99)).double()
    nudge *= EPSILON * norms(start)[:, None, None, None] / norms(nudge)[:, None, None, None]
    found: dict[str, Any] = {}
    runs: dict[str, list[Tensor]] = {}
    for name, scale in {"unguided": 0.0, "scale 0.7": 0.7, "scale 3": 3.0}.items():
        guidance = SmoothedEnergyGuidance(blur="gaussian:inf", scale=scale, layers="mid")
        with guidance.attach(pipe):
            runs[name] = draw(pipe, start, steps)
            twin = draw(pipe, start + nudge, steps)
        growth = torch.stack([
            norms(b - a) / norms(twin[0] - start) for a, b in zip(runs[name], twin, strict=True)
        ])  # fmt: skip
        apart = torch.stack([
            norms(b - a) / norms(a) for a, b in zip(runs["unguided"], runs[name], strict=True)
        ])  # fmt: skip
        found[name] = {
            "growth": growth.mean(1).tolist(),
            "final_growth": float(growth[-1].mean()),
            "exponent": float(growth[-1].log().mean() / steps),
            "from_unguided": apart.mean(1).tolist(),
        }
    return found


def share(of: Tensor) -> float:
    """The share of true values."""
    return float(of.double().mean())


def mean(rows: Sequence[Numbers]) -> Numbers:
    """The mean of each number."""
    return {name: mean_of([row[name] for row in rows]) for name in rows[0]}


def mean_of(values: Sequence[float]) -> float:
    """The mean."""
    return math.fsum(values) / len(values)


def norms(x: Tensor) -> Tensor:
    """The norm of each sample."""
    return x.flatten(1).norm(dim=1)


def cosine(a: Tensor, b: Tensor) -> list[float]:
    """The cosine of each sample."""
    found: list[float] = torch.cosine_similarity(a.flatten(1), b.flatten(1)).tolist()
    return found


def ratio(a: Tensor, b: Tensor) -> list[float]:
    """The ratio of the norms of each sample."""
    found: list[float] = (norms(a) / norms(b)).tolist()
    return found


def model() -> Any:
    """The embedded model in float64, silent."""
    pipe = load("avatars", dtype=torch.float64)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def measure(samples: int, steps: int, every_nth: int) -> dict[str, Any]:
    """All numbers of the page."""
    pipe = model()
    started = time.perf_counter()
    numbers = {
        "settings": {
            "samples": samples,
            "steps": steps,
            "looked_at": len(range(0, steps, every_nth)),
            "torch": torch.__version__,
            "machine": platform.machine(),
        },
        "operators": {name: operators(grid) for name, grid in GRIDS.items()},
        "axis": axis_facts(),
        "run": watch(pipe, samples, steps, every_nth),
        "divergence": divergence(pipe, samples, steps),
        "small": small(pipe),
    }
    numbers["settings"]["seconds"] = round(time.perf_counter() - started)
    return numbers


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="the folder of theory.md, to write to")
    parser.add_argument("--page", type=Path, help="the same; only the page and its plots")
    parser.add_argument("--check", type=Path, help="the same; nothing is written")
    parser.add_argument("--quick", action="store_true", help="one sample, two steps")
    options = parser.parse_args()
    if options.check or options.page:
        folder = options.check or options.page
        numbers = json.loads((folder / "theory.json").read_text())
        if options.page:
            page.write(folder, numbers)
        raise SystemExit(page.check(folder, numbers))
    numbers = page.rounded(measure(1, 2, 1) if options.quick else measure(4, 25, 3))
    if options.out:
        text = json.dumps(numbers, indent=1, allow_nan=False)
        (options.out / "theory.json").write_text(text + "\n")
        page.write(options.out, numbers)
    for title, table in page.tables(numbers).items():
        print(f"\n### {title}\n\n{table}")


if __name__ == "__main__":
    main()
