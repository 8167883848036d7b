"""A tiny ConsisID pipeline, without a face."""

import functools

import torch
from brute_force_attention import Case
from comparison import with_sharp_attention
from diffusers import CogVideoXDDIMScheduler, ConsisIDPipeline, ConsisIDTransformer3DModel
from tiny_cogvideox import CASES as COGVIDEOX
from tiny_cogvideox import TEXT, WIDTH, vae


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        ConsisIDTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=8,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=WIDTH,
            num_layers=4,
            sample_width=12,
            sample_height=8,
            sample_frames=9,
            max_text_seq_length=TEXT,
            use_rotary_positional_embeddings=True,
        )
    )


def consisid():
    without = dict.fromkeys(("text_encoder", "tokenizer"))
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    return ConsisIDPipeline(transformer=transformer(), vae=vae(), scheduler=scheduler, **without)


FROM_PICTURE = COGVIDEOX[-1]
CASES = [
    Case(
        "ConsisID",
        consisid,
        FROM_PICTURE.arguments,
        FROM_PICTURE.images,
        cfg=FROM_PICTURE.cfg,
        scale=FROM_PICTURE.scale,
    )
]
