"""Tiny Flux 3 pipelines, which are modular."""

import functools

import torch
from as_ordinary import as_ordinary
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import FlowMatchEulerDiscreteScheduler, Flux3Transformer2DModel
from diffusers.modular_pipelines.flux3.modular_blocks_flux3 import (
    Flux3CoreDenoiseStep,
    Flux3ImageConditionedCoreDenoiseStep,
)
from diffusers.modular_pipelines.flux3.modular_blocks_flux3_distilled import (
    Flux3DistilledCoreDenoiseStep,
    Flux3DistilledImageConditionedCoreDenoiseStep,
)
from tiny_pipelines import noise

WIDTH, LENGTH = 16, 5


@functools.cache
def transformer(*, flow_map=False):
    torch.manual_seed(0)
    denoiser = Flux3Transformer2DModel(
        in_channels=16,
        cond_in_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        timestep_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        flow_map=flow_map,
    )
    # Random gates are nearly closed.
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if "modulations" in name:
                parameter *= 5
    return with_sharp_attention(denoiser)


def flux3(blocks, *, flow_map=True, **components):
    return as_ordinary(
        blocks(),
        transformer=transformer(flow_map=flow_map),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.93),
        **components,
    )


ARGUMENTS = {"prompt_embeds": noise(2, LENGTH, WIDTH, seed=2), "height": 96, "width": 64}
# Packed latents of 6 x 4: a token each; in the second stack five tokens of text come before.
IMAGES = {
    "mode_blocks.image.1.attn": Image((6, 4)),
    "single_transformer_blocks.1.attn": Image((6, 4), LENGTH),
}
REFERENCES = {"image_cond_latents": [noise(2, 16, 3, 2, seed=4), noise(2, 16, 2, 5, seed=5)]}
# A prompt of another length.
NEGATIVE = {"negative_prompt_embeds": noise(2, 7, WIDTH, seed=3)}
SCALE = 3.5


def case(name, blocks, **more):
    return Case(name, functools.partial(flux3, blocks), {**ARGUMENTS, **more}, IMAGES)


DISTILLED = case("Flux 3, distilled", Flux3DistilledCoreDenoiseStep)
DISTILLED_REFERRING = case(
    "Flux 3, distilled, with references",
    Flux3DistilledImageConditionedCoreDenoiseStep,
    **REFERENCES,
)


def guided_by(name, blocks, **more):
    """The case whose CFG is a guider's."""
    return Case(
        name,
        functools.partial(flux3, blocks, flow_map=False),
        {**ARGUMENTS, **NEGATIVE, "guidance_scale": 1.0, **more},
        IMAGES,
        cfg={"guidance_scale": SCALE},
        scale=SCALE,
        separate=True,
    )


CASES = [guided_by("Flux 3", Flux3CoreDenoiseStep)]
REFERRING = guided_by("Flux 3, with references", Flux3ImageConditionedCoreDenoiseStep, **REFERENCES)
