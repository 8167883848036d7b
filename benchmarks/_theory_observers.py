"""What `theory.py` looks at in a run: attention, and predictions, as numbers."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from smoothed_energy.energy import (
    entrywise_hessian,
    log_sum_exp,
    smoothed_hessian,
    softmax_curvature,
    softmax_hessian,
)
from smoothed_energy.guidance.plan import NegativeContext
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
Numbers = dict[str, float]


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
