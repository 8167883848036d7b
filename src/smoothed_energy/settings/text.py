"""Settings as text: a name and its settings, separated by semicolons."""

from __future__ import annotations

__all__ = ["join_settings", "split_settings"]

import json
from collections.abc import Mapping

_JSON = json.JSONDecoder()


def split_settings(text: str) -> tuple[str, dict[str, bool | float | str]]:
    """The name and the settings of a text such as `"pag; scale=2; layers=mid"`.

    Values are numbers, `True` and `False`, and texts. A text in double quotes may be anything, as
    in JSON: `weak="2024"` is no number.

    Raises:
        ValueError: If a part is not `name=value`, or a name comes twice.
    """
    name, more, _ = text.partition(";")
    settings: dict[str, bool | float | str] = {}
    start = len(name) + len(more)
    while more:
        key, equals, _ = text[start : _end(text, start)].partition("=")
        try:
            if not (equals and key.strip()):
                raise ValueError
            value, end = _value_at(text, start + len(key) + 1)
        except ValueError:
            part = text[start:].partition(";")[0].strip()
            raise ValueError(
                f"{part!r} in {text!r} is not a setting; expected name=value"
            ) from None
        if key.strip() in settings:
            raise ValueError(f"{key.strip()!r} is set twice in {text!r}")
        settings[key.strip()] = value
        more, start = text[end : end + 1], end + 1
    return name.strip(), settings


def _value_at(text: str, start: int) -> tuple[bool | float | str, int]:
    """The value that begins at a place of a text, and where the semicolon behind it is, or the end.

    Raises:
        ValueError: If there is none.
    """
    while text[start : start + 1].isspace():
        start += 1
    if text.startswith('"', start):
        value, start = _JSON.raw_decode(text, start)
        end = _end(text, start)
        if text[start:end].strip():
            raise ValueError
        return value, end
    end = _end(text, start)
    if not text[start:end].strip():
        raise ValueError
    return _read(text[start:end].strip()), end


def join_settings(name: str, settings: Mapping[str, object]) -> str:
    """The text that `split_settings` reads."""
    return "; ".join([name, *(f"{key}={_written(value)}" for key, value in settings.items())])


def _end(text: str, start: int) -> int:
    """Where the next semicolon is, or the end."""
    found = text.find(";", start)
    return len(text) if found < 0 else found


def _read(value: str) -> bool | float | str:
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for number in (int, float):  # A float has no room for every integer.
        try:
            return number(value)
        except ValueError:
            pass
    return value


def _written(value: object) -> str:
    if not isinstance(value, str):
        return str(value)
    plain = value and value == value.strip() and value[0] not in '";' and ";" not in value
    return value if plain and _read(value) == value else json.dumps(value, ensure_ascii=False)
