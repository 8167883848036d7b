"""A node that lists the layers of a model."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from smoothed_energy.integrations.comfyui.guide import layers_of

from .settings import CATEGORY, model


class SmoothedEnergyLayers(io.ComfyNode):
    """The self-attention layers of a model, by the codes that select them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs and outputs."""
        return io.Schema(
            node_id="SmoothedEnergyLayers",
            display_name="Guidance Layers",
            category=CATEGORY,
            description="The self-attention layers of a model, a line each: codes, part and name.",
            inputs=[model()],
            outputs=[io.String.Output(display_name="text")],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        """The list."""
        rows = [
            f"{layer.code}  {layer.dotted}  {layer.part}  {layer.heads} heads  {layer.name}"
            for layer in layers_of(model)
        ]
        return io.NodeOutput("\n".join(rows))
