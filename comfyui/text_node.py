"""A node for any guidance, by its text."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from smoothed_energy.integrations.comfyui.guide import guide

from .settings import CATEGORY, model


class SmoothedEnergyText(io.ComfyNode):
    """Guidances by their texts, one a line."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs and outputs."""
        return io.Schema(
            node_id="SmoothedEnergyText",
            display_name="Guidance from Text",
            category=CATEGORY,
            description="Guidances as the command line and pictures of smoothed-energy have them.",
            inputs=[
                model(),
                io.String.Input(
                    "text",
                    default="seg; scale=3; layers=mid",
                    multiline=True,
                    tooltip="A method and its settings, such as pag; scale=2; layers=d5. One a "
                    "line; they add up.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The guided model.")],
        )

    @classmethod
    def execute(cls, model: Any, text: str) -> io.NodeOutput:
        """The guided model."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return io.NodeOutput(guide(model, lines) if lines else model)
