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

#: Larger scales than this are no guidance but noise.
_SCALE_MOST = 100.0


def matched_cfg(study: Study, row: Row, *, captions: bool = False) -> Row | None:
    r"""Plain CFG at the effective scale of a row.

    The effective scale of a step is $\langle D^\star - u, c - u \rangle / \|c - u\|^2$, where
    $D^\star$ is the guided prediction. Its mean over all steps of some runs is the scale of the
    control. Where the row has no CFG, its runs have one of 1.000001, so that $u$ is known.

    Args:
        study: Draws the runs, on seeds of their own.
        row: The row.
        captions: Whether samples have the subject's captions; otherwise its prompts.

    Returns:
        The control; None if there is none, since CFG of 1 or less is no guidance. The scale is kept
        with the study's numbers either way.
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
    if matched <= 1:
        return None
    return Row(f"CFG {matched:g}, matched to {row.label}", cfg=matched, controls=row.label)


def momentum_of_equal_norm(study: Study, row: Row, *, steps: str = "all") -> Row | None:
    r"""The momentum of the prediction, as strong as a row without a prompt.

    Its scale is the one at which the relative norm of its correction,
    $\|\delta\| / \|s\|$, has the same mean over the steps as the row's.

    Args:
        study: Draws the runs, on seeds of their own.
        row: The row.
        steps: The steps that it guides, which the control guides, too.

    Returns:
        The control; None if no scale up to 100 has this norm. What was tried is kept with the
        study's numbers.
    """
    seeds = range(PILOT_SEED, PILOT_SEED + study.scope.pilots)
    name = "matched-momentum"
    wanted = statistics.fmean(
        _facts(study.draw(name, [row], seeds=seeds), row.label, "relative_correction")
    )
    tried: dict[str, float] = {}
    scale, matched = 0.5, None
    while len(tried) < _TRIES and 0 < scale <= _SCALE_MOST:
        candidate = _momentum(scale, row, steps)
        drawn = study.draw(name, [candidate], seeds=seeds)
        found = statistics.fmean(_facts(drawn, candidate.label, "relative_correction"))
        tried[f"{scale:g}"] = found
        if abs(found - wanted) < _NEAR * wanted:
            matched = candidate
            break
        if found == 0:
            break
        # The norm is nearly proportional to the scale.
        scale = float(f"{scale * wanted / found:.3g}")
    study.keep(
        f"momentum as strong as {row.label}",
        {
            "wanted": wanted,
            "relative norms by scale": tried,
            "matched": matched is not None,
            "runs": len(seeds),
        },
    )
    return matched


def _momentum(scale: float, row: Row, steps: str) -> Row:
    label = f"momentum {scale:g}, as strong as {row.label}"
    text = f"momentum; scale={scale:g}"
    if steps != "all":
        text += f"; steps={steps}"
    return Row(label, (text,), scheduler=row.scheduler, controls=row.label, baseline=row.baseline)


def _facts(drawn: Drawn, label: str, name: str) -> list[float]:
    found = [facts.get(name) for facts in drawn.facts[label]]
    numbers = [float(value) for value in found if value is not None and not math.isnan(value)]
    if len(numbers) != len(found):
        raise RuntimeError(f"{label}: {name} is not known of {len(found) - len(numbers)} pictures")
    return numbers


def _deviation(numbers: Sequence[float]) -> float:
    return statistics.stdev(numbers) if len(numbers) > 1 else 0.0
