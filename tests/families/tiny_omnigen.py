"""Tiny OmniGen pipelines, without the processor of prompts, which needs torchvision."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import FlowMatchEulerDiscreteScheduler, OmniGenTransformer2DModel
from diffusers.pipelines.omnigen import pipeline_omnigen
from tiny_pipelines import noise

# Tokens of the longest prompt and the time, and of the image.
LENGTH, GRID = 10, (6, 4)


@functools.cache
def transformer():
    torch.manual_seed(0)
    denoiser = OmniGenTransformer2DModel(
        in_channels=4,
        hidden_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        num_layers=4,
        pad_token_id=0,
        vocab_size=50,
        rope_scaling={"long_factor": [1.0] * 8, "short_factor": [1.0] * 8},
        time_step_dim=16,
        pos_embed_max_size=16,
    )
    return with_sharp_attention(denoiser)


class Prompts:
    """Rows of tokens, as the processor makes them: padded on the left, the mask causal."""

    def __init__(self, tokenizer, max_image_size):
        self.max_image_size = max_image_size

    def __call__(self, prompt, input_images, use_img_cfg, **options):
        rows = len(prompt) * (3 if use_img_cfg else 2)
        ids = torch.randint(1, 50, (rows, LENGTH - 1), generator=torch.Generator().manual_seed(3))
        count = LENGTH + GRID[0] * GRID[1]
        mask = torch.ones(rows, count, count).tril()
        mask[:, LENGTH:, LENGTH:] = 1
        places = {}
        if use_img_cfg:  # given pictures of 2 x 2 and 2 x 1 tokens; none without the condition
            # The second row has the large picture at another place.
            places = {0: [[2, 6]], 1: [[3, 7], [7, 9]], 4: [[1, 5]], 5: [[1, 5], [7, 9]]}
            for row, found in places.items():
                for start, stop in found:
                    mask[row, start:stop, start:stop] = 1
        for row in range(rows):
            mask[row, :, : row % 3] = 0  # prompts of several lengths
            mask[row, : row % 3] = 1
        sizes = [stop - start for found in places.values() for start, stop in found]
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": torch.arange(count).repeat(rows, 1),
            "input_pixel_values": [
                noise(1, 4, 2 * (size // 2), 4, seed=seed) for seed, size in enumerate(sizes)
            ],
            "input_image_sizes": places,
        }


class OfPrompts(pipeline_omnigen.OmniGenPipeline):
    """Given pictures are latents."""

    def encode_input_images(self, pictures, device):
        return pictures


def omnigen():
    pipeline_omnigen.OmniGenMultiModalProcessor = Prompts
    return OfPrompts(
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1),
        vae=None,
        tokenizer=None,
    )


ARGUMENTS = {
    "prompt": ["a lighthouse <img><|image_1|></img>", "a dog <img><|image_1|></img>"],
    "height": 96,
    "width": 64,
    "guidance_scale": 4.0,
}
IMAGES = {f"layers.{n}.self_attn": Image(GRID, LENGTH) for n in (1, 2)}
# There always is CFG.
CASES = [Case("OmniGen", omnigen, ARGUMENTS, IMAGES, cfg={}, scale=4.0, order="cu")]
PICTURES = {"input_images": [["two"], ["two"]], "img_guidance_scale": 2.0}
