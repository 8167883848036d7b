"""A page, its sections, and what it was made with."""

from __future__ import annotations

__all__ = ["Block", "Page", "Provenance", "Section"]

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ...settings.conversion import set_field
from .picture_grid import PictureGrid
from .plot import Plot
from .table import Table
from .verdict import Verdict

#: What a section shows under its text.
Block: TypeAlias = "PictureGrid | Table | Plot | Verdict"

BLOCKS = (PictureGrid, Table, Plot, Verdict)


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Its text, and captions, notes and reasons of blocks, are a small part of Markdown:
    ``*emphasis*``, ``**strong emphasis**``, ```code```, ``[links](https://...)``, and in a text
    also paragraphs and lists. HTML in it is shown as it is written. `literal` protects a text that
    comes from elsewhere, such as a prompt. Titles, names and settings are plain text.

    Args:
        title: Its heading.
        text: What is to be read before the blocks.
        blocks: Grids, tables, plots and verdicts, in this order.
        anchor: The end of its address, ``page.html#anchor``: letters, digits, dots and hyphens.
            Default: made from the title.
        source: What it repeats, such as ``"SEG, Table 2"``.
        part: What it has in common with the sections beside it, a heading over them.

    Raises:
        TypeError: If a block is something else.
        ValueError: If the title is empty or the anchor has other characters.
    """

    title: str
    text: str = ""
    blocks: Sequence[Block] = ()
    anchor: str | None = None
    source: str | None = None
    part: str | None = None

    def __post_init__(self) -> None:
        if not self.title.strip():
            raise ValueError(f"title={self.title!r}: expected a title for the section")
        for block in self.blocks:
            if not isinstance(block, BLOCKS):
                raise TypeError(
                    f"the section {self.title!r} has the block {block!r}; expected one of "
                    f"{', '.join(cls.__name__ for cls in BLOCKS)}"
                )
        set_field(self, "blocks", tuple(self.blocks))
        anchor = _anchor_of(self.title) if self.anchor is None else self.anchor
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9.-]*", anchor):
            raise ValueError(
                f"anchor={anchor!r}: expected a letter, then letters, digits, dots and hyphens"
            )
        set_field(self, "anchor", anchor)


@dataclass(frozen=True)
class Provenance:
    """What a page was made with, so that it can be made again.

    Args:
        command: The command that made it.
        versions: Packages to their versions.
        hashes: Names of weights, data and settings to their hashes.
        hardware: What it ran on, such as ``{"processor": "...", "cores": "2"}``.
        settings: What else determines the numbers.
        date: When it was made. Without one, the same data give the same bytes on every day.
    """

    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    date: str | None = None


@dataclass(frozen=True)
class Page:
    """All that `write_page` writes into one file.

    Args:
        title: The heading.
        subtitle: A line below it.
        summary: What a reader in a hurry should know; text as in `Section`. All verdicts of the
            page are listed under it.
        sections: The sections, with different anchors.
        provenance: What it was made with.

    Raises:
        ValueError: If the title is empty, or two sections have one anchor.
    """

    title: str
    subtitle: str = ""
    summary: str = ""
    sections: Sequence[Section] = ()
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if not self.title.strip():
            raise ValueError(f"title={self.title!r}: expected a title for the page")
        set_field(self, "sections", tuple(self.sections))
        taken = {"summary": "the summary", "provenance": "the provenance"}
        for section in self.sections:
            anchor = str(section.anchor)
            if anchor in taken:
                raise ValueError(
                    f"{taken[anchor]} and the section {section.title!r} both have the anchor "
                    f"{anchor!r}; expected different ones"
                )
            taken[anchor] = f"the section {section.title!r}"


def _anchor_of(title: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return words if words[:1].isalpha() else f"section-{words}".rstrip("-")
