"""The guider in blocks whose ordinary pipelines encode pictures, compared with brute force."""

import functools

import pytest
import tiny_cosmos
import tiny_flux2
import tiny_qwen_image
import tiny_wan
import tiny_wan_derived
import torch
from as_ordinary import as_ordinary
from brute_force_attention import Case, Image
from diffusers import (
    AnimaTextConditioner,
    FlowMatchEulerDiscreteScheduler,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)
from guiders import assert_guider_as_by_brute_force
from modular_families import blocks_of
from older_versions import are_older
from tiny_pipelines import noise

SCALE = 4.0


def case(path, components, arguments, images, **more):
    def pipeline():
        return as_ordinary(blocks_of(path), **components())

    return Case(
        path.rpartition(".")[2],
        pipeline,
        {**arguments, "guidance_scale": 1.0},
        images,
        cfg={"guidance_scale": SCALE},
        scale=SCALE,
        separate=True,
        **more,
    )


def embeddings(width, *, count=1, length=5):
    return {
        "prompt_embeds": noise(count, length, width, seed=2),
        "negative_prompt_embeds": noise(count, length, width, seed=3),
    }


def of_wan(transformer):
    return {"transformer": transformer, "scheduler": tiny_wan.wan().scheduler}


VIDEO = {"height": 64, "width": 96, "num_frames": 9, "latents": noise(1, 4, 3, 8, 12, seed=9)}
WAN_FROM_PICTURE = case(
    "wan.modular_blocks_wan_i2v.WanImage2VideoCoreDenoiseStep",
    lambda: of_wan(
        tiny_wan_derived.denoiser(WanTransformer3DModel, in_channels=12, image_dim=tiny_wan.WIDTH)
    ),
    {
        **embeddings(tiny_wan.WIDTH),
        **VIDEO,
        "image_condition_latents": noise(1, 8, 3, 8, 12, seed=4),
        "image_embeds": noise(1, 3, tiny_wan.WIDTH, seed=5),
    },
    tiny_wan.IMAGES,
)
VACE = case(
    "wan.modular_blocks_wan_vace.Wan22VaceCoreDenoiseStep",
    # The first transformer draws to the end.
    lambda: (
        {"boundary_ratio": 0.0, "transformer_2": None}
        | of_wan(
            tiny_wan_derived.denoiser(
                WanVACETransformer3DModel, vace_layers=(0, 2), vace_in_channels=2 * 4 + 64
            )
        )
    ),
    {
        **embeddings(tiny_wan.WIDTH),
        **VIDEO,
        "num_reference_images": 0,
        "denoiser_input_fields": {"control_hidden_states": noise(1, 72, 3, 8, 12, seed=4)},
    },
    tiny_wan.IMAGES,
)
PROMPTS = {
    **embeddings(tiny_qwen_image.WIDTH),
    "prompt_embeds_mask": torch.ones(1, 5, dtype=torch.long),
    "negative_prompt_embeds_mask": torch.ones(1, 5, dtype=torch.long),
}


def of_qwen(**settings):
    return {
        "transformer": tiny_qwen_image.transformer(**settings),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    }


def cut(count):
    return lambda prediction: prediction[:, :count]


# A picture of 8 x 12 latents follows the image.
EDIT = case(
    "qwenimage.modular_blocks_qwenimage_edit.QwenImageEditCoreDenoiseStep",
    of_qwen,
    {**PROMPTS, "height": 64, "width": 128, "image_latents": noise(1, 4, 1, 8, 12, seed=4)},
    {f"transformer_blocks.{n}.attn": Image((4, 8), 5) for n in (1, 2)},
    sent=cut(32),
    normalised=tiny_qwen_image.normalised,
)
EDIT_PLUS = case(
    "qwenimage.modular_blocks_qwenimage_edit_plus.QwenImageEditPlusCoreDenoiseStep",
    functools.partial(of_qwen, zero_cond_t=True),
    {
        **PROMPTS,
        "height": 64,
        "width": 128,
        "image_latents": [noise(1, 4, 1, 8, 12, seed=4), noise(1, 4, 1, 6, 4, seed=5)],
    },
    {f"transformer_blocks.{n}.attn": Image((4, 8), 5) for n in (1, 2)},
    sent=cut(32),
    normalised=tiny_qwen_image.normalised,
)
LAYERED = case(
    "qwenimage.modular_blocks_qwenimage_layered.QwenImageLayeredCoreDenoiseStep",
    functools.partial(of_qwen, use_layer3d_rope=True, use_additional_t_cond=True),
    {
        **PROMPTS,
        "image_latents": noise(1, 1, 4, 12, 8, seed=4),
        "layers": 2,
        "latents": noise(1, 72, 16, seed=5),
    },
    {f"transformer_blocks.{n}.attn": Image((3, 6, 4), 5) for n in (1, 2)},
    sent=cut(72),
    normalised=tiny_qwen_image.normalised,
)
KLEIN = case(
    "flux2.modular_blocks_flux2_klein_base.Flux2KleinBaseImageConditionedCoreDenoiseStep",
    lambda: {
        "transformer": tiny_flux2.transformer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    },
    {
        **embeddings(tiny_flux2.WIDTH),
        "height": 96,
        "width": 64,
        "image_latents": [noise(1, 16, 3, 5, seed=4)],
    },
    tiny_flux2.CASES[0].images,
    sent=cut(24),
)


@functools.cache
def conditioner():
    torch.manual_seed(1)
    return AnimaTextConditioner(
        source_dim=8,
        target_dim=tiny_cosmos.WIDTH,
        model_dim=tiny_cosmos.WIDTH,
        num_layers=1,
        num_attention_heads=2,
        target_vocab_size=32,
        min_sequence_length=8,
    ).eval()


def anima_prompts(prefix, length, seed):
    return {
        f"{prefix}qwen_prompt_embeds": noise(1, length, 8, seed=seed),
        f"{prefix}qwen_attention_mask": torch.ones(1, length, dtype=torch.long),
        f"{prefix}t5_input_ids": torch.arange(length)[None],
        f"{prefix}t5_attention_mask": torch.ones(1, length, dtype=torch.long),
    }


ANIMA = case(
    "anima.modular_blocks_anima.AnimaCoreDenoiseStep",
    lambda: {
        "transformer": tiny_cosmos.transformer(),
        "text_conditioner": conditioner(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    },
    {**anima_prompts("", 5, 2), **anima_prompts("negative_", 3, 3), "height": 64, "width": 96},
    {f"transformer_blocks.{n}.attn1": Image((1, 4, 6)) for n in (1, 2)},
)
CASES = [WAN_FROM_PICTURE, VACE, EDIT, EDIT_PLUS, LAYERED, KLEIN, ANIMA]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)
def test_as_by_brute_force(case):
    if are_older() and case in (VACE, ANIMA):
        pytest.skip("older versions of diffusers have no such blocks, or others")
    assert_guider_as_by_brute_force(case)
