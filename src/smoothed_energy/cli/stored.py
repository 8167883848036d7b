"""What an image may remember of a run: the names of its settings and the kinds of their values."""

from __future__ import annotations

__all__ = ["check_stored"]

from collections.abc import Callable, Mapping
from typing import Any


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, list) and len(value) == 2 else [0]
    return all(_is_integer(side) and side > 0 and side % 8 == 0 for side in sides)


_TEXT = (_is_text, "a text")
_TEXT_OR_NONE = (_is_text_or_none, "a text or None")
_NUMBER = (_is_number, "a number")
_COUNT = (lambda value: _is_integer(value) and value >= 1, "an integer >= 1")

#: Whether a JSON value is what a setting can be, and what that is called.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": _TEXT,
    "prompt": _TEXT,
    "negative_prompt": _TEXT,
    "method": _TEXT,
    "blur": _TEXT_OR_NONE,
    "scale": (lambda value: _is_number(value) or _is_text(value), "a number or a text"),
    "layers": _TEXT_OR_NONE,
    "steps": _TEXT,
    "formulation": _TEXT_OR_NONE,
    "stack": (
        lambda value: isinstance(value, list) and all(map(_is_text, value)),
        "a list of texts",
    ),
    "cfg": _NUMBER,
    "num_inference_steps": _COUNT,
    "seed": (lambda value: _is_integer(value) and value >= 0, "an integer >= 0"),
    "count": _COUNT,
    "size": (
        lambda value: value is None or _is_size(value),
        "None or a list of height and width, multiples of 8",
    ),
    "compare": (lambda value: isinstance(value, bool), "True or False"),
    "dtype": _TEXT,
    "control": _TEXT_OR_NONE,
    "canny": _TEXT_OR_NONE,
    "controlnet": _TEXT_OR_NONE,
    "control_scale": _NUMBER,
}


def check_stored(stored: Mapping[str, Any]) -> None:
    """Refuse what an image remembers if it is not what this program writes.

    Raises:
        ValueError: If a setting is unknown, or its value is of another kind.
    """
    for name, value in stored.items():
        if name not in _KINDS:
            raise ValueError(f"--from: the image has an unknown setting {name!r}")
        is_of_kind, kind = _KINDS[name]
        if not is_of_kind(value):
            raise ValueError(
                f"--from: the image's setting {name}={value!r} cannot be read; expected {kind}"
            )
