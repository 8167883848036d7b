"""Controls: plain extrapolations as strong as a guidance, beside every claim that it is more.

References:
    | Guidance Matters: Rethinking the Evaluation Pitfall for Text-to-Image Generation (ICLR 2026)
    | https://arxiv.org/abs/2602.22570
"""

from __future__ import annotations

__all__ = ["matched_cfg", "momentum_of_equal_norm"]

import math
import statistics
from collections.abc import Sequence

from .drawn import Drawn
from .row import Row
from .study import PILOT_SEED, Study

#: A CFG of no effect that makes a pipeline predict without the prompt, too.
_BARELY = 1.0 + 1e-6

#: How near the matched norm must be, as a share of it, and how often it is tried.
_NEAR, _TRIES = 0.02, 6


def matched_cfg(study: Study, row: Row, *, captions: bool = False) -> Row:
    r"""Plain CFG at the effective scale of a row.

    The effective scale of a step is $\langle D^\star - u, c - u \rangle / \|c - u\|^2$, where
    $D^\star$ is the guided prediction. Its mean over all steps of some runs is the scale of the
    control. Where the row has no CFG, its runs have one of 1.000001, so that $u$ is known.

    Args:
        study: Draws the runs, on seeds of their own.
        row: The row.
        captions: Whether samples have the subject's captions; otherwise its prompts.
    """
    name = "matched-cfg"
    measured = row if row.cfg > 1 else row.with_cfg(_BARELY)
    seeds = range(PILOT_SEED, PILOT_SEED + study.scope.pilots)
    if captions:
        drawn = study.draw_captioned(name, [measured], seeds)
    else:
        drawn = study.draw(name, [measured], seeds=seeds, prompts=study.subject.prompts)
    scales = _facts(drawn, row.label, "effective_cfg_scale")
    matched = round(statistics.fmean(scales), 3)
    study.keep(
        f"matched CFG of {row.label}",
        {"scale": matched, "deviation": _deviation(scales), "runs": len(scales)},
    )
    return Row(f"CFG {matched:g}, matched to {row.label}", cfg=matched, controls=row.label)


def momentum_of_equal_norm(study: Study, row: Row) -> Row:
    r"""The momentum of the prediction, as strong as a row without a prompt.

    Its scale is the one at which the relative norm of its correction,
    $\|\delta\| / \|s\|$, has the same mean over the steps as the row's.

    Args:
        study: Draws the runs, on seeds of their own.
        row: The row.

    Raises:
        RuntimeError: If no such scale is found.
    """
    seeds = range(PILOT_SEED, PILOT_SEED + study.scope.pilots)
    name = "matched-momentum"
    wanted = statistics.fmean(
        _facts(study.draw(name, [row], seeds=seeds), row.label, "relative_correction")
    )
    scale, found = 0.5, math.nan
    for _ in range(_TRIES):
        candidate = _momentum(scale, row)
        drawn = study.draw(name, [candidate], seeds=seeds)
        found = statistics.fmean(_facts(drawn, candidate.label, "relative_correction"))
        if abs(found / wanted - 1) < _NEAR:
            break
        # The norm is nearly proportional to the scale.
        scale = float(f"{scale * wanted / found:.3g}")
    else:
        raise RuntimeError(
            f"no scale of momentum has a relative norm of {wanted:.3g}, that of {row.label}; the "
            f"last one tried, {scale:g}, has {found:.3g}"
        )
    study.keep(
        f"momentum as strong as {row.label}",
        {"scale": scale, "relative norm": found, "wanted": wanted, "runs": len(seeds)},
    )
    return candidate


def _momentum(scale: float, row: Row) -> Row:
    label = f"momentum {scale:g}, as strong as {row.label}"
    return Row(label, (f"momentum; scale={scale:g}",), controls=row.label)


def _facts(drawn: Drawn, label: str, name: str) -> list[float]:
    found = [facts.get(name) for facts in drawn.facts[label]]
    numbers = [float(value) for value in found if value is not None and not math.isnan(value)]
    if len(numbers) != len(found):
        raise RuntimeError(f"{label}: {name} is not known of {len(found) - len(numbers)} pictures")
    return numbers


def _deviation(numbers: Sequence[float]) -> float:
    return statistics.stdev(numbers) if len(numbers) > 1 else 0.0
