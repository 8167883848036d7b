"""Nodes that write when a guidance acts, how strongly, and when its second pass is made anew."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from smoothed_energy.schedule import as_refresh, as_scale, as_steps

from .settings import CATEGORY, choice, count, number

_GROUP = f"{CATEGORY}/schedules"


class SmoothedEnergySteps(io.ComfyNode):
    """Which steps are guided."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs and outputs."""
        return io.Schema(
            node_id="SmoothedEnergySteps",
            display_name="Guided Steps",
            category=_GROUP,
            description="Which steps are guided: by the part of the run, or by noise level.",
            inputs=[
                choice("by", ["part of the run", "noise level"], "What first and last mean."),
                number("first", 0.0, 0, 10000, "The lower end: of the run, or of the noise."),
                number("last", 1.0, 0, 10000, "The upper end."),
                count("every", 1, 1, 100, "Only every n-th of these steps."),
            ],
            outputs=[io.String.Output(display_name="steps")],
        )

    @classmethod
    def execute(cls, by: str, first: float, last: float, every: int) -> io.NodeOutput:
        """The text of the steps."""
        kind = "sigma:" if by == "noise level" else ""
        text = f"{kind}{first:g}:{last:g}"
        return io.NodeOutput(str(as_steps(f"{text}&every:{every}" if every > 1 else text)))


class SmoothedEnergyScale(io.ComfyNode):
    """A scale that changes over the steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs and outputs."""
        return io.Schema(
            node_id="SmoothedEnergyScale",
            display_name="Scale Schedule",
            category=_GROUP,
            description="A scale from one value at the first step to another at the last.",
            inputs=[
                choice("form", ["linear", "cosine"], "How it goes from one to the other."),
                number("start", 3.0, -1, 100, "At the first step."),
                number("stop", 0.0, -1, 100, "At the last step."),
            ],
            outputs=[io.String.Output(display_name="scale_schedule")],
        )

    @classmethod
    def execute(cls, form: str, start: float, stop: float) -> io.NodeOutput:
        """The text of the scale."""
        return io.NodeOutput(str(as_scale(f"{form}:{start:g}:{stop:g}")))


class SmoothedEnergyRefresh(io.ComfyNode):
    """Which guided steps have a second pass."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs and outputs."""
        return io.Schema(
            node_id="SmoothedEnergyRefresh",
            display_name="Refresh Schedule",
            category=_GROUP,
            description=(
                "Which guided steps have a second pass. At the others the last difference is used, "
                "or goes on as it went, which saves most of the time."
            ),
            inputs=[
                choice(
                    "form",
                    ["early", "every", "drift"],
                    "early: so many passes, most of them early; every: each n-th step; drift: "
                    "where the prediction has moved by that share.",
                ),
                number("value", 9.0, 0.01, 1000, "Passes, steps, or the share."),
                number("extrapolate", 0.8, 0, 1, "How far differences go on in between."),
            ],
            outputs=[io.String.Output(display_name="refresh")],
        )

    @classmethod
    def execute(cls, form: str, value: float, extrapolate: float) -> io.NodeOutput:
        """The text of the schedule."""
        number: Any = value if form == "drift" else round(value)
        return io.NodeOutput(str(as_refresh(f"{form}:{number},extrapolate={extrapolate:g}")))


SCHEDULE_NODES: list[type[io.ComfyNode]] = [
    SmoothedEnergySteps,
    SmoothedEnergyScale,
    SmoothedEnergyRefresh,
]
