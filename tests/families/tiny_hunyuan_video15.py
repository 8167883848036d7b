"""Tiny HunyuanVideo 1.5 pipelines."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
)
from PIL import Image as Picture
from tiny_pipelines import noise

WIDTH, GLYPHS, SEEN = 16, 12, 8
GRID = (3, 4, 6)


@functools.cache
def transformer(**changes):
    torch.manual_seed(0)
    return with_sharp_attention(
        HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=4,
            num_refiner_layers=1,
            text_embed_dim=WIDTH,
            text_embed_2_dim=GLYPHS,
            image_embed_dim=SEEN,
            rope_axes_dim=(4, 6, 6),
            target_size=64,
            **changes,
        )
    )


@functools.cache
def vae():
    torch.manual_seed(1)
    return AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(8,) * 5,
        layers_per_block=1,
        spatial_compression_ratio=16,
        temporal_compression_ratio=4,
    ).eval()


def hunyuan_video15(cls=HunyuanVideo15Pipeline, *, guider=None, **components):
    names = [f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", "_2")]
    pipe = cls(
        transformer=transformer(),
        vae=vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        guider=guider or ClassifierFreeGuidance(1.0),
        **dict.fromkeys(names),
        **components,
    )
    pipe.vision_num_semantic_tokens = 3
    return pipe


# The second prompt is shorter, and has no glyphs.
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
GLYPH_MASK = torch.tensor([[1, 1], [0, 0]])
ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "prompt_embeds_mask": MASK,
    "prompt_embeds_2": noise(2, 2, GLYPHS, seed=3),
    "prompt_embeds_mask_2": GLYPH_MASK,
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=4),
    "negative_prompt_embeds_mask": MASK.flip(0),
    "negative_prompt_embeds_2": noise(2, 2, GLYPHS, seed=5),
    "negative_prompt_embeds_mask_2": GLYPH_MASK.flip(0),
    "height": 64,
    "width": 96,
    "num_frames": 9,
}
IMAGES = {f"transformer_blocks.{n}.attn": Image(GRID) for n in (1, 2)}


def case(family, guider, scale, **more):
    pipeline = functools.partial(more.pop("pipeline", hunyuan_video15), guider=guider)
    arguments = {**ARGUMENTS, **more.pop("arguments", {})}
    images = more.pop("images", IMAGES)
    return Case(family, pipeline, arguments, images, {}, scale, separate=True, **more)


def guided(**changes):
    return ClassifierFreeGuidance(**{"guidance_scale": 6.0, **changes})


RESCALE = 0.7


def rescaled(combined, conditional):
    """Equation 16 of Lin et al. 2023."""
    deviations = [part.flatten(1).std(1) for part in (conditional, combined)]
    ratio = (deviations[0] / deviations[1])[:, None, None, None, None]
    return (RESCALE * ratio + 1 - RESCALE) * combined


# CFG is a matter of the guider: no argument of the call turns it on.
WITHOUT_CFG = case("HunyuanVideo 1.5, without CFG", None, 1.0)
CASES = [case("HunyuanVideo 1.5", guided(), 6.0)]

MORE = [
    case("original formulation", guided(use_original_formulation=True), 7.0),
    case("rescaled", guided(guidance_rescale=RESCALE), 6.0, normalised=rescaled),
]


def image_to_video(**changes):
    components = {"image_encoder": None, "feature_extractor": None}
    pipe = hunyuan_video15(HunyuanVideo15ImageToVideoPipeline, **components, **changes)
    pipe._get_image_embeds = lambda **given: noise(1, 3, SEEN, seed=6)
    return pipe


ONE = {name: value[:1] for name, value in ARGUMENTS.items() if "embeds" in name}
FROM_PICTURE = case(
    "image to video",
    guided(),
    6.0,
    pipeline=image_to_video,
    # The size follows from the picture's.
    images={name: Image((3, 3, 4)) for name in IMAGES},
    arguments={**ONE, "image": Picture.effect_noise((96, 64), 80).convert("RGB")},
)
del FROM_PICTURE.arguments["height"], FROM_PICTURE.arguments["width"]
