"""Settings as text: a name and its settings, separated by semicolons."""

from __future__ import annotations

__all__ = ["join_settings", "split_settings"]

import json
import re
from collections.abc import Mapping

# A name, and a value that ends at the next semicolon or is a JSON string.
_SETTING = re.compile(r'\s*([^=;\s][^=;]*?)\s*=\s*("(?:[^"\\]|\\.)*"|[^";\s][^;]*?)\s*(;|\Z)')


def split_settings(text: str) -> tuple[str, dict[str, bool | float | str]]:
    """The name and the settings of a text such as `"pag; scale=2; layers=mid"`.

    Values are numbers, `True` and `False`, and texts. A text in double quotes may be anything, as
    in JSON: `weak="2024"` is no number.

    Raises:
        ValueError: If a part is not `name=value`, or a name comes twice.
    """
    name, more, rest = text.partition(";")
    settings: dict[str, bool | float | str] = {}
    while more:
        match = _SETTING.match(rest)
        try:
            if match is None:
                raise ValueError
            key, value, more = match.groups()
            read = _read(value)
        except ValueError:
            part = rest.partition(";")[0].strip()
            raise ValueError(
                f"{part!r} in {text!r} is not a setting; expected name=value"
            ) from None
        if key in settings:
            raise ValueError(f"{key!r} is set twice in {text!r}")
        settings[key] = read
        rest = rest[match.end() :]
    return name.strip(), settings


def join_settings(name: str, settings: Mapping[str, object]) -> str:
    """The text that `split_settings` reads."""
    return "; ".join([name, *(f"{key}={_written(value)}" for key, value in settings.items())])


def _read(value: str) -> bool | float | str:
    if value.startswith('"'):
        return str(json.loads(value))
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
    plain = _SETTING.fullmatch(f"x={value}")
    if plain and plain[2] == value and not value.startswith('"') and _read(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)
