"""The nodes of this pack, as ComfyUI asks for them."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from .layer_node import SmoothedEnergyLayers
from .method_nodes import METHOD_NODES
from .schedule_nodes import SCHEDULE_NODES
from .text_node import SmoothedEnergyText

#: All nodes, in the order of the menu.
NODES: list[type[io.ComfyNode]] = [
    *METHOD_NODES,
    SmoothedEnergyText,
    *SCHEDULE_NODES,
    SmoothedEnergyLayers,
]


class SmoothedEnergyExtension(ComfyExtension):
    """The pack."""

    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> SmoothedEnergyExtension:
    """What ComfyUI calls when it loads the pack."""
    return SmoothedEnergyExtension()
