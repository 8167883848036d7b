"""Guidance in a sampling loop of one's own around the parts of a pipeline."""

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.models import load


@torch.no_grad()
def sample(
    pipe: DiffusionPipeline, prompt: str, guidance: SmoothedEnergyGuidance, cfg: float, steps: int
) -> Tensor:
    """Latents of one picture, `(1, C, H, W)`."""
    unet, scheduler, size = pipe.unet, pipe.scheduler, pipe.unet.config.sample_size
    text, empty, pooled, pooled_empty = pipe.encode_prompt(prompt, do_classifier_free_guidance=True)
    pixels = size * pipe.vae_scale_factor
    conditions = {
        "encoder_hidden_states": torch.cat([empty, text]),
        "added_cond_kwargs": {
            "text_embeds": torch.cat([pooled_empty, pooled]),
            "time_ids": torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]] * 2),
        },
    }
    scheduler.set_timesteps(steps)
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (1, unet.config.in_channels, size, size)
    latents = torch.randn(shape, generator=generator) * scheduler.init_noise_sigma

    with guidance.attach(unet) as attachment:
        for index, time in enumerate(scheduler.timesteps):
            # What only the loop knows: the step, and that the last row of [u, c] is conditional.
            attachment.step(index, len(scheduler.timesteps), conditional_rows=1)
            both = scheduler.scale_model_input(torch.cat([latents] * 2), time)
            u, c = unet(both, time, **conditions).sample.chunk(2)
            latents = scheduler.step(u + cfg * (c - u), time, latents).prev_sample
    return latents


if __name__ == "__main__":
    pipe = load("avatars")
    guidance = SmoothedEnergyGuidance(blur="gaussian:inf", scale=0.7, layers="mid")
    latents = sample(pipe, "a dylan portrait of someone with red hair", guidance, 3.0, 30)
    decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    pipe.image_processor.postprocess(decoded.detach())[0].save("own-loop.png")
