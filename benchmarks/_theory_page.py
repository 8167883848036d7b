"""The tables, numbers and plots of `docs/theory.md`, from `docs/theory.json`; see `theory.py`.

In the page, a table stands between `<!-- table: NAME -->` and `<!-- end -->`, and a number between
`<!--=PATH|FORMAT-->` and `<!--/-->`. Both are written from the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LABELS = {
    "sigma1": "`gaussian:1`",
    "sigma10": "`gaussian:10`",
    "sigma1_symmetric": "`gaussian:1`, symmetric",
    "sigma10_symmetric": "`gaussian:10`, symmetric",
    "infinite": "`gaussian:inf`",
    "box_zeros": "`box:31,alpha=0.9`, zeros",
    "box_symmetric": "`box:31,alpha=0.9`, symmetric",
    "ema": "`ema:0.95`",
}
PLOTS = ("theory-operators.svg", "theory-attention.svg", "theory-directions.svg")
_TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NUMBER = re.compile(r"(<!--=([\w.]+)\|([^>]+)-->)(.*?)(<!--/-->)")


def tables(numbers: dict[str, Any]) -> dict[str, str]:
    """The page's tables by name."""
    return {
        "operators-sdxl": operators(numbers["operators"]["sdxl"]),
        "operators-avatars": operators(numbers["operators"]["avatars"]),
        "lemmas": lemmas(numbers["run"]["attention"]["all"]),
        "products": products(numbers["run"]["attention"]["all"]),
        "curvature": curvature(numbers["run"]["attention"]["all"]),
        "directions": directions(numbers["run"]["predictions"]),
        "divergence": divergence(numbers["divergence"]),
    }


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float) -> str:
    """A share of counted cases: none and all are said as such, and not for what rounds to them."""
    if share in (0, 1):
        return f"{share:.0%}"
    return f"{min(max(share, 0.001), 0.999):.1%}"


def operators(found: dict[str, Any]) -> str:
    """Each operator's properties, and the requirements that it meets."""

    def span(values: dict[str, float], form: str) -> str:
        least, largest = format(values["least"], form), format(values["largest"], form)
        return least if least == largest else f"{least} to {largest}"

    def meets(one: dict[str, Any]) -> list[str]:
        return [
            f"{'yes' if each['holds'] else '**no**'} ({_signed(each['margin'])})"
            for each in one["requirements"].values()
        ]

    return grid(
        ["operator", "column sums", "row sums", "$b_{ii}$", "$\\Vert B\\Vert_2$", "deviation norm",
         "radius", "mean", "variance", "diagonal"],
        [
            [LABELS[name], span(one["column_sums"], ".3f"), span(one["row_sums"], ".3f"),
             span(one["diagonal"], ".3f"), f"{one['spectral_norm']:.4f}",
             _finite(one["deviation_norm"], ".4f"), f"{one['effective_radius']:.2f}", *meets(one)]
            for name, one in found.items()
        ],
    )  # fmt: skip


def lemmas(found: dict[str, Any]) -> str:
    """What lemmas 3.1 and 3.2 say, of real attention."""
    return grid(
        ["queries smoothed by", "shift of the mean", "variance kept", "variance grows in",
         "lse of columns falls by", "it grows in", "lse of rows falls by",
         "a head's energy falls in"],
        [
            [LABELS[name], f"{_zero(one['mean_shift']):.3f}",
             f"{_zero(one['variance_kept']):.3f}", percent(one["variance_grows"]),
             f"{one['columns_energy_rise']:.3f}", percent(one["lse_grows"]),
             f"{one['rows_energy_rise']:.3f}", percent(one["rows_head_energy_falls"])]
            for name, one in found.items()
        ],
    )  # fmt: skip


def products(found: dict[str, Any]) -> str:
    """The inequalities in the proof of theorem 3.1, of real attention."""
    return grid(
        ["queries smoothed by", "$\\sum\\log\\tilde\\xi_i - \\sum\\log\\xi_i$",
         "$\\sum\\log b_{ii}$", "second inequality holds in", "conclusion holds in"],
        [
            [LABELS[name], f"{one['product_rise']:+.0f}", f"{one['log_diagonal']:+.0f}",
             percent(one["second_inequality_holds"]), percent(one["conclusion_holds"])]
            for name, one in found.items()
        ],
    )  # fmt: skip


