"""Tiny Cosmos pipelines: Predict 1, 2 and 2.5."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    Cosmos2_5_PredictBasePipeline,
    Cosmos2TextToImagePipeline,
    Cosmos2VideoToWorldPipeline,
    CosmosTextToWorldPipeline,
    CosmosTransformer3DModel,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from tiny_pipelines import noise
from tiny_wan import PICTURE, vae, wan

WIDTH = 16
GRID = (3, 4, 6)


@functools.cache
def transformer(**changes):
    torch.manual_seed(0)
    # A padding mask would need torchvision.
    settings = {"in_channels": 4, "extra_pos_embed_type": None, **changes}
    return with_sharp_attention(
        CosmosTransformer3DModel(
            out_channels=4,
            concat_padding_mask=False,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=4,
            mlp_ratio=2,
            text_embed_dim=WIDTH,
            adaln_lora_dim=4,
            max_size=(4, 32, 32),
            patch_size=(1, 2, 2),
            rope_scale=(2.0, 1.0, 1.0),
            **settings,
        )
    )


class Harmless:
    """A safety checker that looks at nothing."""

    def to(self, *args):
        return self


def cosmos(cls, scheduler, denoiser, autoencoder=None):
    components = {"transformer": denoiser, "vae": autoencoder, "scheduler": scheduler}
    texts = {"text_encoder": None, "tokenizer": None}
    return cls(**components, **texts, safety_checker=Harmless())


def text_to_world():
    scheduler = EDMEulerScheduler(
        sigma_min=0.002,
        sigma_max=80,
        sigma_data=0.5,
        prediction_type="epsilon",
        final_sigmas_type="sigma_min",
    )
    return cosmos(
        CosmosTextToWorldPipeline, scheduler, transformer(extra_pos_embed_type="learnable")
    )


def flow(cls, *args, **changes):
    return cosmos(
        cls, FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True), transformer(**changes), *args
    )


ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "height": 64,
    "width": 96,
    "guidance_scale": 1.0,
}
ONE = {name: value[:1] for name, value in ARGUMENTS.items() if "embeds" in name}


def case(family, pipeline, grid=GRID, **arguments):
    images = {f"transformer_blocks.{n}.attn1": Image(grid) for n in (1, 2)}
    arguments = {**ARGUMENTS, **arguments}
    # c + 4 (c - u)
    return Case(family, pipeline, arguments, images, {"guidance_scale": 4.0}, 5.0, separate=True)


# The autoencoder of the first one shrinks 17 frames to 3.
CASES = [case("Cosmos", text_to_world, num_frames=17)]
MORE = [
    case("Cosmos 2, image", lambda: flow(Cosmos2TextToImagePipeline), (1, 4, 6)),
    case(
        "Cosmos 2, video",
        lambda: flow(Cosmos2VideoToWorldPipeline, vae(), in_channels=5),
        **ONE,
        image=PICTURE,
        num_frames=9,
    ),
    case(
        "Cosmos 2.5",
        lambda: cosmos(
            Cosmos2_5_PredictBasePipeline, wan().scheduler, transformer(in_channels=5), vae()
        ),
        **ONE,
        num_frames=9,
        num_latent_conditional_frames=1,
    ),
]
