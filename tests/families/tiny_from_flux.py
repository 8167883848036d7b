"""Tiny pipelines of models that derive from Flux, one of each."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    BriaFiboPipeline,
    BriaFiboTransformer2DModel,
    BriaPipeline,
    BriaTransformer2DModel,
    ChromaImg2ImgPipeline,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
)
from tiny_flux import vae
from tiny_pipelines import noise, picture

WIDTH = 16
SHAPE = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "axes_dims_rope": (4, 6, 6),
}


@functools.cache
def transformer(cls, **changes):
    torch.manual_seed(0)
    return with_sharp_attention(cls(**SHAPE | changes))


def of(cls, model, *others, **changes):
    """A pipeline without text encoder."""
    without = dict.fromkeys(("text_encoder", "tokenizer", *others))
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return cls(vae=vae(), transformer=transformer(model, **changes), scheduler=scheduler, **without)


class LongCatOfEmbeddings(LongCatImagePipeline):
    """Prompts are numbers of embeddings: the pipeline does not take embeddings alone."""

    def encode_prompt(self, prompt=None, num_images_per_prompt=1, prompt_embeds=None):
        ids = torch.zeros(prompt_embeds.shape[1], 3)
        return prompt_embeds, ids


class FiboOfEmbeddings(BriaFiboPipeline):
    """The same, with what the layers of a text encoder give, and a mask for the text."""

    def encode_prompt(self, prompt, guidance_scale=5, **others):
        found = []
        for number, lengths in enumerate(((3, 5), (5, 4))):
            present = (torch.arange(5) < torch.tensor(lengths)[:, None]).float()
            layers = [noise(2, 5, WIDTH, seed=20 + 5 * number + i) for i in range(5)]
            found.append((noise(2, 5, WIDTH, seed=2 + number), present, layers))
        (embeds, present, layers), (negative, absent, others) = found
        ids = torch.zeros(2, 5, 3)
        return embeds, negative, ids, present, absent, layers, others


def chroma(cls=ChromaPipeline):
    shape = {"approximator_num_channels": 8, "approximator_hidden_dim": 16}
    return of(cls, ChromaTransformer2DModel, **shape, approximator_layers=1)


def ovis_image():
    return of(OvisImagePipeline, OvisImageTransformer2DModel, out_channels=16)


def longcat_image():
    others = {"in_channels": 64, "pooled_projection_dim": 8}
    return of(LongCatOfEmbeddings, LongCatImageTransformer2DModel, "text_processor", **others)


def bria():
    return of(BriaPipeline, BriaTransformer2DModel)


def bria_fibo():
    return of(FiboOfEmbeddings, BriaFiboTransformer2DModel, text_encoder_dim=WIDTH)


ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "height": 96,
    "width": 64,
    "guidance_scale": 1.0,
}
GRID = (6, 4)
LAYERS = ("transformer_blocks.1.attn", "single_transformer_blocks.1.attn")


def case(name, pipeline, cfg=None, separate=True, without=(), normalised=None, **more):
    arguments = {key: value for key, value in ARGUMENTS.items() if key not in without}
    rescaling = {} if normalised is None else {"normalised": normalised}
    return Case(
        name,
        pipeline,
        arguments | more,
        dict.fromkeys(LAYERS, Image(GRID, 5)),
        cfg={"guidance_scale": 4.0} | (cfg or {}),
        scale=4.0,
        separate=separate,
        **rescaling,
    )


def limited(combined, c):
    """No token gets a larger norm than with the prompt alone."""
    norms = [x.norm(dim=-1, keepdim=True) for x in (c, combined)]
    return combined * (norms[0] / (norms[1] + 1e-8)).clamp(max=1)


def as_spread(combined, c):
    return 0.7 * combined * (c.std() / combined.std()) + 0.3 * combined


def words(*lengths):
    return torch.stack([(torch.arange(5) < length).float() for length in lengths])


MASKS = {
    "prompt_attention_mask": words(5, 3),
    "negative_prompt_attention_mask": words(2, 4),
}
CHROMA = case("Chroma", chroma, **MASKS)
OVIS = case("Ovis-Image", ovis_image, negative_prompt=None)
LONGCAT = case("LongCat-Image", longcat_image, normalised=limited, enable_prompt_rewrite=False)
BRIA = case("Bria", bria, separate=False)
FIBO = case(
    "Bria Fibo",
    bria_fibo,
    separate=False,
    without=("prompt_embeds", "negative_prompt_embeds"),
    prompt=["", ""],
)
CASES = [CHROMA, OVIS, LONGCAT, BRIA, FIBO]
MORE = [
    case(
        "Chroma, image to image",
        functools.partial(chroma, ChromaImg2ImgPipeline),
        image=picture(),
        strength=0.7,
        num_inference_steps=3,
        **MASKS,
    ),
    case(
        "Bria, normalised",
        bria,
        {"normalize": True},
        separate=False,
        normalised=as_spread,
    ),
]
