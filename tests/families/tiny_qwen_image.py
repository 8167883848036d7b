"""Tiny Qwen-Image pipelines."""

import functools

import PIL.Image
import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageLayeredPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tiny_pipelines import noise, picture

WIDTH = 16


@functools.cache
def transformer(**changes):
    torch.manual_seed(0)
    return with_sharp_attention(
        QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=4,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
            **changes,
        )
    )


@functools.cache
def vae():
    torch.manual_seed(1)
    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1] * 4,
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()


def qwen_image(cls=QwenImagePipeline, *, denoiser=None, **components):
    settings = {**dict.fromkeys(("vae", "text_encoder", "tokenizer")), **components}
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return cls(transformer=denoiser or transformer(), scheduler=scheduler, **settings)


def normalised(combined, conditional):
    """Every token of the result is as long as that of the conditional prediction."""
    lengths = [prediction.norm(dim=-1, keepdim=True) for prediction in (conditional, combined)]
    return combined * lengths[0] / lengths[1]


# The second prompt is shorter.
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "prompt_embeds_mask": MASK,
    "height": 96,
    "width": 64,
    "true_cfg_scale": 1.0,
}
CFG = {
    "true_cfg_scale": 4.0,
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "negative_prompt_embeds_mask": MASK,
}

CASES = [
    Case(
        "Qwen-Image",
        qwen_image,
        ARGUMENTS,
        # Latents of 12 x 8, tokens of 6 x 4; five tokens of text come before.
        {f"transformer_blocks.{n}.attn": Image((6, 4), 5) for n in (1, 2)},
        cfg=CFG,
        scale=4.0,
        separate=True,
        normalised=normalised,
    ),
]


def one(arguments):
    """The same arguments for one prompt."""
    return {name: v[1:] if hasattr(v, "ndim") else v for name, v in arguments.items()}


def edit():
    denoiser = transformer(zero_cond_t=True)
    return qwen_image(QwenImageEditPlusPipeline, denoiser=denoiser, vae=vae(), processor=None)


class LatentsOfLayers(QwenImageLayeredPipeline):
    """Gives latents; in diffusers 0.42 the pipeline fails at `output_type="latent"`."""

    @functools.wraps(QwenImageLayeredPipeline.__call__)
    def __call__(self, *args, **kwargs):
        latents = []

        def keep(pipe, step, time, values):
            latents.append(values["latents"])
            return values

        kwargs |= {"output_type": "pt", "callback_on_step_end": keep}
        super().__call__(*args, **kwargs)
        return (latents[-1],)


def layered():
    return qwen_image(
        LatentsOfLayers,
        denoiser=transformer(use_layer3d_rope=True, use_additional_t_cond=True),
        vae=vae(),
        processor=None,
        # Only its dtype is asked.
        text_encoder=vae(),
    )


PICTURE = PIL.Image.fromarray((255 * picture(seed=6)[0].permute(1, 2, 0)).byte().numpy())

# Two pictures of 96 x 64 pixels follow the image, which is of another shape.
EDIT = Case(
    "Qwen-Image-Edit",
    edit,
    {**one(ARGUMENTS), "image": [PICTURE] * 2, "height": 64, "width": 128},
    {f"transformer_blocks.{n}.attn": Image((4, 8), 5) for n in (1, 2)},
    cfg=one(CFG),
    scale=4.0,
    separate=True,
    sent=lambda prediction: prediction[:, :32],
    normalised=normalised,
)
# The picture and its two layers, then the picture as a condition.
LAYERED = Case(
    "Qwen-Image-Layered",
    layered,
    {
        **{k: v for k, v in one(ARGUMENTS).items() if k not in ("height", "width")},
        "prompt": "a lighthouse",
        "image": PICTURE,
        "layers": 2,
    },
    {f"transformer_blocks.{n}.attn": Image((3, 6, 4), 5) for n in (1, 2)},
    cfg={**one(CFG), "cfg_normalize": False},
    scale=4.0,
    separate=True,
    sent=lambda prediction: prediction[:, :72],
)
