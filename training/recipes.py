"""The two recipes: one code base, two configurations."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Everything that differs between training on two processor cores and on one GPU.

    Attributes:
        image_size: Pixels a side; latents have a quarter of it.
        autoencoder_channels: Widths of the autoencoder's three levels.
        autoencoder_layers: Residual blocks in each of its levels.
        autoencoder_batch: Images in one of its steps.
        autoencoder_rate: Its peak learning rate.
        channels: Widths of the U-Net's two levels.
        layers_per_block: Residual blocks in each level of the U-Net's down path.
        down_layers: Transformer layers after each residual block of the lower level, down path.
            (Of the nested tuple that diffusers takes, the first entry is also the middle's depth.)
        up_layers: The same for the up path.
        upper_layers: Transformer layers after each residual block of the upper level; 0 is none.
        heads: Attention heads in the lower level.
        text_width: Width of the text encoder.
        text_layers: Its layers; the U-Net reads the last but one, as in SDXL.
        batch: Portraits in one step of diffusion training.
        learning_rate: Peak learning rate of diffusion training.
        ema: Decay of the averaged weights, per step.
        control_rate: Peak learning rate of the ControlNet.
    """

    image_size: int
    autoencoder_channels: tuple[int, int, int]
    autoencoder_layers: int
    autoencoder_batch: int
    autoencoder_rate: float
    channels: tuple[int, int]
    layers_per_block: int
    down_layers: tuple[int, ...]
    up_layers: tuple[int, ...]
    heads: int
    text_width: int
    text_layers: int
    batch: int
    learning_rate: float
    ema: float
    control_rate: float
    upper_layers: int = 0


RECIPES: dict[str, Recipe] = {
    "cpu": Recipe(
        image_size=96,
        autoencoder_channels=(24, 48, 96),
        autoencoder_layers=1,
        autoencoder_batch=16,
        autoencoder_rate=1.5e-3,
        channels=(32, 128),
        layers_per_block=1,
        down_layers=(4,),
        up_layers=(2, 2),
        heads=4,
        text_width=128,
        text_layers=2,
        batch=32,
        learning_rate=7e-4,
        ema=0.998,
        control_rate=5e-4,
    ),
    "gpu": Recipe(
        image_size=128,
        autoencoder_channels=(64, 128, 192),
        autoencoder_layers=1,
        autoencoder_batch=168,
        autoencoder_rate=1e-3,
        channels=(128, 192),
        layers_per_block=1,
        down_layers=(8,),
        up_layers=(1, 1),
        heads=3,
        text_width=256,
        text_layers=4,
        batch=512,
        learning_rate=6e-4,
        ema=0.9995,
        control_rate=3e-4,
    ),
}
#: The model of two cores, trained on with the batches of a GPU.
RECIPES["cpu-on-gpu"] = replace(
    RECIPES["cpu"], batch=512, learning_rate=1e-3, ema=0.9995, autoencoder_batch=96
)
