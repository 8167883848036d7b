"""U-Nets among the families: Stable Diffusion, SDXL, and one without text."""

from brute_force_attention import Case, Image
from diffusers import DDIMPipeline
from tiny_pipelines import (
    MID,
    XL_MID,
    ddim,
    new_pixel_unet,
    prompts,
    quiet,
    sd,
    size,
    xl,
    xl_prompts,
)


def pixels():
    return quiet(DDIMPipeline(new_pixel_unet(), ddim()))


CASES = [
    Case(
        "Stable Diffusion",
        sd,
        {**prompts(2), **size(), "guidance_scale": 1.0},
        {MID: Image((6, 4))},
        cfg={"guidance_scale": 5.0},
        scale=5.0,
        denoiser="unet",
    ),
    Case(
        "SDXL",
        xl,
        {**xl_prompts(2), **size(), "guidance_scale": 1.0},
        {name: Image((6, 4)) for name in XL_MID},
        cfg={"guidance_scale": 5.0},
        scale=5.0,
        denoiser="unet",
    ),
    Case(
        "U-Net without text",
        pixels,
        {"batch_size": 2, "output_type": "np"},
        {"mid_block.attentions.0": Image((6, 4))},
        denoiser="unet",
    ),
]
