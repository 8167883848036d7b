"""Settings of nodes: the inputs that several of them share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

#: Where nodes are in the menu.
CATEGORY = "smoothed energy"


def number(
    name: str, default: float, low: float, high: float, tip: str, *, step: float = 0.01
) -> io.Float.Input:
    """A number."""
    return io.Float.Input(name, default=default, min=low, max=high, step=step, tooltip=tip)


def count(name: str, default: int, low: int, high: int, tip: str) -> io.Int.Input:
    """A whole number."""
    return io.Int.Input(name, default=default, min=low, max=high, tooltip=tip)


def choice(name: str, options: list[str], tip: str) -> io.Combo.Input:
    """One of some words, by default the first."""
    return io.Combo.Input(name, options=options, default=options[0], tooltip=tip)


def text(name: str, default: str, tip: str) -> io.String.Input:
    """A text."""
    return io.String.Input(name, default=default, tooltip=tip)


def model() -> io.Model.Input:
    """The model that is guided."""
    return io.Model.Input("model", tooltip="The model to guide. It stays as it is.")


def scale(default: float) -> io.Float.Input:
    """How strongly a guidance acts."""
    return number("scale", default, -1, 100, "How strongly it acts. 0 is off.")


def layers(default: str) -> io.String.Input:
    """Which layers are perturbed."""
    return text(
        "layers",
        default,
        "The perturbed layers: down, mid, up, all, or codes such as d5, d2.1, u0-u3. The node "
        "Guidance Layers lists those of a model.",
    )


def steps(default: str = "all") -> io.String.Input:
    """Which steps are guided."""
    return text(
        "steps",
        default,
        "The guided steps: all, fractions such as 0:0.5, noise levels such as sigma:0.5:5. The "
        "node Guided Steps writes this.",
    )


def negative_settings(formulation: str = "conditional") -> list[Any]:
    """What all methods with a perturbed prediction share.

    Args:
        formulation: The branch that is perturbed unless told otherwise.
    """
    both = ["conditional", "unconditional"]
    return [
        steps(),
        text(
            "refresh",
            "every:1",
            "Which guided steps have a second pass: every:2, early:9, drift:0.15. In between the "
            "last difference is used. The node Refresh Schedule writes this.",
        ),
        text(
            "scale_schedule",
            "",
            "A scale that changes over the steps, in place of the scale: linear:3:0, cosine:3:0, "
            "table:3:3:1. The node Scale Schedule writes this.",
        ),
        text(
            "combine",
            "",
            "How the correction is combined with CFG: empty adds it; rescale:0.7, project, fuse.",
        ),
        choice(
            "formulation",
            sorted(both, key=lambda one: one != formulation),
            "Which prediction is perturbed: that of the positive prompt, or of the negative one.",
        ),
    ]
