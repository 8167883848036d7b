"""Small models with random weights, and the arguments to call them with."""

import copy

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)


def small_unet(**changes) -> UNet2DConditionModel:
    """A U-Net with SDXL's blocks: 2 layers down, 2 in the middle, 3 x 2 up."""
    torch.manual_seed(1)
    config = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 16,
        "transformer_layers_per_block": (1, 2),
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 16 + 6 * 4,
    }
    return UNet2DConditionModel(**(config | changes)).eval()


def small_pipeline(unet=None, scheduler=None) -> StableDiffusionXLPipeline:
    """An SDXL pipeline of 32 x 32 pictures, prompts given as embeddings."""
    torch.manual_seed(2)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        norm_num_groups=4,
        latent_channels=4,
    ).eval()
    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet or small_unet(),
        scheduler=scheduler or EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def inputs(batch: int = 1, *, seed: int = 3, size: int = 32, dtype=torch.float32) -> dict:
    """Arguments of a call of `small_pipeline`, the same at every call."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    return {
        "prompt_embeds": random(batch, 5, 16),
        "pooled_prompt_embeds": random(batch, 16),
        "negative_prompt_embeds": random(batch, 5, 16),
        "negative_pooled_prompt_embeds": random(batch, 16),
        "latents": random(batch, 4, size // 2, size // 2),
        "height": size,
        "width": size,
        "num_inference_steps": 3,
        "guidance_scale": 5.0,
        "output_type": "latent",
    }


def unet_inputs(batch: int = 2, *, seed: int = 4) -> dict:
    """Arguments of a call of `small_unet`."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "sample": random(batch, 4, 16, 16),
        "timestep": torch.tensor(500.0),
        "encoder_hidden_states": random(batch, 5, 16),
        "added_cond_kwargs": {
            "text_embeds": random(batch, 16),
            "time_ids": torch.tensor([[32.0, 32, 0, 0, 32, 32]] * batch),
        },
    }


def own_copy(denoiser):
    """A copy of a denoiser, as if it had never run."""
    found = copy.deepcopy(denoiser)
    # Older diffusers keep here which modules had hooks at the first call.
    vars(found).pop("_diffusers_hook", None)
    return found
