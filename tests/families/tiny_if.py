"""Tiny DeepFloyd IF: pictures in pixels, the text's tokens among the keys, a learned variance."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    DDPMScheduler,
    IFImg2ImgPipeline,
    IFImg2ImgSuperResolutionPipeline,
    IFInpaintingPipeline,
    IFInpaintingSuperResolutionPipeline,
    IFPipeline,
    IFSuperResolutionPipeline,
    UNet2DConditionModel,
)
from tiny_pipelines import TEXT_WIDTH, prompts

MID = "mid_block.attentions.0"
DOWN = "down_blocks.1.attentions.0"


def with_text_among_the_keys(**changes):
    """A U-Net of IF's kind: its attention has no block around it."""
    torch.manual_seed(0)
    settings = {
        "sample_size": 12,
        "out_channels": 6,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 8,
        "cross_attention_dim": 32,
        "encoder_hid_dim": TEXT_WIDTH,
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2,
        "cross_attention_norm": "group_norm",
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "resnet_time_scale_shift": "scale_shift",
        **changes,
    }
    return with_sharp_attention(UNet2DConditionModel(**settings), factor=4.0)


unet = functools.cache(lambda: with_text_among_the_keys(in_channels=3))
upscaler = functools.cache(
    lambda: with_text_among_the_keys(in_channels=6, class_embed_type="timestep")
)


def pipeline(cls, model):
    without = ("tokenizer", "text_encoder", "safety_checker", "feature_extractor", "watermarker")
    scheduler = DDPMScheduler(variance_type="learned_range", thresholding=True)
    upscales = "SuperResolution" in cls.__name__
    noising = {"image_noising_scheduler": DDPMScheduler()} if upscales else {}
    return cls(
        unet=model(),
        scheduler=scheduler,
        requires_safety_checker=False,
        **dict.fromkeys(without),
        **noising,
    )


def case(cls, arguments, model=unet, family=None, layers=(MID,)):
    return Case(
        family or cls.__name__,
        functools.partial(pipeline, cls, model),
        {**prompts(2), "output_type": "pt", "guidance_scale": 1.0, **arguments},
        dict.fromkeys(layers, Image((6, 4), other_keys=True)),
        cfg={"guidance_scale": 5.0},
        scale=5.0,
        denoiser="unet",
        variance=True,
    )


SIZE = {"height": 12, "width": 8}
GIVEN = torch.rand(2, 3, 12, 8, generator=torch.Generator().manual_seed(4))
SMALL = torch.rand(2, 3, 6, 4, generator=torch.Generator().manual_seed(5))
MASK = torch.ones(2, 1, 12, 8)
MASK[..., 4:] = 0

CASES = [case(IFPipeline, SIZE, family="DeepFloyd IF", layers=(DOWN, MID))]
MORE = [
    case(IFImg2ImgPipeline, {"image": GIVEN, "strength": 1.0}),
    case(IFInpaintingPipeline, {"image": GIVEN, "mask_image": MASK, "strength": 1.0}),
    case(IFSuperResolutionPipeline, {"image": SMALL, **SIZE}, upscaler),
    case(
        IFImg2ImgSuperResolutionPipeline,
        {"image": SMALL, "original_image": GIVEN, "strength": 1.0},
        upscaler,
    ),
    case(
        IFInpaintingSuperResolutionPipeline,
        {"image": SMALL, "original_image": GIVEN, "mask_image": MASK, "strength": 1.0},
        upscaler,
    ),
]
