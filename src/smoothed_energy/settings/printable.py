"""Text as a terminal may show it."""

from __future__ import annotations

__all__ = ["one_line", "printable"]

import unicodedata

#: Control and format characters, halves of surrogate pairs, what has no shape that everybody knows
#: (unassigned, private), and what breaks lines.
_HIDDEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
_MOST = 2000


def printable(text: str) -> str:
    r"""A text in which every character can be seen.

    Control characters could move the cursor, colour or hide what is told, and change the order of
    letters; they are written as Python writes them (`\x1b`).
    """
    if text.isprintable():
        return text
    return "".join(_escaped(char) if _is_hidden(char) else char for char in text)


def one_line(text: str) -> str:
    """A message as one line: white space is one space, and the middle of a long one is cut."""
    line = " ".join(text.split())
    if len(line) > _MOST:
        half = _MOST // 2
        line = f"{line[:half]} ... {line[-half:]}"
    return printable(line)


def _is_hidden(char: str) -> bool:
    return unicodedata.category(char) in _HIDDEN


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
