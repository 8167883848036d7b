"""Tiny pipelines with random weights, and the comparison that all tests of them make.

The autoencoder shrinks each side by 8, as those of Stable Diffusion do. A U-Net has two levels, so
a picture of 96 x 64 pixels has latents of 12 x 8 and 6 x 4 tokens in the middle, and one of
72 x 40 pixels has 9 x 5 and, rounded up, 5 x 3.
"""

import functools
import inspect

import torch
from brute_force_guidance import Branches, Term, brute_force
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)

from smoothed_energy import GaussianBlur, SmoothedEnergyGuidance

TEXT_WIDTH = 32
SIZE = (96, 64)

# Greatest difference allowed, over the greatest absolute value of the result.
TOLERANCE = 1e-4
# Guidance must change the result by this much more, so that a test can fail.
MARGIN = 100

DOWN = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
MID = "mid_block.attentions.0.transformer_blocks.0.attn1"
UP = (
    "up_blocks.1.attentions.0.transformer_blocks.0.attn1",
    "up_blocks.1.attentions.1.transformer_blocks.0.attn1",
)
XL_MID = (
    "mid_block.attentions.0.transformer_blocks.0.attn1",
    "mid_block.attentions.0.transformer_blocks.1.attn1",
)


def with_sharp_attention(unet):
    """Self-attention far from uniform, as trained models have: else a blur changes little."""
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            attention = "attn1" in name or (".attentions." in name and "transformer" not in name)
            if attention and name.endswith(("to_q.weight", "to_k.weight")):
                parameter *= 4
    return unet.eval()


def new_unet(**changes):
    """A U-Net like Stable Diffusion's: self-attention in `DOWN`, `MID` and `UP`."""
    torch.manual_seed(0)
    settings = {
        "sample_size": 12,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 2,
    }
    return with_sharp_attention(UNet2DConditionModel(**{**settings, **changes}))


def new_xl_unet(*, time_ids=6, **changes):
    """A U-Net like SDXL's: two layers in the middle, `XL_MID`."""
    settings = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 8 * time_ids + TEXT_WIDTH,
    }
    return new_unet(**{**settings, **changes})


def new_pixel_unet(**changes):
    """A U-Net without text, self-attention in the middle only."""
    torch.manual_seed(0)
    settings = {
        "sample_size": (12, 8),
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "attention_head_dim": 32,
    }
    return with_sharp_attention(UNet2DModel(**{**settings, **changes}))


def new_controlnet(unet, seed):
    """A ControlNet whose output is not zero."""
    torch.manual_seed(seed)
    controlnet = ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=(8, 8, 8, 8), load_weights_from_unet=False
    )
    with torch.no_grad():
        for parameter in controlnet.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return controlnet.eval()


unet = functools.cache(new_unet)
xl_unet = functools.cache(new_xl_unet)


@functools.cache
def vae():
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8] * 4,
        norm_num_groups=4,
        latent_channels=4,
    ).eval()


