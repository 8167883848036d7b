"""Attributes of drawn portraits: their vocabulary, and which of them a caption names."""

from __future__ import annotations

__all__ = ["NONE", "AttributeVocabulary", "NamedAttributes"]

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

#: The value of an attribute of which nothing can be said: it is absent, or has no word.
NONE: Final = ""

#: What a phrase has where its colour goes.
_COLOR: Final = "{}"

#: The attribute whose values are drawing styles, and what follows them in a caption.
_STYLE: Final = "style"
_PORTRAIT: Final = "portrait"

#: Words of captions that name nothing.
_FILLERS: Final = frozenset(
    {"a", "an", "and", "image", "in", "is", "of", "on", "picture", "portrait", "someone"}
    | {"style", "the", "wearing", "with"}
)

_WORDS: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")

#: Words, and the punctuation that no phrase reaches across.
_TOKENS: Final = re.compile(rf"{_WORDS.pattern}|[,.;:!?]")


@dataclass(frozen=True)
class NamedAttributes:
    """What a caption names.

    Attributes:
        values: Attributes to the values that the caption gives them, in the order in which it names
            them. Of an attribute that is named twice, the last value counts.
        unknown: Words that belong to no phrase of the vocabulary, and are no fillers.
    """

    values: Mapping[str, str]
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class AttributeVocabulary:
    """The attributes that captions have words for, and the values of each.

    A value is a phrase as a caption has it, with its article, and with ``{}`` where a colour goes:
    ``"a {} mohawk"``. The colour is an attribute of its own. Each phrase belongs to one attribute,
    whatever the style: what a caption names can be told without knowing its style.

    Args:
        values: Attributes to their values, in the order of the classifier's outputs. `NONE` stands
            for all that is not named.
        colors: Attributes whose phrases have a colour, to the attribute of that colour.

    Raises:
        ValueError: If a phrase belongs to two attributes, or a colour's attribute is missing.
    """

    values: Mapping[str, Sequence[str]]
    colors: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        owners: dict[str, str] = {}
        for attribute, values in self.values.items():
            if len(set(values)) != len(values):
                raise ValueError(f"{attribute} has a value twice: {', '.join(map(repr, values))}")
            for value in set(values) - {NONE}:
                if attribute in self.colors.values():
                    continue  # red may be a colour of hair and of clothing
                if value in owners:
                    raise ValueError(f"{value!r} belongs to {owners[value]} and to {attribute}")
                owners[value] = attribute
                if _COLOR in value and attribute not in self.colors:
                    raise ValueError(f"{value!r} of {attribute} has a colour that has no attribute")
        for attribute, color in self.colors.items():
            if attribute not in self.values or color not in self.values:
                raise ValueError(
                    f"{attribute} is coloured by {color}; expected two of {', '.join(self.values)}"
                )

    def parse(self, caption: str) -> NamedAttributes:
        """The attributes that a caption names.

        The phrases are searched from left to right, the longest first, with or without their
        articles. "purple hair" alone, without a shape, names the colour of the hair.

        Args:
            caption: A caption or a prompt; case and punctuation do not matter.
        """
        words = _TOKENS.findall(caption.lower())
        found: dict[str, str] = {}
        unknown: list[str] = []
        at = 0
        while at < len(words):
            for length in range(min(self._longest, len(words) - at), 0, -1):
                named = self._phrases.get(tuple(words[at : at + length]))
                if named is not None:
                    # A value named later counts, and takes its later place in the order.
                    for attribute in named:
                        found.pop(attribute, None)
                    found.update(named)
                    at += length
                    break
            else:
                if words[at] not in _FILLERS and words[at][0].isalnum():
                    unknown.append(words[at])
                at += 1
        return NamedAttributes(found, tuple(unknown))

    @cached_property
    def _phrases(self) -> dict[tuple[str, ...], dict[str, str]]:
        """The words of every phrase, in all colours, to the values that it names."""
        phrases: dict[tuple[str, ...], dict[str, str]] = {}
        for attribute, values in self.values.items():
            if attribute in self.colors.values():
                continue
            for value in set(values) - {NONE}:
                if _COLOR not in value:
                    words = _bare(value)
                    phrases[(*words, _PORTRAIT) if attribute == _STYLE else words] = {
                        attribute: value
                    }
        for attribute, color_attribute in self.colors.items():
            for color in self.values[color_attribute]:
                named = {} if color == NONE else {color_attribute: color}
                for value in self.values[attribute]:
                    if _COLOR in value:  # what is said without a colour may be a phrase of its own
                        words = _bare(value.replace(_COLOR, color))
                        phrases.setdefault(words, {attribute: value, **named})
                if named:  # "purple hair"
                    phrases.setdefault((*_bare(color), *_bare(attribute)), named)
        return phrases

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._phrases), default=0)

    def to_json(self) -> dict[str, Any]:
        """The vocabulary as JSON values."""
        return {
            "values": {attribute: list(values) for attribute, values in self.values.items()},
            "colors": dict(self.colors),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> AttributeVocabulary:
        """The vocabulary that `to_json` gave."""
        values = {attribute: tuple(values) for attribute, values in stored["values"].items()}
        return cls(values, dict(stored["colors"]))


def _bare(phrase: str) -> tuple[str, ...]:
    """The words of a phrase without its article."""
    words = tuple(_WORDS.findall(phrase.lower()))
    return words[1:] if words[:1] in {("a",), ("an",)} else words
