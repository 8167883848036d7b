"""Tiny Motif-Video pipelines: text after the video, two stacks, and last blocks without text."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    MotifVideoImage2VideoPipeline,
    MotifVideoPipeline,
    MotifVideoTransformer3DModel,
)
from PIL import Image as Picture
from tiny_pipelines import noise
from tiny_wan import vae

WIDTH, SEEN = 16, 8
GRID = (3, 4, 6)


@functools.cache
def transformer(last=0):
    torch.manual_seed(0)
    return with_sharp_attention(
        MotifVideoTransformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            num_single_layers=3,
            num_decoder_layers=last,
            text_embed_dim=WIDTH,
            image_embed_dim=SEEN,
            rope_axes_dim=(4, 6, 6),
            enable_text_cross_attention_dual=True,
            enable_text_cross_attention_single=True,
        )
    )


class OfPicture(MotifVideoImage2VideoPipeline):
    """What a picture is seen as, here random numbers of its own."""

    def _prepare_first_frame_conditioning(self, *args, **kwargs):
        *latents, _ = super()._prepare_first_frame_conditioning(*args, **kwargs)
        return *latents, noise(1, 3, SEEN, seed=6)


def motif_video(cls=MotifVideoPipeline, *, guider=None, last=0):
    return cls(
        transformer=transformer(last),
        vae=vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        guider=guider or ClassifierFreeGuidance(1.0),
        text_encoder=None,
        tokenizer=None,
        feature_extractor=None,
    )


# The second prompt is shorter.
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "prompt_attention_mask": MASK,
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=4),
    "negative_prompt_attention_mask": MASK.flip(0),
    "height": 64,
    "width": 96,
    "num_frames": 9,
}
IMAGES = {
    name: Image(GRID) for name in ("transformer_blocks.1.attn", "single_transformer_blocks.0.attn")
}
IMAGES_WITHOUT_TEXT = {"single_transformer_blocks.2.attn": Image(GRID)}


def case(family, scale=6.0, *, images=IMAGES, arguments=ARGUMENTS, **options):
    guider = ClassifierFreeGuidance(scale)
    pipeline = functools.partial(motif_video, guider=guider, **options)
    return Case(family, pipeline, arguments, images, {}, scale, separate=True)


# CFG is a matter of the guider: no argument of the call turns it on.
WITHOUT_CFG = case("Motif-Video, without CFG", 1.0)
CASES = [case("Motif-Video")]
MORE = [
    case("last blocks", images=IMAGES_WITHOUT_TEXT, last=1),
    case(
        "picture to video",
        cls=OfPicture,
        # It takes one picture, and one prompt.
        arguments={
            **{name: x[:1] if torch.is_tensor(x) else x for name, x in ARGUMENTS.items()},
            "prompt": None,
            "image": Picture.linear_gradient("L").convert("RGB"),
        },
    ),
]
