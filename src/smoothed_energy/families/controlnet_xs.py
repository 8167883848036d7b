"""The family of ControlNet-XS: a U-Net and its small ControlNet as one denoiser."""

from __future__ import annotations

__all__ = ["ControlNetXS"]

from typing import Any, ClassVar

from typing_extensions import override

from .unet import UNet


class ControlNetXS(UNet):
    """The layers of the U-Net, as without control; the ControlNet's own attention stays."""

    name: ClassVar[str] = "ControlNet-XS"
    denoisers: ClassVar[tuple[str, ...]] = ("UNetControlNetXSModel",)
    cfg_of_call: ClassVar[bool] = True
    scale_of_call: ClassVar[bool] = True
    tied_to_size: ClassVar[tuple[str, ...]] = ("controlnet_cond",)

    @override
    def is_layer(self, name: str, module: Any) -> bool:
        return ".ctrl_" not in name and super().is_layer(name, module)
