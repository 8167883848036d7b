"""Tiny Stable Cascade and Wuerstchen, priors and decoders: attention to a map and to the text."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    DDPMScheduler,
    DDPMWuerstchenScheduler,
    StableCascadeCombinedPipeline,
    StableCascadeDecoderPipeline,
    StableCascadePriorPipeline,
    StableCascadeUNet,
    WuerstchenDecoderPipeline,
    WuerstchenPriorPipeline,
)
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.pipelines.deprecated.wuerstchen import WuerstchenDiffNeXt, WuerstchenPrior
from tiny_pipelines import noise

WIDTH = 16
LEVEL = ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock")


def cascade_unet(**changes):
    torch.manual_seed(0)
    settings = {
        "in_channels": 4,
        "out_channels": 4,
        "timestep_ratio_embedding_dim": 8,
        "conditioning_dim": 16,
        "block_out_channels": (16, 32),
        "num_attention_heads": (2, 2),
        "down_num_layers_per_block": (1, 1),
        "up_num_layers_per_block": (1, 1),
        "block_types_per_layer": (LEVEL, LEVEL),
        "clip_text_pooled_in_channels": WIDTH,
        "clip_seq": 2,
        **changes,
    }
    return with_sharp_attention(StableCascadeUNet(**settings), factor=4.0)


@functools.cache
def prior():
    """Its levels have the same size, as in Stable Cascade."""
    return cascade_unet(
        clip_text_in_channels=WIDTH, clip_image_in_channels=WIDTH, switch_level=(False,)
    )


@functools.cache
def decoder():
    return cascade_unet(patch_size=2, effnet_in_channels=4, self_attn=(False, True))


@functools.cache
def wuerstchen_prior():
    torch.manual_seed(0)
    model = WuerstchenPrior(c_in=4, c=16, c_cond=WIDTH, c_r=8, depth=3, nhead=2)
    model.set_attn_processor(AttnProcessor2_0())
    with torch.no_grad():
        model.out[1].weight *= 0.3  # it divides by 1 - b
    return with_sharp_attention(model, factor=4.0)


@functools.cache
def wuerstchen_decoder():
    torch.manual_seed(0)
    model = WuerstchenDiffNeXt(
        c_r=8,
        c_cond=16,
        c_hidden=[16, 32],
        nhead=[-1, 2],
        blocks=[1, 1],
        level_config=["CT", "CTA"],
        inject_effnet=[False, True],
        effnet_embd=4,
        clip_embd=WIDTH,
    )
    return with_sharp_attention(model, factor=4.0)


PARTS = {"tokenizer": None, "text_encoder": None}


class CascadePrior(StableCascadePriorPipeline):
    """It asks its text encoder for its type, even where prompts are embedded already."""

    def encode_prompt(self, prompt_embeds, prompt_embeds_pooled, **given):
        negative = [f"negative_{name}" for name in ("prompt_embeds", "prompt_embeds_pooled")]
        return prompt_embeds, prompt_embeds_pooled, *[given[name] for name in negative]


def cascade_prior(scheduler=DDPMWuerstchenScheduler):
    return CascadePrior(prior=prior(), scheduler=scheduler(), **PARTS)


def cascade_decoder():
    return StableCascadeDecoderPipeline(
        decoder=decoder(),
        scheduler=DDPMWuerstchenScheduler(),
        vqgan=None,
        latent_dim_scale=4.0,
        **PARTS,
    )


class OfPrompts(WuerstchenDecoderPipeline):
    """What a prompt is embedded as, here random numbers of its own."""

    def encode_prompt(self, prompt, device, count, has_cfg, negative_prompt):
        return noise(2, 5, WIDTH, seed=2), noise(2, 5, WIDTH, seed=3) if has_cfg else None


class PriorOfPrompts(WuerstchenPriorPipeline):
    """As `CascadePrior`."""

    def encode_prompt(self, prompt_embeds, negative_prompt_embeds, **given):
        return prompt_embeds, negative_prompt_embeds


def of_wuerstchen_prior():
    return PriorOfPrompts(prior=wuerstchen_prior(), scheduler=DDPMWuerstchenScheduler(), **PARTS)


def of_wuerstchen_decoder():
    return OfPrompts(
        decoder=wuerstchen_decoder(),
        scheduler=DDPMWuerstchenScheduler(),
        vqgan=None,
        latent_dim_scale=4.0,
        **PARTS,
    )


PICTURES = {"image_embeddings": noise(2, 4, 3, 2, seed=6)}
EMBEDDED = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "prompt_embeds_pooled": noise(2, 1, WIDTH, seed=3),
}
SIZE = {"height": 256, "width": 170}
OF_PRIOR = {**EMBEDDED, **SIZE}
NEGATIVE = {
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=4),
    "negative_prompt_embeds_pooled": noise(2, 1, WIDTH, seed=5),
}


def case(family, pipeline, denoiser, arguments, images, **cfg):
    return Case(
        family,
        pipeline,
        {"guidance_scale": 0.0, "output_type": "pt", **arguments},
        {name: Image(grid, other_keys=True) for name, grid in images.items()},
        cfg={"guidance_scale": 4.0, **cfg},
        scale=4.0,
        denoiser=denoiser,
        order="cu",
    )


LAYERS = {"down_blocks.1.2.attention": (6, 4), "up_blocks.1.2.attention": (6, 4)}
COARSE = {"down_blocks.1.2.attention": (3, 2), "up_blocks.0.2.attention": (3, 2)}

CASES = [
    case("Stable Cascade", cascade_prior, "prior", OF_PRIOR, LAYERS, **NEGATIVE),
    case(
        "Wuerstchen",
        of_wuerstchen_decoder,
        "decoder",
        {"prompt": ["a", "b"], **PICTURES, "output_type": "latent"},
        {"down_blocks.1.3.attention": (3, 2), "up_blocks.0.2.attention": (3, 2)},
    ),
]
MORE = [
    case(
        "Stable Cascade, another scheduler",
        functools.partial(cascade_prior, DDPMScheduler),
        "prior",
        OF_PRIOR,
        LAYERS,
        **NEGATIVE,
    ),
    case(
        "Stable Cascade, decoder",
        cascade_decoder,
        "decoder",
        {**EMBEDDED, **PICTURES, "output_type": "latent"},
        COARSE,
        **NEGATIVE,
    ),
    case(
        "Wuerstchen, prior",
        of_wuerstchen_prior,
        "prior",
        {"prompt_embeds": EMBEDDED["prompt_embeds"], **SIZE},
        {"blocks.5.attention": (6, 4)},
        negative_prompt_embeds=NEGATIVE["negative_prompt_embeds"],
    ),
]


class OfPrior(dict):
    """What a prior gives: the embeddings of pictures and prompts."""

    image_embeddings = PICTURES["image_embeddings"]


def cascade_combined():
    """The pipeline of both stages, whose prior gives what it is told."""
    prior_parts = {f"prior_{name}": None for name in ("text_encoder", "tokenizer", "scheduler")}
    pipe = StableCascadeCombinedPipeline(
        decoder=decoder(),
        scheduler=DDPMWuerstchenScheduler(),
        vqgan=None,
        prior_prior=prior(),
        **PARTS,
        **prior_parts,
    )
    pipe.decoder_pipe.register_to_config(latent_dim_scale=4.0)
    pipe.prior_pipe = lambda **given: OfPrior(**EMBEDDED, **NEGATIVE)
    pipe.decoder_pipe.set_progress_bar_config(disable=True)
    pipe.set_progress_bar_config = lambda **settings: None
    return pipe
