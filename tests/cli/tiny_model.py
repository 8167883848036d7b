"""Small pipelines with random weights."""

import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    StableDiffusionXLPAGPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from letters import letter_tokenizer


def tokenizer():
    """One token for each letter."""
    return letter_tokenizer([chr(code) for code in range(33, 127)])


def text_to_image(seed=0):
    """The parts of the embedded model, in miniature: 32 x 32 pictures, 2 layers in the middle."""
    torch.manual_seed(seed)
    tokens = tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=32 + 6 * 4,
    )
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[8, 8, 8],
        norm_num_groups=4,
    )
    encoder = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=32,
            intermediate_size=32,
            projection_dim=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
    )
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=None,
        text_encoder_2=encoder,
        tokenizer=None,
        tokenizer_2=tokens,
        unet=unet,
        scheduler=DDIMScheduler(),
        add_watermarker=False,
    )


def perturbed_attention():
    """The same in a pipeline with guidance of its own."""
    return StableDiffusionXLPAGPipeline.from_pipe(text_to_image(), add_watermarker=False)


def unconditional(attention=True):
    """A pipeline that takes no prompt."""
    torch.manual_seed(0)
    down, up = ("AttnDownBlock2D", "AttnUpBlock2D") if attention else ("DownBlock2D", "UpBlock2D")
    unet = UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", down),
        up_block_types=(up, "UpBlock2D"),
        add_attention=attention,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    return DDIMPipeline(unet, DDIMScheduler())
