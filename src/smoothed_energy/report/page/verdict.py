"""What the measurements say of a claim."""

from __future__ import annotations

__all__ = ["VERDICTS", "Verdict", "VerdictWord"]

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...settings.checks import check_choice
from .number import Number

#: What can be said of a claim.
VerdictWord: TypeAlias = Literal["holds", "does not hold", "can't be told"]

#: All that can be said of a claim.
VERDICTS: tuple[VerdictWord, ...] = ("holds", "does not hold", "can't be told")


@dataclass(frozen=True)
class Verdict:
    """A claim, and what the measurements say of it.

    Args:
        claim: The claim in one sentence.
        source: Where it is made, such as ``"SEG, section 5.2"``.
        verdict: ``"holds"``, ``"does not hold"`` or ``"can't be told"``.
        because: Why, in a sentence or two.
        interval: The number that the verdict rests on, with its interval and its kind.

    Claim and reason are inline text as in `Section`.

    Raises:
        ValueError: If the verdict is something else.
    """

    claim: str
    source: str
    verdict: VerdictWord
    because: str
    interval: Number | None = None

    def __post_init__(self) -> None:
        check_choice("verdict", self.verdict, VERDICTS)
