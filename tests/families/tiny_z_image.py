"""Tiny Z-Image pipelines, with prompts of different lengths."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    ZImageControlNetModel,
    ZImageControlNetPipeline,
    ZImageImg2ImgPipeline,
    ZImageInpaintPipeline,
    ZImageOmniPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from PIL import Image as Picture
from tiny_flux import vae
from tiny_pipelines import mask, noise, picture

WIDTH = 16
SHAPE = {"dim": 32, "n_refiner_layers": 2, "n_heads": 2, "n_kv_heads": 2}


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        ZImageTransformer2DModel(
            in_channels=4,
            n_layers=4,
            cap_feat_dim=WIDTH,
            axes_dims=[4, 6, 6],
            axes_lens=[256, 32, 32],
            **SHAPE,
        )
    )


def controlnet():
    torch.manual_seed(2)
    model = ZImageControlNetModel(
        control_layers_places=[0, 2],
        control_refiner_layers_places=[0, 1],
        control_in_dim=4,
        add_control_noise_refiner="control_noise_refiner",
        **SHAPE,
    )
    return with_sharp_attention(model)


def z_image(cls=ZImagePipeline, **components):
    without = {"text_encoder": None, "tokenizer": None}
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return cls(vae=vae(), transformer=transformer(), scheduler=scheduler, **without, **components)


class OmniOfLatents(ZImageOmniPipeline):
    """Omni with a reference that is not looked at by a vision model, nor encoded."""

    def prepare_image_latents(self, images, batch_size, device, dtype):
        latents = [noise(4, 1, 8, 10, seed=11) for _ in images]
        return [list(latents) for _ in range(batch_size)]

    def prepare_siglip_embeds(self, images, batch_size, device, dtype):
        return [[] for _ in range(batch_size)]


def texts(*lengths, seed=2):
    return [noise(length, WIDTH, seed=seed + row) for row, length in enumerate(lengths)]


# Image and text are each padded to a multiple of 32 tokens.
ARGUMENTS = {
    "prompt_embeds": texts(5, 40),
    "negative_prompt_embeds": texts(3, 35, seed=5),
    "height": 96,
    "width": 64,
    "guidance_scale": 0.0,
}
GRID = (6, 4)
LAYERS = ("layers.1.attention", "layers.2.attention")


def sent(prediction):
    return -prediction.squeeze(2)


def limited(combined, c):
    """The norm is that of the prediction with the prompt, if it was larger."""
    norms = [x.flatten(1).norm(dim=1)[:, None, None, None] for x in (c, combined)]
    return combined * (norms[0] / norms[1]).clamp(max=1)


def case(name, pipeline=z_image, cfg=None, images=None, **more):
    changes = {key: more.pop(key) for key in ("normalised",) if key in more}
    return Case(
        name,
        pipeline,
        {**ARGUMENTS, **more},
        images or dict.fromkeys(LAYERS, Image(GRID)),
        # c + s (c - u) is u + (1 + s) (c - u).
        cfg={"guidance_scale": 3.0} | (cfg or {}),
        scale=4.0,
        order="cu",
        sent=sent,
        **changes,
    )


CASES = [case("Z-Image")]
MORE = [
    case("Z-Image, limited norms", cfg={"cfg_normalization": True}, normalised=limited),
    case(
        "Z-Image, the image alone first",
        images={"noise_refiner.1.attention": Image(GRID), LAYERS[1]: Image(GRID)},
    ),
    case(
        "Z-Image, longer negative prompts",
        prompt_embeds=texts(5, 7),
        negative_prompt_embeds=texts(40, 3, seed=5),
    ),
    case(
        "Z-Image, image to image",
        functools.partial(z_image, ZImageImg2ImgPipeline),
        image=picture(),
        strength=0.7,
        num_inference_steps=3,
    ),
    case(
        "Z-Image, inpainting",
        functools.partial(z_image, ZImageInpaintPipeline),
        image=picture(),
        mask_image=mask(),
        strength=0.7,
        num_inference_steps=3,
    ),
    case(
        "Z-Image, ControlNet",
        lambda: z_image(ZImageControlNetPipeline, controlnet=controlnet()),
        control_image=picture(seed=1),
        # Without the negative prompts the sequence is shorter than what the ControlNet gives.
        prompt_embeds=texts(5, 7),
        negative_prompt_embeds=texts(40, 3, seed=5),
    ),
    case(
        "Z-Image Omni",
        lambda: z_image(OmniOfLatents, siglip=None, siglip_processor=None),
        image=[Picture.effect_noise((80, 64), 90).convert("RGB")],
        prompt_embeds=[texts(5, 3, 2), texts(2, 40, 2, seed=5)],
        negative_prompt_embeds=[texts(5, 3, 2, seed=8), texts(2, 4, 2, seed=9)],
        # The reference has 20 tokens; texts and pictures are padded one by one.
        images={LAYERS[0]: Image(GRID, (128, 160, 128, 128))},
    ),
]
