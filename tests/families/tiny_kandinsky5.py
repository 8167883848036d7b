"""Tiny Kandinsky 5 pipelines."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky5I2IPipeline,
    Kandinsky5I2VPipeline,
    Kandinsky5T2IPipeline,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
)
from diffusers.models.transformers import transformer_kandinsky
from tiny_pipelines import noise, picture, vae

WIDTH, POOLED = 16, 24


class _WithoutRounding:
    bfloat16 = torch.float32

    def __getattr__(self, name):
        return getattr(torch, name)


# The model rounds queries and keys, so that a difference in the last bit of its input becomes one
# of a thousandth: two ways to compute the same could not be compared.
transformer_kandinsky.torch = _WithoutRounding()


@functools.cache
def transformer(**changes):
    torch.manual_seed(0)
    denoiser = with_sharp_attention(
        Kandinsky5Transformer3DModel(
            in_text_dim=WIDTH,
            in_text_dim2=POOLED,
            time_dim=16,
            model_dim=32,
            ff_dim=32,
            num_text_blocks=1,
            num_visual_blocks=4,
            axes_dims=(4, 6, 6),
            **changes,
        )
    )
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if name.endswith(("to_query.weight", "to_key.weight", "to_value.weight")):
                parameter *= 3
            if name.endswith(("query_norm.weight", "key_norm.weight")):
                parameter *= 2
    return denoiser


@functools.cache
def video_vae():
    torch.manual_seed(1)
    return AutoencoderKLHunyuanVideo(
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    ).eval()


def kandinsky5(cls=Kandinsky5T2VPipeline, *, vae=video_vae, **changes):
    names = [f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", "_2")]
    pipe = cls(
        vae=vae(),
        transformer=transformer(**changes),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        **dict.fromkeys(names),
    )
    # Those of pictures take no others, (W, H).
    pipe.resolutions = [(96, 64)]
    return pipe


def prompts(prefix, length, seed):
    return {
        f"{prefix}prompt_embeds_qwen": noise(2, length, WIDTH, seed=seed),
        f"{prefix}prompt_embeds_clip": noise(2, POOLED, seed=seed + 1),
        f"{prefix}prompt_cu_seqlens": torch.tensor([0, length, 2 * length], dtype=torch.int32),
    }


def case(name, pipeline, grid, sent=lambda prediction: prediction, **arguments):
    return Case(
        name,
        pipeline,
        {**prompts("", 5, 2), "height": 64, "width": 96, "guidance_scale": 1.0, **arguments},
        {f"visual_transformer_blocks.{n}.self_attention": Image(grid) for n in (1, 2)},
        # The negative prompt has another length.
        cfg={**prompts("negative_", 7, 4), "guidance_scale": 5.0},
        scale=5.0,
        separate=True,
        sent=sent,
    )


# 9 frames of 64 x 96 pixels: latents of 3 x 8 x 12.
CASES = [case("Kandinsky 5", kandinsky5, (3, 4, 6), num_frames=9)]
MORE = [
    case(
        "Kandinsky 5, image to video",
        functools.partial(kandinsky5, Kandinsky5I2VPipeline, visual_cond=True),
        (5, 2, 4),
        # The first frame is the picture.
        sent=lambda prediction: prediction[:, 1:],
        num_frames=17,
        height=32,
        width=64,
        image=picture(32, 64, seed=6),
    ),
    case(
        "Kandinsky 5, text to image",
        functools.partial(kandinsky5, Kandinsky5T2IPipeline, vae=vae),
        (1, 4, 6),
    ),
    case(
        "Kandinsky 5, image to image",
        functools.partial(kandinsky5, Kandinsky5I2IPipeline, vae=vae, visual_cond=True),
        (1, 4, 6),
        image=picture(64, 96, seed=6, count=2),
    ),
]
