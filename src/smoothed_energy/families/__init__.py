"""The kinds of denoisers that guidance works with, an adapter each."""

from ..denoisers.attention_layer import LayerError, SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import GridError, ImageTokens
from ..denoisers.latent_layout import FramesFirst, Packed
from .animatediff import AnimateDiff
from .auraflow import AuraFlow
from .base import Arguments, Family, Setting, Step
from .cogvideox import CogVideoX
from .cogview import CogView3Plus, CogView4
from .dit import DiT
from .flux import Flux
from .hunyuan_dit import HunyuanDiT
from .hunyuan_video import HunyuanVideo
from .joyimage import JoyImage
from .kandinsky5 import Kandinsky5
from .krea2 import Krea2
from .ltx import LTXVideo
from .lumina2 import Lumina2
from .lumina_next import LuminaNext
from .nucleusmoe import NucleusMoE
from .pixart import PixArt
from .prx import PRX
from .qwen_image import QwenImage
from .registry import families, family_of, family_or_unknown, known_parts, register
from .sana import Sana
from .sd3 import StableDiffusion3
from .transformer import Transformer
from .unet import UNet
from .unknown import UnknownDenoiser
from .wan import Wan

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
    CogView3Plus,
    CogView4,
    DiT,
    LuminaNext,
    Kandinsky5,
    PRX,
    Krea2,
    NucleusMoE,
    JoyImage,
):
    register(_family())
