"""Guidance of Versatile Diffusion, whose U-Net for pictures has a name of its own."""

import pytest
from brute_force_attention import Case, Image
from comparison import assert_guided_as_by_brute_force
from diffusers import (
    VersatileDiffusionDualGuidedPipeline,
    VersatileDiffusionImageVariationPipeline,
    VersatileDiffusionTextToImagePipeline,
)
from tiny_pipelines import MID, TEXT_WIDTH, ddim, noise, size, unet, vae

from smoothed_energy import SmoothedEnergyGuidance


def embedded(prompt, has_cfg):
    return noise((2 if has_cfg else 1) * len(prompt), 5, TEXT_WIDTH, seed=2)


class OfPrompts(VersatileDiffusionTextToImagePipeline):
    """What prompts are embedded as, here random numbers."""

    def _encode_prompt(self, prompt, device, count, do_classifier_free_guidance, negative_prompt):
        return embedded(prompt, do_classifier_free_guidance)


class OfPictures(VersatileDiffusionImageVariationPipeline):
    """As `OfPrompts`."""

    def _encode_prompt(self, prompt, device, count, do_classifier_free_guidance, negative_prompt):
        return embedded(prompt, do_classifier_free_guidance)


def pipeline(cls, *names):
    return cls(image_unet=unet(), vae=vae(), scheduler=ddim(), **dict.fromkeys(names))


@pytest.mark.parametrize("given", ["prompt", "image"])
def test_as_by_brute_force(given):
    def make():
        if given == "prompt":
            return pipeline(OfPrompts, "tokenizer", "text_encoder", "text_unet")
        return pipeline(OfPictures, "image_feature_extractor", "image_encoder")

    arguments = {given: ["a", "b"], "guidance_scale": 1.0, **size()}
    if given == "image":
        arguments[given] = [noise(3, 8, 8), noise(3, 8, 8)]
    case = Case(
        "Versatile Diffusion",
        make,
        arguments,
        {MID: Image((6, 4))},
        cfg={"guidance_scale": 5.0},
        scale=5.0,
        denoiser="image_unet",
    )
    assert_guided_as_by_brute_force(case, cfg=True)


def test_both_at_once_are_refused():
    pipe = object.__new__(VersatileDiffusionDualGuidedPipeline)
    pipe.image_unet = unet()
    with pytest.raises(RuntimeError, match="two transformers"):
        SmoothedEnergyGuidance().attach(pipe)
