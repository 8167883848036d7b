"""Operators as text and as JSON values: a kind, and parameters by name.

The text is `kind:value,name=value,...`, such as `"gaussian:10"` or `"box:31,alpha=0.9"`. Kinds and
names are case-insensitive, the first value may be named or not, and operators joined by `" then "`
are applied in this order.
"""

from __future__ import annotations

__all__ = [
    "FORMS",
    "Parameter",
    "number_text",
    "read_json",
    "read_text",
    "write_json",
    "write_text",
]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FORMS = (
    '"gaussian:10"',
    '"gaussian:inf"',
    '"gaussian:sigma=10,kernel=31,padding=symmetric"',
    '"box:31,alpha=0.9"',
    '"ema:0.95"',
    '"ema:0.95,end=0.5,ramp=cosine"',
    'several joined by " then "',
)
"""Examples of valid texts, which the errors list."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of an operator in its text.

    Args:
        field: The parameter's name in the constructor and in JSON; the text may use it too.
        read: What makes its value of a text: `float`, `int` or `str`.
        short: Its name in the text; by default the same.
    """

    field: str
    read: type[float | int | str]
    short: str = ""

    @property
    def name(self) -> str:
        """The parameter's name in the text."""
        return self.short or self.field


def read_text(
    text: str, kinds: Mapping[str, Sequence[Parameter]]
) -> list[tuple[str, dict[str, Any]]]:
    """The kind and the values by field of each operator in a text.

    Args:
        text: One operator, or several joined by `" then "`.
        kinds: The parameters of each kind.

    Raises:
        ValueError: If the text has no valid form; the message lists the forms.
    """
    operators = []
    for part in text.lower().split(" then "):
        kind, _, arguments = part.strip().partition(":")
        kind = kind.strip()
        if kind not in kinds:
            raise ValueError(f"unknown smoothing {text!r}; valid forms are {', '.join(FORMS)}")
        operators.append((kind, _read_arguments(arguments, kind, kinds[kind], text)))
    return operators


def _read_arguments(
    arguments: str, kind: str, parameters: Sequence[Parameter], text: str
) -> dict[str, Any]:
    """The values by field in what follows the kind."""
    known = {name: one for one in parameters for name in (one.field, one.name)}
    values: dict[str, Any] = {}
    for position, argument in enumerate(arguments.split(",")):
        name, equals, value = (piece.strip() for piece in argument.rpartition("="))
        if not equals and position == 0:
            name = parameters[0].name
        parameter = known.get(name)
        if parameter is None or parameter.field in values:
            raise ValueError(
                f"cannot read {argument.strip()!r} in smoothing {text!r}: {kind} takes "
                f"{', '.join(one.name for one in parameters)}, each once; "
                f"valid forms are {', '.join(FORMS)}"
            )
        try:
            values[parameter.field] = parameter.read(value)
        except ValueError:
            expected = "an integer" if parameter.read is int else "a number"
            raise ValueError(
                f"{value!r} is not {expected}, for {parameter.field} in smoothing {text!r}; "
                f"valid forms are {', '.join(FORMS)}"
            ) from None
    return values


def write_text(
    kind: str, parameters: Sequence[Parameter], values: Mapping[str, object], name_first: bool
) -> str:
    """The text that `read_text` reads.

    Args:
        kind: The operator's kind.
        parameters: Its parameters.
        values: The values to write by field; the first parameter is always among them.
        name_first: Whether to name the first parameter too where there are others.
    """
    first, *rest = [
        (one.name, number_text(values[one.field])) for one in parameters if one.field in values
    ]
    head = "=".join(first) if rest and name_first else first[1]
    return ",".join([f"{kind}:{head}", *("=".join(pair) for pair in rest)])


def read_json(
    kind: str, parameters: Sequence[Parameter], values: Mapping[str, object]
) -> dict[str, Any]:
    """The values by field of an operator's JSON form without its kind.

    Raises:
        ValueError: If the first parameter is missing, or one is unknown.
    """
    known = [parameter.field for parameter in parameters]
    if known[0] not in values:
        raise ValueError(f"{kind} smoothing needs the parameter {known[0]!r}")
    for name in values:
        if name not in known:
            raise ValueError(
                f"{kind} smoothing has no parameter {name!r}; it has {', '.join(known)}"
            )
    return {name: math.inf if value == "inf" else value for name, value in values.items()}


def write_json(kind: str, values: Mapping[str, object]) -> dict[str, Any]:
    """The kind and the values; infinity, which JSON lacks, is the text `"inf"`."""
    return {
        "kind": kind,
        **{name: "inf" if value == math.inf else value for name, value in values.items()},
    }


def number_text(value: object) -> str:
    """The shortest text that reads back as the same value: 10.0 -> "10"."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)
