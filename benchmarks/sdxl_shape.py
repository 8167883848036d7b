"""A U-Net of SDXL's shape with random weights, and the arguments of its calls."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel


def sdxl_unet(
    width: int, heads: tuple[int, int, int], text: int, size: int
) -> UNet2DConditionModel:
    """A U-Net of SDXL's shape.

    Args:
        width: Channels of the first level; the others have two and four times as many.
        heads: Attention heads of the three levels.
        text: Width of the text's tokens.
        size: Height and width of the latents.
    """
    return UNet2DConditionModel(
        sample_size=size,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(width, 2 * width, 4 * width),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=heads,
        cross_attention_dim=text,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=1280 + 6 * 256,
    ).eval()


def build(sdxl: bool, device: str, dtype: torch.dtype) -> tuple[UNet2DConditionModel, int]:
    """SDXL's U-Net, or a smaller one of its shape, and the size of its latents."""
    torch.manual_seed(0)
    width, size, text = (320, 128, 2048) if sdxl else (96, 64, 256)
    heads = (5, 10, 20) if sdxl else (3, 6, 12)
    return sdxl_unet(width, heads, text, size).to(device, dtype), size


def arguments(unet: UNet2DConditionModel, size: int, rows: int) -> dict:
    """The arguments of one call."""
    torch.manual_seed(1)
    kind = {"device": unet.device, "dtype": unet.dtype}
    text = unet.config.cross_attention_dim
    return {
        "sample": torch.randn(rows, 4, size, size, **kind),
        "timestep": torch.tensor(500.0, device=unet.device),
        "encoder_hidden_states": torch.randn(rows, 77, text, **kind),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(rows, 1280, **kind),
            "time_ids": torch.zeros(rows, 6, **kind),
        },
        "return_dict": False,
    }
