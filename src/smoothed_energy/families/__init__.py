"""The kinds of denoisers that guidance works with, an adapter each."""

from .family import Arguments, Family, Setting, Step
from .flux import Flux
from .hunyuan_video import HunyuanVideo
from .pixart import PixArt
from .qwen_image import QwenImage
from .registry import families, family_of, known_parts, register
from .sd3 import StableDiffusion3
from .transformer import Transformer
from .unet import UNet

__all__ = [
    "Arguments",
    "Family",
    "Setting",
    "Step",
    "Transformer",
    "families",
    "family_of",
    "known_parts",
    "register",
]

for _family in (UNet, StableDiffusion3, PixArt, Flux, HunyuanVideo, QwenImage):
    register(_family())
