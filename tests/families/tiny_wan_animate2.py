"""A tiny pipeline of Wan Animate 2: one segment, from latents to latents.

Its attention stands for flex_attention, which takes a second a run where nothing is compiled.
"""

import functools
from unittest import mock

import torch
from as_ordinary import as_ordinary
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import FlowMatchEulerDiscreteScheduler, WanAnimate2Transformer3DModel
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.transformers import transformer_wan_animate_2 as module
from diffusers.modular_pipelines.wan_animate_2 import denoise
from tiny_pipelines import noise
from torch.nn.attention.flex_attention import create_block_mask, create_mask

WIDTH, LAYERS = 16, 4
# 5 frames of 64 x 96 pixels, and one before them: latents of 3 x 8 x 12.
FRAMES, HEIGHT, WIDE = 5, 64, 96


SIZE = (FRAMES // 4 + 1, HEIGHT * WIDE // 256)
BY_TORCH = module.dispatch_attention_fn


def dense(query, key, value, *, attn_mask, backend=None, **settings):
    """Attention `(B, T, heads, C)` as flex_attention computes it; all other as it is."""
    if backend != AttentionBackendName.FLEX:
        return BY_TORCH(query, key, value, attn_mask=attn_mask, backend=backend, **settings)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    sizes = (1, 1, q.shape[2], k.shape[2])
    seen = create_mask(attn_mask.mask_mod, *sizes, device="cpu")
    logits = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
    return (logits.softmax(-1).nan_to_num() @ v).transpose(1, 2)


class OneSegment(denoise.WanAnimate2SegmentLoopWrapper):
    """A segment whose videos are encoded."""

    block_classes = [  # noqa: RUF012
        denoise.WanAnimate2SegmentSchedulerResetStep,
        denoise.WanAnimate2RefExtractStep,
        denoise.WanAnimate2SegmentDenoiseInner,
    ]
    block_names = ["scheduler_reset", "ref_extract", "denoise_inner"]  # noqa: RUF012

    def __call__(self, components, state):
        with mock.patch.object(module, "dispatch_attention_fn", dense):
            return super().__call__(components, state)


@functools.cache
def transformer():
    torch.manual_seed(0)
    denoiser = with_sharp_attention(
        WanAnimate2Transformer3DModel(
            text_len=5,
            in_dim=8,
            dim=24,
            ffn_dim=32,
            freq_dim=16,
            text_dim=WIDTH,
            out_dim=4,
            num_heads=2,
            num_layers=LAYERS,
            use_img_emb=False,
        )
    )

    def eager(*args, _compile, **kwargs):
        return create_block_mask(*args, **kwargs)

    # As the denoiser makes it, but not compiled.
    with mock.patch.object(module, "create_block_mask", eager):
        denoiser.block_masks[SIZE] = denoiser.create_mask(*SIZE, "cpu")
    return denoiser


def arguments():
    return {
        "latents": noise(4, 3, 8, 12, seed=1),
        "reference_latents": noise(4, 3, 8, 12, seed=2),
        "driving_video_latents": noise(1, 4, 2, 8, 12, seed=3),
        "driving_video_condition": noise(4, 2, 8, 12, seed=4),
        "condition_clip_context": noise(1, 1, WIDTH, seed=5),
        "prompt_ref_embeds": noise(1, 5, WIDTH, seed=6),
        "prompt_embeds": noise(1, 5, WIDTH, seed=7),
        "negative_prompt_embeds": noise(1, 4, WIDTH, seed=8),
        "kv_cache": module.WanAnimate2KVCache(LAYERS),
        "num_segments": 1,
        "max_seq_len": 3 * 24,
        "max_seq_len_ref": 2 * 24,
        "grid_sizes_ref": torch.tensor([[2, 4, 6]]),
        "segment_frame_length": FRAMES,
        "height": HEIGHT,
        "width": WIDE,
        "denoiser_input_fields": {},
    }


def animate2(**components):
    return as_ordinary(
        OneSegment(),
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        **components,
    )


CASES = [
    Case(
        "Wan Animate 2",
        animate2,
        {**arguments(), "guidance_scale": 1.0},
        {"blocks.1.self_attn": Image((3, 4, 6))},
        cfg={"guidance_scale": 3.0},
        scale=3.0,
        separate=True,
    )
]
