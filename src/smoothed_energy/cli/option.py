"""Options of a command as fields of a dataclass: help, default and kind of value in one place.

Typer reads a command's options from the signature of a function; `option_signature` builds it.
"""

from __future__ import annotations

__all__ = ["ByModel", "Option", "option_signature", "options_of", "settings_of"]

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from .setting_kinds import Kind, check_texts

_Settings = TypeVar("_Settings")


class ByModel:
    """A default that depends on the model.

    Args:
        other: The default for models that are not named.
        named: The defaults for the models of these names.
    """

    def __init__(self, other: Any, **named: Any) -> None:
        self._other = other
        self._named = named

    def __getitem__(self, model: str) -> Any:
        return self._named.get(model, self._other)

    def __str__(self) -> str:
        told = [f"{value} for {model}" for model, value in self._named.items()]
        return ", ".join(told if self._other is None else [*told, f"else {self._other}"])


@dataclass(frozen=True)
class Option:
    """What the command line knows of a setting.

    Args:
        kind: The kind of its values.
        description: What it is, for the help.
        default: Its value if neither the command line nor an image tells one, maybe a `ByModel`.
        default_words: How the help tells the default if not as it is written.
        group: What it is a setting of, a box of the help.
        flags: Its spellings if they are not made from its name.
        metavar: How the help names its value if not by its type.
        is_argument: Whether it is given by its place on the command line, without a name.
        is_remembered: Whether an image remembers it.
        is_of_method: Whether it is a setting of the guidance of ``--method``.
    """

    kind: Kind
    description: str
    default: Any = None
    default_words: str | None = None
    group: str | None = None
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    is_argument: bool = False
    is_remembered: bool = True
    is_of_method: bool = False

    def flag(self, name: str) -> str:
        """How a message names it, for the name of its field."""
        if self.is_argument:
            return name.upper()
        return self.flags[0] if self.flags else f"--{name.replace('_', '-')}"

    def default_for(self, model: str) -> Any:
        """The default for a model."""
        return self.default[model] if isinstance(self.default, ByModel) else self.default

    def parameter(self, name: str) -> inspect.Parameter:
        """The parameter from which Typer makes the option.

        It is None if the option is left out, so that what an image remembers can take its place.
        Typer is told the default, and shows it, if there are no words for it and no image
        remembers the setting.
        """
        knows_default = not self.is_remembered and not self._default_in_words
        default = self.default if knows_default else None
        annotation: Any = self.kind.option_type
        if default is None:
            annotation = annotation | None
        return inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[annotation, self._for_typer()],
        )

    def _for_typer(self) -> Any:
        words = self._default_in_words
        told = f"{self.description} Default: {words}." if words else self.description
        if self.is_argument:
            return typer.Argument(help=told, rich_help_panel=self.group)
        return typer.Option(
            *self.flags,
            help=told,
            metavar=self.metavar,
            min=self.kind.least,
            rich_help_panel=self.group,
        )

    @property
    def _default_in_words(self) -> str:
        """The default as the help shows it; nothing for a default that is empty."""
        if self.default_words is not None:
            return self.default_words
        is_nothing = self.default is None or self.default is False or self.default in ("", ())
        return "" if is_nothing else str(self.default)


def options_of(settings: type) -> Mapping[str, Option]:
    """The options of a dataclass, by the names of its fields.

    Args:
        settings: The class; its fields are annotated as `Annotated[type, Option(...)]`.
    """
    annotations = get_type_hints(settings, include_extras=True)
    return {item.name: annotations[item.name].__metadata__[0] for item in fields(settings)}


def settings_of(settings: type[_Settings], options: Mapping[str, Any]) -> _Settings:
    """The settings that Typer read, and the defaults of those that were left out.

    Args:
        settings: Their class, whose defaults don't depend on a model.
        options: What Typer read; None where an option was left out.

    Raises:
        ValueError: If one is no text.
    """
    values: dict[str, Any] = {}
    for name, option in options_of(settings).items():
        check_texts(option.flag(name), options[name])
        values[name] = option.default if options[name] is None else options[name]
    return settings(**values)


def option_signature(settings: type) -> inspect.Signature:
    """The signature of a function whose keyword arguments are the options of a dataclass."""
    options = options_of(settings)
    return inspect.Signature([option.parameter(name) for name, option in options.items()])
