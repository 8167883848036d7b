"""The kinds of denoisers that guidance works with, an adapter each."""

from ..denoisers.attention_layer import LayerError, SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import GridError, ImageTokens
from ..denoisers.latent_layout import FramesFirst, Packed
from .ace_step import AceStep
from .allegro import Allegro
from .animatediff import AnimateDiff
from .anyflow import AnyFlow
from .auraflow import AuraFlow
from .base import Arguments, Family, Setting, Step
from .bria import Bria
from .bria_fibo import BriaFibo
from .bria_fibo2 import BriaFibo2
from .cascade import StableCascade, Wuerstchen
from .chroma import Chroma
from .chronoedit import ChronoEdit
from .cogvideox import CogVideoX
from .cogview import CogView3Plus, CogView4
from .consisid import ConsisID
from .controlnet_xs import ControlNetXS
from .cosmos import Cosmos
from .cosmos3 import Cosmos3
from .dit import DiT
from .easyanimate import EasyAnimate
from .ernie_image import ErnieImage
from .flux import Flux
from .flux2 import Flux2
from .flux3 import Flux3
from .framepack import Framepack
from .glm_image import GlmImage
from .helios import Helios
from .hidream import HiDream
from .hunyuan_dit import HunyuanDiT
from .hunyuan_image import HunyuanImage
from .hunyuan_video import HunyuanVideo
from .hunyuan_video15 import HunyuanVideo15
from .ideogram4 import Ideogram4
from .joyimage import JoyImage, JoyImageEditPlus
from .kandinsky3 import Kandinsky3
from .kandinsky5 import Kandinsky5
from .kandinsky6 import Kandinsky6, Kandinsky6SR
from .krea2 import Krea2
from .latte import Latte
from .longcat_audio import LongCatAudio
from .longcat_image import LongCatImage
from .ltx import LTXVideo
from .ltx2 import LTX2
from .lumina2 import Lumina2
from .lumina_next import LuminaNext
from .minimax_music3 import MiniMaxMusic3
from .mochi import Mochi
from .motif_video import MotifVideo
from .nucleusmoe import NucleusMoE
from .omnigen import OmniGen
from .ovis_image import OvisImage
from .pixart import PixArt
from .prx import PRX
from .qwen_image import QwenImage
from .qwen_image21 import QwenImage21
from .registry import (
    families,
    family_of,
    family_or_unknown,
    forget_found,
    known_parts,
    note_found,
    register,
)
from .sana import Sana
from .sana_video import SanaVideo
from .sana_wm import SanaWM
from .sd3 import StableDiffusion3
from .skyreels_v2 import SkyReelsV2
from .stable_audio import StableAudio, StableAudio3
from .svd import StableVideoDiffusion
from .transformer import Transformer
from .unet import UNet
from .unet3d import UNet3D
from .unknown import UnknownDenoiser
from .wan import Wan
from .wan_animate import WanAnimate
from .wan_animate2 import WanAnimate2
from .wan_vace import WanVACE
from .z_image import ZImage

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
    "forget_found",
    "known_parts",
    "note_found",
    "register",
]

for _family in (
    UNet,
    StableDiffusion3,
    PixArt,
    AuraFlow,
    HunyuanDiT,
    Lumina2,
    ZImage,
    Flux,
    Flux2,
    Flux3,
    Chroma,
    OvisImage,
    LongCatImage,
    Bria,
    BriaFibo,
    BriaFibo2,
    HiDream,
    HunyuanImage,
    ErnieImage,
    HunyuanVideo,
    QwenImage,
    QwenImage21,
    Wan,
    LTXVideo,
    CogVideoX,
    AnimateDiff,
    Sana,
    CogView3Plus,
    CogView4,
    DiT,
    LuminaNext,
    Kandinsky3,
    Kandinsky5,
    Kandinsky6,
    Kandinsky6SR,
    PRX,
    Krea2,
    NucleusMoE,
    Helios,
    AnyFlow,
    OmniGen,
    GlmImage,
    Ideogram4,
    JoyImageEditPlus,
    WanVACE,
    WanAnimate,
    WanAnimate2,
    ChronoEdit,
    SkyReelsV2,
    HunyuanVideo15,
    LTX2,
    JoyImage,
    Mochi,
    Latte,
    Cosmos,
    Cosmos3,
    Framepack,
    Allegro,
    ConsisID,
    SanaVideo,
    SanaWM,
    StableVideoDiffusion,
    UNet3D,
    ControlNetXS,
    EasyAnimate,
    MotifVideo,
    StableCascade,
    Wuerstchen,
    StableAudio,
    StableAudio3,
    LongCatAudio,
    MiniMaxMusic3,
    AceStep,
):
    register(_family())
