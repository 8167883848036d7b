"""Parity with the released implementation on stored reference outputs."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file

from smoothed_energy import GaussianBlur, SmoothedEnergyGuidance

GOLDEN = Path(__file__).parent / "golden"
REFERENCE = json.loads((GOLDEN / "reference_seg.json").read_text())
CASES = REFERENCE["cases"]


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "reference_seg.safetensors")


@pytest.fixture(scope="module")
def pipe(tensors):
    unet = UNet2DConditionModel(**REFERENCE["unet_config"])
    unet.load_state_dict(
        {
            name.removeprefix("unet."): value
            for name, value in tensors.items()
            if name.startswith("unet.")
        }
    )
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        norm_num_groups=4,
        latent_channels=4,
    )
    scheduler = {k: v for k, v in REFERENCE["scheduler"].items() if not k.startswith("_")}
    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet.eval(),
        scheduler=EulerDiscreteScheduler(**scheduler),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("replay", [True, False], ids=["replay", "no-replay"])
@pytest.mark.parametrize("index", range(len(CASES)))
def test_latents_equal_those_of_the_released_implementation(pipe, tensors, index, replay):
    case = CASES[index]
    guidance = SmoothedEnergyGuidance(
        blur=GaussianBlur(case.get("seg_blur_sigma", 9999999.0)),
        scale=case["seg_scale"],
        layers=case.get("seg_applied_layers", ["mid"]),
    )
    inputs = {
        name.removeprefix("input."): value.clone()
        for name, value in tensors.items()
        if name.startswith("input.")
    }
    size = (REFERENCE["height"], REFERENCE["width"])
    with guidance.attach(pipe, replay=replay) as attachment:
        latents = pipe(
            **inputs,
            height=size[0],
            width=size[1],
            original_size=size,
            target_size=size,
            num_inference_steps=REFERENCE["num_inference_steps"],
            guidance_scale=case["guidance_scale"],
            guidance_rescale=case.get("guidance_rescale", 0.0),
            output_type="latent",
        ).images

    assert (latents - tensors[f"case_{index}"]).abs().max() <= 2e-4
    expected_calls = 0 if case["seg_scale"] == 0 else REFERENCE["num_inference_steps"]
    assert attachment.last_run.guided_calls == expected_calls
