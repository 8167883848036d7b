"""Tiny Stable Video Diffusion: blocks within frames, and blocks over time, in turn."""

import functools

import torch
from brute_force_animatediff import FoldedImage
from brute_force_attention import Case
from comparison import with_sharp_attention
from diffusers import (
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from tiny_pipelines import noise, picture, vae

FRAMES = 3
GRID = (FRAMES, 4, 3)
MID = "mid_block.attentions.0.transformer_blocks.0.attn1"
MID_OVER_TIME = "mid_block.attentions.0.temporal_transformer_blocks.0.attn1"


@functools.cache
def unet():
    torch.manual_seed(0)
    model = UNetSpatioTemporalConditionModel(
        sample_size=12,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        layers_per_block=1,
        cross_attention_dim=16,
        num_attention_heads=2,
        num_frames=FRAMES,
    )
    return with_sharp_attention(model, factor=4.0)


class VideoOfEmbedding(StableVideoDiffusionPipeline):
    """What a picture is embedded as, here random numbers of its own."""

    def _encode_image(self, image, device, num_videos_per_prompt, do_classifier_free_guidance):
        embedded = noise(len(image), 1, 16, seed=2)
        zeros = [torch.zeros_like(embedded)] if do_classifier_free_guidance else []
        return torch.cat([*zeros, embedded])


def svd():
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_type="continuous",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=20.0,
    )
    return VideoOfEmbedding(
        vae=vae(), unet=unet(), scheduler=scheduler, image_encoder=None, feature_extractor=None
    )


ARGUMENTS = {
    "image": picture(64, 48, count=2, seed=4),
    "height": 64,
    "width": 48,
    "max_guidance_scale": 1.0,
}


def with_growing_scale(c, u, scale):
    """CFG with a scale that grows from 1 in the first frame."""
    frames = c.shape[1]
    return u + torch.linspace(1.0, scale, frames).view(frames, 1, 1, 1) * (c - u)


def case(family, images):
    return Case(
        family,
        svd,
        ARGUMENTS,
        images,
        cfg={"max_guidance_scale": 5.0},
        scale=5.0,
        combined=with_growing_scale,
        denoiser="unet",
    )


CASES = [case("Stable Video Diffusion", {MID: FoldedImage(GRID)})]
MORE = [case("Stable Video Diffusion, over time", {MID_OVER_TIME: FoldedImage(GRID, over="time")})]
