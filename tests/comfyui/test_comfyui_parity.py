"""The same weights and settings give the same guided prediction in ComfyUI and in diffusers."""

import pytest
import torch
from tiny_comfy import IS_REAL, noise, prompt, sampled, unet

from smoothed_energy.integrations.comfyui.guide import guide, layers_of
from smoothed_energy.methods import guidance_from_text

pytestmark = pytest.mark.skipif(
    not IS_REAL, reason="needs ComfyUI's own U-Net: set COMFYUI_PATH to a checkout"
)

TIMESTEP = 500


def of_diffusers():
    """The tiny U-Net of ComfyUI as one of diffusers."""
    from comfy.utils import unet_to_diffusers
    from diffusers import UNet2DConditionModel

    model = unet().model
    other = UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        transformer_layers_per_block=(2, 1),
        reverse_transformer_layers_per_block=None,
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    own = model.diffusion_model.state_dict()
    names = unet_to_diffusers(model.model_config.unet_config)
    weights = {name: own[found] for name, found in names.items() if found in own}
    missing, unexpected = other.load_state_dict(weights, strict=False)
    assert not missing
    assert not unexpected
    return other.eval()


@pytest.mark.parametrize(
    "text",
    [
        "seg; scale=3; blur=gaussian:1; layers=d1,m0,u2",
        "pag; scale=2; layers=u0; formulation=unconditional",
        "erg; scale=3; layers=mid",
        "slg; scale=2; layers=u1; skip=feed-forward",
        "sag; scale=0.75; layers=m0",
        "seg; scale=3; combine=rescale:0.7",
        "apg; norm=5",
        "cfg-zero; zero_steps=0",
        "tcfg",
        "fdg",
        "mambo-g",
        "tag",
    ],
)
def test_one_step_is_that_of_diffusers(text):
    sampling = unet().model.model_sampling
    sigma = sampling.sigmas[TIMESTEP]
    sigmas = torch.stack([sigma, torch.zeros(())])
    latents = noise()
    # One step of Euler to no noise ends at the estimate of the clean picture.
    denoised = unet().model.process_latent_in(
        sampled(guide(unet(), text), sigmas=sigmas, latents=latents)
    )
    x = sigma * latents

    denoiser = of_diffusers()
    both = torch.cat([prompt(2)[0][0].expand(2, -1, -1), prompt(1)[0][0].expand(2, -1, -1)])
    with guidance_from_text(text).attach(denoiser) as attachment:
        attachment.step(
            0,
            1,
            conditional_rows=2,
            sigma=float(sigma),
            timestep=float(TIMESTEP),
            cfg_scale=4.0,
            prediction_type="epsilon",
            next_sigma=0.0,
        )
        sample = (x / (sigma**2 + 1) ** 0.5).repeat(2, 1, 1, 1)
        u, c = denoiser(sample, TIMESTEP, both).sample.chunk(2)
    expected = x - sigma * (u + 4 * (c - u))
    plain = unet().model.process_latent_in(sampled(unet(), sigmas=sigmas, latents=latents))
    effect = (denoised - plain).norm()
    assert effect > 5e-3 * expected.norm()
    assert (denoised - expected).norm() < 1e-2 * effect


def test_layers_have_the_codes_of_diffusers():
    from smoothed_energy.families.layer_selection import self_attention_layers

    found = [
        [(layer.code, layer.dotted, layer.part, layer.heads, layer.width) for layer in layers]
        for layers in (layers_of(unet()), self_attention_layers(of_diffusers()))
    ]
    assert found[0] == found[1]
