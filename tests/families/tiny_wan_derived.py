"""Tiny pipelines whose denoisers derive from Wan's: VACE, Animate, ChronoEdit, SkyReels V2."""

import functools

import numpy
import PIL.Image
import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    ChronoEditPipeline,
    ChronoEditTransformer3DModel,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    WanAnimatePipeline,
    WanAnimateTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from tiny_pipelines import noise
from tiny_wan import ARGUMENTS, GRID, IMAGES, PICTURE, WIDTH, vae, wan

CFG = {"cfg": {"guidance_scale": 5.0}, "scale": 5.0, "separate": True}


@functools.cache
def denoiser(cls, **changes):
    torch.manual_seed(0)
    settings = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": WIDTH,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 4,
        "rope_max_seq_len": 32,
    }
    return with_sharp_attention(cls(**{**settings, **changes}))


def vace():
    # As many blocks of the branch as samples; its input has a mask of 8 x 8 pixels a place.
    branch = {"vace_layers": (0, 2), "vace_in_channels": 2 * 4 + 64}
    transformer = denoiser(WanVACETransformer3DModel, **branch)
    return wan(WanVACEPipeline, vae=vae(), transformer=transformer)


def seen(pipe):
    """The pipeline with a picture's embedding in place of an image encoder."""
    pipe.encode_image = lambda image, device: noise(1, 3, WIDTH, seed=9)
    return pipe


def frames(count, width, height, seed):
    generator = numpy.random.default_rng(seed)
    pixels = generator.integers(0, 256, (count, height, width, 3), dtype=numpy.uint8)
    return [PIL.Image.fromarray(frame) for frame in pixels]


@functools.cache
def animate_transformer():
    return denoiser(
        WanAnimateTransformer3DModel,
        in_channels=12,
        latent_channels=4,
        image_dim=WIDTH,
        motion_encoder_channel_sizes=MOTION,
        motion_encoder_size=16,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=8,
        face_encoder_hidden_dim=8,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
        # So that calls of the encoder have frames of both samples.
        motion_encoder_batch_size=6,
    )


class Hashable(dict):
    __hash__ = object.__hash__


MOTION = Hashable({str(2**n): 8 for n in range(2, 5)})


def animate():
    transformer = animate_transformer()
    encoders = {"image_encoder": None, "image_processor": None}
    components = {"vae": vae(), "transformer": transformer, "scheduler": wan().scheduler}
    texts = {"text_encoder": None, "tokenizer": None}
    return seen(WanAnimatePipeline(**components, **encoders, **texts))


def chronoedit():
    transformer = denoiser(ChronoEditTransformer3DModel, in_channels=12, image_dim=WIDTH)
    encoders = {"image_encoder": None, "image_processor": None}
    components = {"vae": vae(), "transformer": transformer, "scheduler": wan().scheduler}
    texts = {"text_encoder": None, "tokenizer": None}
    return seen(ChronoEditPipeline(**components, **encoders, **texts))


def skyreels(cls=SkyReelsV2Pipeline, *, vae=None, encoders=(), **changes):
    components = {"vae": vae, "transformer": denoiser(SkyReelsV2Transformer3DModel, **changes)}
    texts = {"text_encoder": None, "tokenizer": None}
    return cls(**components, **texts, scheduler=wan().scheduler, **dict(encoders))


def forcing(**changes):
    return skyreels(SkyReelsV2DiffusionForcingPipeline, inject_sample_info=True, **changes)


ONE = {name: value[:1] for name, value in ARGUMENTS.items() if "embeds" in name}

# The first frame is that of the character, which is left alone.
ANIMATED = {name: Image((3, 2, 3), 2 * 3) for name in IMAGES}

# It draws one video at a time.
VACE = Case("Wan VACE", vace, {**ARGUMENTS, **ONE}, IMAGES, **CFG)
ANIMATE = Case(
    "Wan Animate",
    animate,
    {
        **{name: value for name, value in ARGUMENTS.items() if name != "num_frames"},
        "height": 32,
        "width": 48,
        "image": frames(1, 48, 32, seed=1)[0],
        "pose_video": frames(9, 48, 32, seed=2),
        "face_video": frames(9, 16, 16, seed=3),
        "segment_frame_length": 9,
    },
    ANIMATED,
    **CFG,
)
# The picture and what it is edited to are two frames.
CHRONOEDIT = Case(
    "ChronoEdit",
    chronoedit,
    {**ARGUMENTS, "image": PICTURE},
    {name: Image((2, *GRID[1:])) for name in IMAGES},
    **CFG,
)
SKYREELS = Case("SkyReels V2", skyreels, ARGUMENTS, IMAGES, **CFG)

CASES = [VACE, ANIMATE, CHRONOEDIT, SKYREELS]

VACE_OF_A_PICTURE = Case(
    "Wan VACE, with a reference",
    vace,
    {**VACE.arguments, "reference_images": frames(1, 96, 64, seed=4)},
    {name: Image((4, *GRID[1:])) for name in IMAGES},
    **CFG,
)
SKYREELS_FROM_PICTURE = Case(
    "SkyReels V2, image to video",
    lambda: seen(
        skyreels(
            SkyReelsV2ImageToVideoPipeline,
            vae=vae(),
            encoders={"image_encoder": None, "image_processor": None},
            in_channels=12,
            image_dim=WIDTH,
        )
    ),
    {**ARGUMENTS, "image": PICTURE},
    IMAGES,
    **CFG,
)
# It can't be told how fast more than one video is.
FORCING = Case(
    "SkyReels V2, diffusion forcing",
    forcing,
    {**ARGUMENTS, **ONE, "prompt": None},
    IMAGES,
    **CFG,
)
