"""The family of U-Nets that attend over time after every transformer: ModelScope, Zeroscope."""

from __future__ import annotations

__all__ = ["UNet3D"]

from typing import ClassVar

from .animatediff import AnimateDiff


class UNet3D(AnimateDiff):
    """Transformers within frames, each before one over time (``t``); the first of those alone."""

    name: ClassVar[str] = "U-Net over time"
    denoisers: ClassVar[tuple[str, ...]] = ("UNet3DConditionModel", "I2VGenXLUNet")
    motion: ClassVar[tuple[str, ...]] = ("temp_attentions.", "transformer_in.")
    folded: ClassVar[frozenset[str]] = frozenset()
    # Of the picture that I2VGen-XL is given.
    tied_to_size: ClassVar[tuple[str, ...]] = (*AnimateDiff.tied_to_size, "image_latents")
