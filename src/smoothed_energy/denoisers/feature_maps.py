"""The sizes of the feature maps that a U-Net turns into tokens, seen as they enter.

A layer sees a row of tokens. How many they are does not tell how they lie: other packages shrink
feature maps inside of blocks, merge tokens, or attend in tiles.
"""

from __future__ import annotations

__all__ = ["FeatureMaps"]

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..intercept.module_call import ModuleCall


class FeatureMaps:
    """Height and width of the feature maps of layers, in one pass of a denoiser.

    Args:
        entered: The modules that feature maps enter, and the names of the layers inside.

    Attributes:
        sizes: What was seen so far, by layer; None of a layer that no map entered.
    """

    def __init__(self, *entered: Mapping[nn.Module, Sequence[str]]) -> None:
        self._entered: dict[nn.Module, list[str]] = {}
        for modules in entered:
            for module, names in modules.items():
                self._entered.setdefault(module, []).extend(names)
        self.sizes: dict[str, tuple[int, int] | None] = {
            name: None for names in self._entered.values() for name in names
        }

    def note(self, call: ModuleCall) -> None:
        """Note what enters a module: `(B, C, H, W)`."""
        names = self._entered.get(call.module)
        if not names:
            return
        value = call.args[0] if call.args else call.argument(call.parameters[0])
        if isinstance(value, Tensor) and value.ndim == 4:
            self.sizes.update(dict.fromkeys(names, (value.shape[-2], value.shape[-1])))
