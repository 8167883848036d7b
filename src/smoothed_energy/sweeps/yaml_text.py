"""YAML in which a text is read as what it looks like, and a key that comes twice is refused.

PyYAML follows YAML 1.1, where `0:0.33` is the number 0.33 (base 60), `010` is 8, `on` is true and
`1e-3` is a text. The first would change the steps of a guidance without a word, so scalars are read
by the rules of YAML 1.2 instead.
"""

from __future__ import annotations

__all__ = ["read_yaml"]

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """The loader, with resolvers and constructors of its own."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is not a text or a number", key.start_mark
                )
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} comes twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_DEEPEST, _MOST_VALUES, _MOST_DIGITS = 30, 1_000_000, 400


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    if len(text) > _MOST_DIGITS:
        raise yaml.constructor.ConstructorError(
            None, None, f"a number has {len(text)} digits", node.start_mark
        )
    return int(text)


_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|"
        r"\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
)
for _tag, _form, _first in _SCALARS:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_form})\\Z"), list(_first)
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def _check_size(value: Any) -> None:
    """Refuse what refers to itself, or many times to what is large: a few lines can hold billions.

    Raises:
        ValueError: If it does.
    """
    count, level = 0, [value]
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
            if count + len(inner) > _MOST_VALUES:
                raise ValueError(f"it holds more than {_MOST_VALUES} values")
        count, level = count + len(inner), inner
        if not level:
            return
    raise ValueError(f"it is nested more than {_DEEPEST} levels deep, or holds itself")


def read_yaml(text: str) -> Any:
    """The value of a YAML document.

    Args:
        text: The document.

    Raises:
        ValueError: If it is not YAML, a key comes twice (the message names the line), or it has no
            bounds.
    """
    try:
        value = yaml.load(text, Loader=_Loader)
        _check_size(value)
        return value
    except RecursionError:
        raise ValueError("it is nested too deeply to be read") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise ValueError(f"{where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
