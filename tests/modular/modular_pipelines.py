"""Tiny pipelines of Modular Diffusers, made of the components of the ordinary ones.

They begin after the text encoders, with embeddings.
"""

import functools

import torch
from diffusers.modular_pipelines import SequentialPipelineBlocks
from diffusers.modular_pipelines.stable_diffusion_3.modular_blocks_stable_diffusion_3 import (
    StableDiffusion3T2ICoreDenoiseStep,
)
from diffusers.modular_pipelines.stable_diffusion_xl import before_denoise as xl_before
from diffusers.modular_pipelines.stable_diffusion_xl.denoise import StableDiffusionXLDenoiseStep
from tiny_pipelines import quiet, size, vae, xl, xl_prompts, xl_unet
from tiny_sd3 import ARGUMENTS as SD3_PROMPTS
from tiny_sd3 import sd3, transformer


class XLBlocks(SequentialPipelineBlocks):
    """SDXL from embeddings to latents."""

    model_name = "stable-diffusion-xl"
    block_classes = [  # noqa: RUF012
        xl_before.StableDiffusionXLInputStep,
        xl_before.StableDiffusionXLSetTimestepsStep,
        xl_before.StableDiffusionXLPrepareLatentsStep,
        xl_before.StableDiffusionXLPrepareAdditionalConditioningStep,
        StableDiffusionXLDenoiseStep,
    ]
    block_names = ["input", "set_timesteps", "latents", "conditioning", "denoise"]  # noqa: RUF012


def modular_xl(guider=None, *, model=None, scheduler=None):
    pipe = quiet(XLBlocks().init_pipeline())
    pipe.update_components(
        unet=model or xl_unet(), vae=vae(), scheduler=scheduler or xl().scheduler
    )
    if guider is not None:
        pipe.update_components(guider=guider)
    return pipe


def modular_sd3(guider=None, *, model=None):
    pipe = quiet(StableDiffusion3T2ICoreDenoiseStep().init_pipeline())
    pipe.update_components(transformer=model or transformer(), scheduler=sd3().scheduler)
    if guider is not None:
        pipe.update_components(guider=guider)
    return pipe


def run(pipe, prompts, *, steps=2, **arguments):
    """The latents, always on the same random numbers."""
    torch.manual_seed(7)
    generator = torch.Generator().manual_seed(7)
    settings = {**prompts, "num_inference_steps": steps, "generator": generator, **arguments}
    settings.pop("guidance_scale", None)
    return pipe(**settings, output="latents")


def xl_arguments(count=1):
    return {**xl_prompts(count), **size()}


run_xl = functools.partial(run, prompts=xl_arguments())
run_sd3 = functools.partial(run, prompts=SD3_PROMPTS)


def is_patched(denoiser):
    """Whether any forward function in it is not that of its class."""
    for module in denoiser.modules():
        if vars(module).get("_compiled_call_impl") is not None:
            return True
        # Hooks of diffusers leave the class's own behind.
        forward = getattr(vars(module).get("forward"), "__func__", vars(module).get("forward"))
        if forward not in (None, type(module).forward):
            return True
    return False