def ddim(**changes):
    return DDIMScheduler(
        **{
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
            **changes,
        }
    )


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd(cls=StableDiffusionPipeline, *, model=None, scheduler=None, **components):
    """A Stable Diffusion pipeline without text encoder."""
    settings = {
        "vae": vae(),
        "unet": model or unet(),
        "scheduler": scheduler or ddim(),
        "text_encoder": None,
        "tokenizer": None,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    accepted = inspect.signature(cls).parameters
    settings = {name: value for name, value in settings.items() if name in accepted}
    return quiet(cls(**settings, **components))


def xl(cls=StableDiffusionXLPipeline, *, model=None, scheduler=None, **components):
    """An SDXL pipeline without text encoders."""
    settings = {"text_encoder": None, "text_encoder_2": None, "tokenizer": None}
    settings |= {"tokenizer_2": None}
    euler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    return quiet(
        cls(
            vae=vae(),
            unet=model or xl_unet(),
            scheduler=scheduler or euler,
            **{**settings, **components},
        )
    )


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture(height=SIZE[0], width=SIZE[1], *, seed=0, channels=3, count=1):
    """Random pictures in [0, 1], smooth enough to be told apart by an autoencoder."""
    small = torch.rand(
        count, channels, height // 8, width // 8, generator=torch.Generator().manual_seed(seed)
    )
    return torch.nn.functional.interpolate(small, (height, width), mode="bilinear")


def mask(height=SIZE[0], width=SIZE[1]):
    """White in the upper left, black elsewhere."""
    pixels = torch.zeros(1, 1, height, width)
    pixels[:, :, : height // 2, : 3 * width // 4] = 1
    return pixels


def prompts(count=1):
    """Embeddings of prompts and negative prompts."""
    return {
        "prompt_embeds": noise(count, 5, TEXT_WIDTH, seed=2),
        "negative_prompt_embeds": noise(count, 5, TEXT_WIDTH, seed=3),
    }


def xl_prompts(count=1):
    return {
        **prompts(count),
        "pooled_prompt_embeds": noise(count, TEXT_WIDTH, seed=4),
        "negative_pooled_prompt_embeds": noise(count, TEXT_WIDTH, seed=5),
    }


def size(height=SIZE[0], width=SIZE[1]):
    return {"height": height, "width": width}


def latents_of(pipe, /, **arguments):
    """A function that runs the pipeline, always on the same random numbers, to latents."""

    def run():
        torch.manual_seed(7)
        settings = {"output_type": "latent", "num_inference_steps": 2}
        generator = torch.Generator().manual_seed(7)
        return pipe(**{**settings, **arguments}, generator=generator).images

    return run


def difference(one, other):
    """The greatest difference, over the greatest absolute value of `other`."""
    one, other = torch.as_tensor(one).double(), torch.as_tensor(other).double()
    assert one.shape == other.shape
    assert other.isfinite().all()
    return float((one - other).abs().max() / other.abs().max())


def mid_grids(grid=(6, 4)):
    return {MID: grid}


def xl_mid_grids(grid=(6, 4)):
    return dict.fromkeys(XL_MID, grid)


def cfg(scale, rescale=0.0):
    """Branches of a pipeline under classifier-free guidance."""
    return Branches("uc", guidance_scale=scale, rescale=rescale)


ALONE = Branches()


def guidance_for(term, **changes):
    """The package's words for a term, layers by name."""
    settings = {"scale": term.scale, "layers": list(term.grids), **changes}
    return SmoothedEnergyGuidance(blur=GaussianBlur(sigma=term.sigma), **settings)


def assert_guided_as_by_brute_force(
    pipe, run, terms, branches=ALONE, *, guidances=None, replay=(True,), variance=False
):
    """Attached guidance gives what brute force gives, which is not what no guidance gives.

    Args:
        pipe: The pipeline.
        run: A function that runs it.
        terms: The perturbations of the brute force.
        branches: The pipeline's own guidance; see `brute_force`.
        guidances: The same perturbations as guidances, if they are more than layers, sigma and
            scale.
        replay: The values of `replay` to try.
        variance: Whether the U-Net predicts a variance too.
    """
    terms = [terms] if isinstance(terms, Term) else terms
    guidances = guidances or [guidance_for(term) for term in terms]
    plain = run()
    with brute_force(pipe.unet, terms, branches, variance=variance):
        expected = run()
    changed = difference(plain, expected)
    errors = []
    for value in replay:
        attachments = [guidance.attach(pipe, replay=value) for guidance in guidances]
        try:
            errors.append(difference(run(), expected))
        finally:
            for attachment in attachments:
                attachment.detach()
        assert all(attachment.last_run.guided_calls for attachment in attachments)
    print(f"\nerror {max(errors):.1e}, effect {changed:.1e}")
    assert changed > MARGIN * TOLERANCE, "the guidance does too little for a test"
    assert max(errors) < TOLERANCE