def curvature(found: dict[str, Any]) -> str:
    """Curvature at the logits, at the smoothed logits, and of the composition."""
    return grid(
        ["queries smoothed by", "trace at $Ba$", "grows in", "spectral norm at $Ba$", "grows in",
         "trace of $B^\\top H B$", "grows in", "its spectral norm", "grows in"],
        [
            [LABELS[name],
             f"{one['columns_trace_smoothed'] / one['columns_trace']:.3f}",
             percent(one["columns_trace_grows"]),
             f"{one['columns_spectral_norm_smoothed'] / one['columns_spectral_norm']:.3f}",
             percent(one["columns_spectral_norm_grows"]),
             f"{_zero(one['composed_trace_ratio']):.3f}", percent(one["composed_trace_grows"]),
             f"{_zero(one['composed_norm_ratio']):.3f}", percent(one["composed_norm_grows"])]
            for name, one in found.items()
        ],
    )  # fmt: skip


def directions(found: dict[str, Any]) -> str:
    """Cosines of predictions, by sigma."""
    return grid(
        ["$\\sigma$", "cosine of scores", "cosine of velocities",
         "$\\Vert v - \\tilde v\\Vert / \\Vert v\\Vert$", "with the last change",
         "with the change from the average"],
        [
            ["$\\infty$" if name == "inf" else name, f"{one['score']['mean']:.3f}",
             f"{one['velocity']['mean']:.3f}", f"{one['difference']['mean']:.3f}",
             f"{one['momentum']['last']['mean']:+.2f}",
             f"{one['momentum']['average']['mean']:+.2f}"]
            for name, one in found.items() if isinstance(one, dict)
        ],
    )  # fmt: skip


def divergence(found: dict[str, Any]) -> str:
    """How far runs part."""
    return grid(
        ["run", "growth of a small difference", "exponent a step", "from the unguided run"],
        [
            [name, f"{one['growth'][-1]:.2f}", f"{one['exponent']:+.3f}",
             f"{one['from_unguided'][-1]:.2f}"]
            for name, one in found.items()
        ],
    )  # fmt: skip


def rendered(text: str, numbers: dict[str, Any]) -> tuple[str, list[str]]:
    """The page with its tables and numbers, and what differs from how it was."""
    wrong: list[str] = []
    known = tables(numbers) if "<!-- table: " in text else {}

    def table(match: re.Match[str]) -> str:
        if match[2] not in known:
            wrong.append(f"unknown table {match[2]}; there are {', '.join(known)}")
            return match[0]
        new = f"{match[1]}\n{known[match[2]]}\n\n{match[3]}"
        if new != match[0]:
            wrong.append(f"table {match[2]}")
        return new

    def number(match: re.Match[str]) -> str:
        try:
            value = _at(numbers, match[2])
        except KeyError:
            wrong.append(f"unknown number {match[2]}")
            return match[0]
        new = percent(value) if match[3] == "share" else format(value, match[3])
        if new != match[4]:
            wrong.append(f"{match[2]}: {match[4]!r} is {new!r}")
        return f"{match[1]}{new}{match[5]}"

    return _NUMBER.sub(number, _TABLE.sub(table, text)), wrong


def check(folder: Path, numbers: dict[str, Any]) -> str:
    """What the page says otherwise than the numbers; empty if nothing."""
    _, wrong = rendered((folder / "theory.md").read_text(), numbers)
    wrong += [f"no image {name}" for name in PLOTS if not (folder / "images" / name).exists()]
    return "\n".join(wrong)


def write(folder: Path, numbers: dict[str, Any]) -> None:
    """Write the page's tables, numbers and plots."""
    path = folder / "theory.md"
    path.write_text(rendered(path.read_text(), numbers)[0])
    (folder / "images").mkdir(exist_ok=True)
    draw(folder / "images", numbers)


