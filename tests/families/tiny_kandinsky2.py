"""Tiny Kandinsky 2.1 and 2.2: what they follow is among the keys; a variance that DDIM drops."""

import functools

import torch
from brute_force_attention import Case, Image
from diffusers import (
    KandinskyImg2ImgPipeline,
    KandinskyInpaintPipeline,
    KandinskyPipeline,
    KandinskyV22CombinedPipeline,
    KandinskyV22ControlnetImg2ImgPipeline,
    KandinskyV22ControlnetPipeline,
    KandinskyV22Img2ImgPipeline,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
    VQModel,
)
from tiny_if import DOWN, MID, with_text_among_the_keys
from tiny_pipelines import ddim, noise

WIDTH = 32


@functools.cache
def unet(follows="image", channels=4):
    return with_text_among_the_keys(
        in_channels=channels,
        out_channels=8,
        addition_embed_type=follows,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="text_image_proj" if follows == "text_image" else "image_proj",
        cross_attention_norm=None,
        cross_attention_dim=WIDTH,
    )


@functools.cache
def movq():
    torch.manual_seed(1)
    return VQModel(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        num_vq_embeddings=12,
        vq_embed_dim=4,
    ).eval()


def pipeline(cls, follows, channels):
    parts = {"unet": unet(follows, channels), "scheduler": ddim(), "movq": movq()}
    if follows != "text_image":
        return cls(**parts)

    class WithEmbeddings(cls):
        """What a prompt is embedded as, here random numbers of its own."""

        def _encode_prompt(self, prompt, device, count, do_classifier_free_guidance, *args):
            rows = (2 if do_classifier_free_guidance else 1) * len(prompt)
            return noise(rows, WIDTH, seed=2), noise(rows, 5, WIDTH, seed=3), None

    return WithEmbeddings(**parts, text_encoder=None, tokenizer=None)


def combined():
    """The pipeline that makes the embeddings of pictures by itself."""
    names = ("prior", "image_encoder", "text_encoder", "tokenizer", "scheduler", "image_processor")
    prior = dict.fromkeys([f"prior_{name}" for name in names])
    pipe = KandinskyV22CombinedPipeline(unet=unet(), scheduler=ddim(), movq=movq(), **prior)
    embedded = (EMBEDDED["image_embeds"], EMBEDDED["negative_image_embeds"])
    pipe.prior_pipe = lambda **arguments: embedded
    pipe.decoder_pipe.set_progress_bar_config(disable=True)
    pipe.set_progress_bar_config = lambda **arguments: None
    return pipe


EMBEDDED = {
    "image_embeds": noise(2, WIDTH, seed=4),
    "negative_image_embeds": noise(2, WIDTH, seed=5),
}
SIZE = {"height": 24, "width": 16}
GIVEN = torch.rand(2, 3, 24, 16, generator=torch.Generator().manual_seed(4))
PARTS = torch.ones(2, 1, 24, 16)
PARTS[..., 8:] = 0
HINT = {"hint": noise(2, 3, 96, 64, seed=6)}
PROMPTS = {"prompt": ["a", "b"]}


def case(cls, arguments, follows="image", channels=4, grid=(6, 4)):
    return Case(
        cls.__name__,
        functools.partial(pipeline, cls, follows, channels),
        {**EMBEDDED, **SIZE, "output_type": "pt", "guidance_scale": 1.0, **arguments},
        dict.fromkeys((DOWN, MID), Image(grid, other_keys=True)),
        cfg={"guidance_scale": 5.0},
        scale=5.0,
        sent=lambda prediction: prediction[:, :4],
        denoiser="unet",
    )


INPAINTING = {"image": GIVEN, "mask_image": PARTS}
# These pipelines take the height for the width; that of 2.1 takes squares only.
CHANGED = {"image": [*GIVEN[:, None]], "strength": 1.0, "height": 16, "width": 24}
SQUARE = {**CHANGED, "height": 24}

CASES = []  # of the family of U-Nets, as DeepFloyd IF
MORE = [
    case(KandinskyV22Pipeline, {}),
    case(KandinskyV22Img2ImgPipeline, CHANGED),
    case(KandinskyV22InpaintPipeline, INPAINTING, channels=9),
    case(KandinskyV22ControlnetPipeline, HINT, "image_hint", 8),
    case(KandinskyV22ControlnetImg2ImgPipeline, {**CHANGED, **HINT}, "image_hint", 8),
    case(KandinskyPipeline, PROMPTS, "text_image"),
    case(KandinskyImg2ImgPipeline, {**PROMPTS, **SQUARE}, "text_image", grid=(6, 6)),
    case(KandinskyInpaintPipeline, {**PROMPTS, **INPAINTING}, "text_image", 9),
]
