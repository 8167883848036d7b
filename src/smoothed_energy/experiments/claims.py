"""Claims of the papers, and what paired differences say of them."""

from __future__ import annotations

__all__ = ["Claim", "verdict", "verdicts"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ..report.page import Number, Verdict
    from .measured import Measured


@dataclass(frozen=True)
class Claim:
    """A claim that one row is better than another.

    Args:
        text: The claim in a sentence.
        source: Who makes it, and where.
        row: The label of the row that is said to be better.
        other: The label of the other one.
        metric: The name of the metric by which it is; by default the subject's set distance.
        claimed: Whether better is lower or higher.
    """

    text: str
    source: str
    row: str
    other: str
    metric: str = "frechet"
    claimed: Literal["lower", "higher"] = "lower"


def verdicts(measured: Measured, claims: Sequence[Claim]) -> list[Verdict]:
    """What the paired differences of an experiment say of some claims."""
    found = []
    for claim in claims:
        if claim.row == claim.other:
            found.append(_of_itself(claim))
            continue
        difference = measured.difference(claim.row, claim.other, claim.metric)
        found.append(verdict(claim, difference))
    return found


def verdict(claim: Claim, difference: Number) -> Verdict:
    """The verdict on a claim: only an interval that leaves out 0 decides it.

    Args:
        claim: The claim.
        difference: The metric of its row minus that of the other one, with a paired interval.
    """
    from ..report.page import Verdict  # noqa: PLC0415 - only when a page is made

    compared = f"`{claim.row}` minus `{claim.other}`"
    if difference.low is None or difference.high is None:
        return Verdict(
            claim.text, claim.source, "can't be told", f"{compared}: no interval.", difference
        )
    lower, higher = difference.high < 0, difference.low > 0
    if not (lower or higher):
        because = f"{compared}: the interval of the paired difference contains 0."
        return Verdict(claim.text, claim.source, "can't be told", because, difference)
    holds = lower if claim.claimed == "lower" else higher
    because = f"{compared}: the interval of the paired difference leaves out 0."
    return Verdict(
        claim.text, claim.source, "holds" if holds else "does not hold", because, difference
    )


def _of_itself(claim: Claim) -> Verdict:
    from ..report.page import Verdict  # noqa: PLC0415 - only when a page is made

    return Verdict(
        claim.text,
        claim.source,
        "can't be told",
        f"both rows are `{claim.row}`: there is nothing to compare.",
    )
