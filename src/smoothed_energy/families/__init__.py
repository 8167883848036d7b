"""The kinds of denoisers that guidance works with, an adapter each."""

from ..denoisers.attention_layer import LayerError, SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import GridError, ImageTokens
from ..denoisers.latent_layout import FramesFirst, Packed
from .allegro import Allegro
from .animatediff import AnimateDiff
from .auraflow import AuraFlow
from .base import Arguments, Family, Setting, Step
from .chronoedit import ChronoEdit
from .cogvideox import CogVideoX
from .consisid import ConsisID
from .cosmos import Cosmos
from .flux import Flux
from .framepack import Framepack
from .hunyuan_dit import HunyuanDiT
from .hunyuan_video import HunyuanVideo
from .hunyuan_video15 import HunyuanVideo15
from .latte import Latte
from .ltx import LTXVideo
from .ltx2 import LTX2
from .lumina2 import Lumina2
from .mochi import Mochi
from .pixart import PixArt
from .qwen_image import QwenImage
from .registry import families, family_of, family_or_unknown, known_parts, register
from .sana import Sana
from .sana_video import SanaVideo
from .sd3 import StableDiffusion3
from .skyreels_v2 import SkyReelsV2
from .transformer import Transformer
from .unet import UNet
from .unknown import UnknownDenoiser
from .wan import Wan
from .wan_animate import WanAnimate
from .wan_vace import WanVACE

__all__ = [
    "Arguments",
    "BatchLayout",
    "Family",
    "FramesFirst",
    "GridError",
    "ImageTokens",
    "LayerError",
    "Packed",
    "SelfAttentionLayer",
    "Setting",
    "Step",
    "Transformer",
    "UnknownDenoiser",
    "families",
    "family_of",
    "family_or_unknown",
    "known_parts",
    "register",
]

for _family in (
    UNet,
    StableDiffusion3,
    PixArt,
    AuraFlow,
    HunyuanDiT,
    Lumina2,
    Flux,
    HunyuanVideo,
    QwenImage,
    Wan,
    LTXVideo,
    CogVideoX,
    AnimateDiff,
    Sana,
    WanVACE,
    WanAnimate,
    ChronoEdit,
    SkyReelsV2,
    HunyuanVideo15,
    LTX2,
    Mochi,
    Latte,
    Cosmos,
    Framepack,
    Allegro,
    ConsisID,
    SanaVideo,
):
    register(_family())
