"""Tiny U-Nets for videos, with a transformer over time after each within frames."""

import functools

import torch
from brute_force_animatediff import FoldedImage
from brute_force_attention import Case
from comparison import with_sharp_attention
from diffusers import (
    I2VGenXLPipeline,
    I2VGenXLUNet,
    TextToVideoSDPipeline,
    UNet3DConditionModel,
    VideoToVideoSDPipeline,
)
from PIL import Image
from tiny_pipelines import TEXT_WIDTH, ddim, noise, prompts, size, vae

FRAMES = 3
GRID = (FRAMES, 4, 3)
MID = "mid_block.attentions.0.transformer_blocks.0.attn1"
MID_OVER_TIME = "mid_block.temp_attentions.0.transformer_blocks.0.attn2"
SHAPE = {
    "sample_size": 12,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}


def new(cls):
    torch.manual_seed(0)
    return with_sharp_attention(cls(**SHAPE), factor=3.0)


unet = functools.cache(lambda: new(UNet3DConditionModel))
unet_of_pictures = functools.cache(lambda: new(I2VGenXLUNet))


class PictureToVideo(I2VGenXLPipeline):
    """What a picture is embedded as, here random numbers of its own."""

    def _encode_image(self, image, device, num_videos_per_prompt):
        embedded = noise(2, 1, TEXT_WIDTH, seed=4)
        zeros = [torch.zeros_like(embedded)] if self.do_classifier_free_guidance else []
        return torch.cat([*zeros, embedded])


class Crops:
    """All that the pipeline asks of a feature extractor."""

    crop_size = {"height": 32, "width": 32}  # noqa: RUF012


def text_to_video(cls=TextToVideoSDPipeline):
    without = dict.fromkeys(("tokenizer", "text_encoder"))
    return cls(vae=vae(), unet=unet(), scheduler=ddim(), **without)


def picture_to_video():
    without = dict.fromkeys(("tokenizer", "text_encoder", "image_encoder"))
    return PictureToVideo(
        vae=vae(), unet=unet_of_pictures(), scheduler=ddim(), feature_extractor=Crops(), **without
    )


def by_frames(prediction):
    """What the scheduler gets: every frame is a picture of its own."""
    return prediction.transpose(1, 2).flatten(0, 1)


def case(family, pipeline, arguments, images):
    return Case(
        family,
        pipeline,
        {**prompts(2), "guidance_scale": 1.0, **arguments},
        images,
        cfg={"guidance_scale": 5.0},
        scale=5.0,
        sent=by_frames,
        denoiser="unet",
    )


WITHIN = {MID: FoldedImage(GRID)}
OVER_TIME = {
    MID_OVER_TIME: FoldedImage(GRID, over="time"),
    "transformer_in.transformer_blocks.0.attn1": FoldedImage((FRAMES, 8, 6), over="time"),
}
VIDEO = [noise(FRAMES, 64, 48, 3, seed=9).clamp(0, 1).numpy()]
PICTURES = [Image.linear_gradient("L").convert("RGB").resize((48, 64))] * 2

DRAWN = {**size(64, 48), "num_frames": FRAMES}

CASES = [case("U-Net over time", text_to_video, DRAWN, WITHIN)]
MORE = [
    case("U-Net over time, over time", text_to_video, DRAWN, OVER_TIME),
    case(
        "U-Net over time, of videos",
        lambda: text_to_video(VideoToVideoSDPipeline),
        {**prompts(), "video": VIDEO, "strength": 1.0},  # it takes one
        WITHIN,
    ),
    case(
        "I2VGen-XL",
        picture_to_video,
        {**DRAWN, "image": PICTURES},
        WITHIN | OVER_TIME,
    ),
]
