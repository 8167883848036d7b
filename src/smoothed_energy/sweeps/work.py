"""A worker's share of a sweep: it draws a unit of rows, writes each picture and says what came out.

The same function serves the processes of one machine and the actors of a cluster.
"""

from __future__ import annotations

__all__ = ["Outcome", "Trouble", "Unit", "draw_unit", "picture_memory"]

import errno
import time
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .configuration import Configuration
from .identity import Identity, settings_by_content
from .pictures import PictureFolder
from .plan import Row
from .sampler import ConfigurationError, Sampler


@dataclass(frozen=True)
class Unit:
    """Rows of one configuration that a worker draws at a time.

    Args:
        configuration: Their configuration.
        rows: The rows.
    """

    configuration: Configuration
    rows: tuple[Row, ...]


class Trouble(Enum):
    """Why rows of a unit were not drawn."""

    FAILED = "failed"  # it may be tried again
    HOPELESS = "hopeless"  # the configuration can't be drawn
    DISK_FULL = "disk full"  # nothing can


@dataclass(frozen=True)
class Outcome:
    """What came out of a unit.

    Args:
        drawn: The ids of the pictures that were drawn and written.
        found: How many were there already.
        seconds: How long it took.
        trouble: What went wrong with the others, if anything did.
        reason: The same in words.
        notes: Warnings of guidance.
    """

    drawn: tuple[str, ...] = ()
    found: int = 0
    seconds: float = 0.0
    trouble: Trouble | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()


def draw_unit(sampler: Sampler, folder: PictureFolder, unit: Unit, identity: Identity) -> Outcome:
    """Draw what is missing of a unit. Nothing that goes wrong in it is raised.

    Args:
        sampler: What draws.
        folder: Where pictures are written.
        unit: The rows.
        identity: What the sweep's pictures depend on.
    """
    begin = time.perf_counter()
    # Another run into this folder may have drawn them, or a worker that died afterwards.
    missing = [row for row in unit.rows if folder.read(row.id) is None]
    found = len(unit.rows) - len(missing)
    drawn: list[str] = []
    notes: dict[str, None] = {}
    trouble, reason = None, ""
    try:
        pictures = (
            sampler.draw(unit.configuration, [(row.prompt, row.seed) for row in missing])
            if missing
            else []
        )
        for row, (image, facts) in zip(missing, pictures, strict=True):
            memory = picture_memory(identity, unit.configuration, row) | {"facts": facts}
            folder.write(row.id, image, memory)
            drawn.append(row.id)
            notes |= dict.fromkeys(facts.get("warnings", ()))
    except ConfigurationError as error:
        trouble, reason = Trouble.HOPELESS, _one_line(error)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        trouble, reason = Trouble.DISK_FULL if full else Trouble.FAILED, _one_line(error)
    except Exception as error:
        trouble, reason = Trouble.FAILED, _one_line(error)
    seconds = time.perf_counter() - begin
    return Outcome(tuple(drawn), found, seconds, trouble, reason, tuple(notes))


def picture_memory(identity: Identity, configuration: Configuration, row: Row) -> dict[str, Any]:
    """What a picture's file says of it: all that its id is made of, and nothing else.

    The name of a sweep or the label of a configuration may change while a picture stays.
    """
    return {
        "settings": settings_by_content(identity, configuration.settings),
        "prompt": row.prompt,
        "seed": row.seed,
        "made_with": identity.to_dict(),
    }


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