def draw(folder: Path, numbers: dict[str, Any]) -> None:
    """The page's three plots."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({
        "svg.hashsalt": "theory", "font.size": 9, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False,
    })  # fmt: skip
    for name, panels in zip(PLOTS, (_operators, _attention, _directions), strict=True):
        figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.1), layout="constrained")
        panels(axes, numbers)
        figure.savefig(folder / name, metadata={"Date": None}, facecolor="white")
        plt.close(figure)


def _operators(axes: Any, numbers: dict[str, Any]) -> None:
    first, second, third = axes
    facts = numbers["axis"]
    for padding, sums in facts["columns"].items():
        first.plot(sums, label=padding)
    first.set(title="column sums, 32 tokens, $\\sigma$ = 10", xlabel="token", ylim=(0, 1.15))
    for padding in ("reflect", "symmetric"):
        grown = facts["grown"]
        second.plot(grown["sigmas"], grown[padding]["spectral"], "o-", ms=3, label=padding)
        third.plot(grown["sigmas"], grown[padding]["deviation"], "o-", ms=3, label=padding)
    second.set(title="spectral norm: root mean square", xlabel="$\\sigma$", xscale="log")
    third.set(title="deviation norm: standard deviation", xlabel="$\\sigma$", xscale="log")
    third.axhline(1, color="0.5", lw=0.8)
    for axis in axes:
        axis.legend()


def _attention(axes: Any, numbers: dict[str, Any]) -> None:
    first, second, third = axes
    found = numbers["run"]["by_step"]
    steps = found["steps"]
    for name, label in (("sigma1", "1"), ("sigma10", "10"), ("infinite", "$\\infty$")):
        one = found[name]
        (line,) = first.plot(steps, one["columns_energy_rise"], label=f"$\\sigma$ = {label}")
        first.plot(steps, one["rows_energy_rise"], "--", color=line.get_color())
        trace = [a / b for a, b in zip(one["columns_trace_smoothed"], one["columns_trace"],
                                       strict=True)]  # fmt: skip
        second.plot(steps, trace, color=line.get_color(), label=f"$\\sigma$ = {label}")
        if name != "infinite":
            third.plot(steps, one["composed_trace_ratio"], color=line.get_color(),
                       label=f"$\\sigma$ = {label}")  # fmt: skip
    first.set(title="rise of the energy (columns; dashed: rows)", xlabel="step", ylim=(0, None))
    second.set(title="trace of the Hessian at $Ba$ / at $a$", xlabel="step")
    third.set(title="trace of $B^T H(Ba) B$ / of $H(a)$", xlabel="step", yscale="log")
    for axis in axes:
        axis.legend()


def _directions(axes: Any, numbers: dict[str, Any]) -> None:
    first, second, third = axes
    for name, one in numbers["run"]["predictions"].items():
        if isinstance(one, dict):
            label = "$\\sigma$ = " + ("$\\infty$" if name == "inf" else name)
            first.plot(one["velocity"]["by_step"], label=label)
            if name in ("1", "10", "inf"):
                steps = range(1, len(one["momentum"]["last"]["by_step"]) + 1)
                second.plot(steps, one["momentum"]["last"]["by_step"], label=label)
    for name, run in numbers["divergence"].items():
        third.plot(run["growth"], label=name)
    first.set(title="cosine of $v$ and $\\tilde v$", xlabel="step")
    second.set(title="cosine of the correction and the last change", xlabel="step")
    second.axhline(0, color="0.5", lw=0.8)
    third.set(title="growth of a small difference", xlabel="step", yscale="log")
    for axis in axes:
        axis.legend()


def rounded(value: Any) -> Any:
    """The same with six digits of each number, and null for infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    if not isinstance(value, float):
        return value
    if math.isinf(value):
        return None
    return 0.0 if abs(value) < 1e-12 else float(f"{value:.6g}")


def _at(numbers: dict[str, Any], path: str) -> Any:
    value: Any = numbers
    for name in path.split("."):
        value = value[name]
    return value


def _zero(value: float) -> float:
    """The number, without the sign of a zero."""
    return value if abs(value) > 1e-12 else 0.0


def _signed(margin: float | None) -> str:
    if margin is None:
        return "$-\\infty$"
    return "0" if abs(margin) < 1e-9 else f"{margin:+.3f}"


def _finite(value: float | None, form: str) -> str:
    return "$\\infty$" if value is None else format(value, form)
