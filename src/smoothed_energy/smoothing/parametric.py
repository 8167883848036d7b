"""Operators with scalar parameters: their representation, text and JSON forms."""

from __future__ import annotations

__all__ = ["Parametric"]

import dataclasses
from typing import Any, ClassVar

from typing_extensions import override

from .operator import Smoothing
from .text import write_json, write_text


class Parametric(Smoothing):
    """An operator that is a dataclass of the numbers and names in its text.

    The first parameter has no default. Only those that differ from their defaults are written.
    """

    name_first: ClassVar[bool] = False
    """Whether the text names the first parameter too where there are others."""

    def _changed(self) -> dict[str, Any]:
        """The first parameter and those that differ from their defaults."""
        first, *rest = dataclasses.fields(self)  # type: ignore[arg-type]
        values = {first.name: getattr(self, first.name)}
        for field in rest:
            value = getattr(self, field.name)
            if value != field.default:
                values[field.name] = value
        return values

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self._changed().items())
        return f"{type(self).__name__}({inside})"

    def __str__(self) -> str:
        return write_text(self.kind, self.parameters, self._changed(), self.name_first)

    @override
    def to_dict(self) -> dict[str, Any]:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return write_json(self.kind, {field.name: getattr(self, field.name) for field in fields})
