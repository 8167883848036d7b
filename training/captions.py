"""Captions from a portrait's attributes, in several phrasings, each true of the drawing."""

from __future__ import annotations

import random
from collections.abc import Mapping

from .styles import BACKGROUNDS, STYLES, Style

__all__ = ["caption", "describe"]


def _color_name(value: object, palette: Mapping[str, str]) -> str:
    """The name of a colour as DiceBear reports it (``"#a4d6f7"``)."""
    names = {code: name for name, code in palette.items()}
    return names[str(value).removeprefix("#").lower()]


def describe(style: Style, attributes: Mapping[str, object]) -> dict[str, str]:
    """The phrase for each attribute of a drawing that has one.

    Args:
        style: The drawing's style.
        attributes: DiceBear's report of what it drew (``toJson().extra``).

    Returns:
        Phrases by attribute, for instance ``{"hair": "a red mohawk", "eyes": "glasses"}``, with
        the background under ``"background"`` and the skin under ``"skin"``.
    """
    phrases: dict[str, str] = {}
    for attribute, values in style.phrases.items():
        drawn = attributes.get(attribute)
        phrase = values.get(str(drawn), "") if drawn is not None else ""
        if not phrase:
            continue
        if "{}" in phrase:
            key = style.colored_by[attribute]
            phrase = phrase.format(_color_name(attributes[key], style.colors[key]))
        phrases[attribute] = phrase
    skin = _color_name(attributes[style.skin], style.colors[style.skin])
    phrases["skin"] = f"{skin} skin"
    background = attributes["primaryBackgroundColor"]
    phrases["background"] = f"a {_color_name(background, BACKGROUNDS)} background".replace(
        "a orange", "an orange"
    )
    return {k: v.replace("a orange", "an orange") for k, v in phrases.items()}


def _join(parts: list[str]) -> str:
    """``["a", "b", "c"]`` to ``"a, b and c"``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def caption(
    style_name: str,
    attributes: Mapping[str, object],
    rng: random.Random,
    *,
    keep: float = 0.75,
) -> str:
    """A caption of a drawing: a random part of its attributes, in a random phrasing.

    Args:
        style_name: DiceBear's name of the style.
        attributes: DiceBear's report of what it drew.
        rng: Source of the choices; the same state gives the same caption.
        keep: Probability with which each attribute is spoken of.

    Returns:
        Lower-case English text.
    """
    style = STYLES[style_name]
    phrases = describe(style, attributes)
    kept = {k: v for k, v in phrases.items() if rng.random() < (keep if k != "skin" else keep / 2)}
    background = kept.pop("background", "")
    worn = [v for k, v in kept.items() if k in style.worn]
    features = [v for k, v in kept.items() if k not in style.worn]
    rng.shuffle(features)
    named = f"a {style.word} portrait" if rng.random() < 0.8 else "a portrait"
    phrasing = rng.randrange(4)
    if phrasing == 0:  # A full sentence.
        text = named
        if features:
            text += f" of someone with {_join(features)}"
        if worn:
            text += f" wearing {worn[0]}" if features else f" of someone wearing {worn[0]}"
        return f"{text}, on {background}" if background else text
    if phrasing == 1:  # Tags, the style first.
        tags = [named.removeprefix("a "), *features, *worn]
        tags = [_without_article(t) for t in tags] + [_without_article(background)]
        return ", ".join(t for t in tags if t)
    if phrasing == 2:  # A person, the style unsaid.
        text = "someone"
        if features:
            text += f" with {_join(features)}"
        if worn:
            text += f" wearing {worn[0]}"
        return f"{text}, {background}" if background else text
    tags = [_without_article(t) for t in [*features, *worn, background] if t]  # Tags only.
    rng.shuffle(tags)
    return ", ".join(tags) if tags else named


def _without_article(text: str) -> str:
    return text.removeprefix("a ").removeprefix("an ")
