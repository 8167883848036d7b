"""Negative prompts of a guidance are encoded by its pipeline, which notices nothing."""

import functools
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMPipeline, StableDiffusionXLImg2ImgPipeline
from tiny_pipelines import difference, new_pixel_unet, picture

from smoothed_energy import NormalizedAttentionGuidance

sys.path.append(str(Path(__file__).parents[1] / "cli"))
from tiny_model import text_to_image

NEGATIVE = "blurry"
nag = functools.partial(NormalizedAttentionGuidance, alpha=0.5)


@functools.cache
def pipeline():
    pipe = text_to_image()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe, prompt="a cat", **more):
    settings = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent", **more}
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(7)
    latents = pipe(prompt, generator=generator, **settings).images
    # What is drawn next of the same generators.
    return latents, torch.randn(2, generator=generator), torch.randn(2)


def encoded(pipe, prompt):
    return pipe.encode_prompt(prompt, do_classifier_free_guidance=False)[0]


CALLS = {
    "one": {},
    "several": {"prompt": ["a cat", "a dog"]},
    "CFG": {"guidance_scale": 4.0, "negative_prompt": "a mouse"},
    "images of each": {"num_images_per_prompt": 2},
}


@pytest.mark.parametrize("name", CALLS)
def test_they_are_what_the_pipeline_makes_of_them(name):
    pipe, more = pipeline(), CALLS[name]
    plain = drawn(pipe, **more)
    with nag(negative_embeds={"encoder_hidden_states": encoded(pipe, NEGATIVE)}).attach(pipe):
        expected = drawn(pipe, **more)
    steps = []

    def note(pipe, index, time, values):
        steps.append(index)
        return {}

    with nag(negative_prompt=NEGATIVE).attach(pipe) as attachment:
        found = drawn(pipe, callback_on_step_end=note, **more)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(found[1:], plain[1:], strict=True))
    assert difference(found[0], plain[0]) > 1e-4
    assert steps == [0, 1]
    assert attachment.last_run.calls == 2


def test_prompts_may_be_given_as_embeddings():
    pipe = pipeline()
    embeds, _, pooled, _ = pipe.encode_prompt("a cat", do_classifier_free_guidance=False)
    with nag(negative_prompt=NEGATIVE).attach(pipe):
        expected, *_ = drawn(pipe)
        given = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
        found, *_ = drawn(pipe, prompt=None, **given)
    assert torch.equal(found, expected)


def test_pictures_may_be_given():
    pipe = StableDiffusionXLImg2ImgPipeline(**pipeline().components)
    pipe.set_progress_bar_config(disable=True)
    more = {"image": picture()[:, :, :32, :32], "strength": 1.0}
    plain = drawn(pipe, **more)
    with nag(negative_prompt=NEGATIVE).attach(pipe):
        found = drawn(pipe, **more)
    assert difference(found[0], plain[0]) > 1e-4
    assert all(torch.equal(one, other) for one, other in zip(found[1:], plain[1:], strict=True))
    assert "_progress_bar_config" in vars(pipe)


def test_every_run_encodes_for_itself():
    pipe = pipeline()
    with nag(negative_prompt=NEGATIVE).attach(pipe):
        one, *_ = drawn(pipe)
        drawn(pipe, ["a cat", "a dog"])
        again, *_ = drawn(pipe)
    assert torch.equal(one, again)


def test_a_pipeline_without_a_prompt_is_refused():
    pipe = DDIMPipeline(new_pixel_unet(), pipeline().scheduler)
    with pytest.raises((RuntimeError, ValueError), match="takes no prompt"):
        nag(negative_prompt=NEGATIVE).attach(pipe)


def test_a_guider_refuses_them():
    from smoothed_energy.modular import SmoothedEnergyGuider

    with pytest.raises(RuntimeError, match="blocks encode no other prompt"):
        SmoothedEnergyGuider("nag; negative_prompt=blurry")
