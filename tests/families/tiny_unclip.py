"""Tiny UnCLIP: its decoder is guided, its prior and its upscalers are not."""

import functools

import torch
from brute_force_attention import Case, Image
from diffusers import (
    PriorTransformer,
    UnCLIPImageVariationPipeline,
    UnCLIPPipeline,
    UnCLIPScheduler,
    UNet2DModel,
)
from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel
from tiny_if import DOWN, MID, with_text_among_the_keys
from tiny_pipelines import noise

WIDTH = 32
# The second prompt is shorter.
MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


@functools.cache
def decoder():
    # Pictures are squares.
    return with_text_among_the_keys(
        in_channels=3,
        sample_size=12,
        class_embed_type="identity",
        encoder_hid_dim=None,
        addition_embed_type=None,
        cross_attention_norm=None,
        cross_attention_dim=WIDTH,
    )


@functools.cache
def parts():
    """What the pipelines have besides."""
    torch.manual_seed(1)
    upscaler = UNet2DModel(
        sample_size=16,
        in_channels=6,
        out_channels=3,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        add_attention=False,
        down_block_types=("ResnetDownsampleBlock2D",) * 2,
        up_block_types=("ResnetUpsampleBlock2D",) * 2,
    )
    text_proj = UnCLIPTextProjModel(
        clip_embeddings_dim=WIDTH, time_embed_dim=64, cross_attention_dim=WIDTH
    )
    return {
        "text_proj": text_proj.eval(),
        "super_res_first": upscaler.eval(),
        "super_res_last": upscaler,
        "text_encoder": None,
        "tokenizer": None,
    }


@functools.cache
def prior():
    torch.manual_seed(2)
    return PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=4,
        embedding_dim=WIDTH,
        num_layers=1,
        num_embeddings=5,
        additional_embeddings=4,
    ).eval()


def schedulers(*names):
    learned = Drawn(variance_type="learned_range", clip_sample=False)
    return {
        f"{name}_scheduler": learned if name == "decoder" else UnCLIPScheduler() for name in names
    }


def embedded(count, has_cfg):
    rows = 2 if has_cfg else 1
    mask = MASK[:count].repeat(rows, 1)
    return noise(rows * count, WIDTH, seed=2), noise(rows * count, 5, WIDTH, seed=3), mask


class Drawn(UnCLIPScheduler):
    """It keeps what the decoder has drawn: in the end numbers above 1 are 1."""

    def step(self, *args, **kwargs):
        output = super().step(*args, **kwargs)
        self.drawn = output.prev_sample
        return output


class OfPrompts(UnCLIPPipeline):
    """As it is, with the names that other pipelines have."""

    def _encode_prompt(self, prompt, device, count, do_classifier_free_guidance, *args):
        return embedded(len(prompt), do_classifier_free_guidance)

    def __call__(
        self,
        prompt,
        num_inference_steps=2,
        super_res_num_inference_steps=2,
        prior_guidance_scale=1.0,
        decoder_guidance_scale=1.0,
        generator=None,
        output_type="",
    ):
        """What the decoder has drawn."""
        super().__call__(
            prompt,
            prior_num_inference_steps=2,
            decoder_num_inference_steps=num_inference_steps,
            super_res_num_inference_steps=super_res_num_inference_steps,
            prior_guidance_scale=prior_guidance_scale,
            decoder_guidance_scale=decoder_guidance_scale,
            generator=generator,
            output_type="np",
        )
        return (self.decoder_scheduler.drawn,)


class OfPictures(UnCLIPImageVariationPipeline):
    """As `OfPrompts`."""

    def _encode_prompt(self, prompt, device, count, do_classifier_free_guidance):
        return embedded(len(prompt), do_classifier_free_guidance)

    def _encode_image(self, image, device, count, embeddings):
        return embeddings

    def __call__(
        self,
        image_embeddings,
        num_inference_steps=2,
        super_res_num_inference_steps=2,
        decoder_guidance_scale=1.0,
        generator=None,
        output_type="",
    ):
        """What the decoder has drawn."""
        super().__call__(
            image_embeddings=image_embeddings,
            decoder_num_inference_steps=num_inference_steps,
            super_res_num_inference_steps=super_res_num_inference_steps,
            decoder_guidance_scale=decoder_guidance_scale,
            generator=generator,
            output_type="np",
        )
        return (self.decoder_scheduler.drawn,)


def of_prompts():
    both = schedulers("prior", "decoder", "super_res")
    return OfPrompts(prior=prior(), decoder=decoder(), **parts(), **both)


def of_pictures():
    without = {"feature_extractor": None, "image_encoder": None}
    both = schedulers("decoder", "super_res")
    return OfPictures(decoder=decoder(), **parts(), **both, **without)


def case(family, pipeline, arguments, scale=5.0, **cfg):
    return Case(
        family,
        pipeline,
        arguments,
        dict.fromkeys((DOWN, MID), Image((6, 6), other_keys=True)),
        cfg={"decoder_guidance_scale": scale, **cfg},
        scale=scale,
        denoiser="decoder",
        scheduler="decoder_scheduler",
        variance=True,
    )


PROMPTS = {"prompt": ["a", "b"]}
CASES = []  # of the family of U-Nets
MORE = [
    case("UnCLIP", of_prompts, PROMPTS),
    # The prior has CFG, and so has the decoder, with a scale below 1.
    case("UnCLIP, CFG of the prior", of_prompts, PROMPTS, 0.5, prior_guidance_scale=4.0),
    case("UnCLIP, variations", of_pictures, {"image_embeddings": noise(2, WIDTH, seed=4)}),
]
