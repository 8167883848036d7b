"""Tiny Cosmos 3 pipelines."""

import functools
import inspect
from types import SimpleNamespace

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import Cosmos3OmniPipeline, Cosmos3OmniTransformer, UniPCMultistepScheduler
from tiny_pipelines import noise, picture

if "rope_axes_dim" not in inspect.signature(Cosmos3OmniTransformer.__init__).parameters:
    raise ImportError("cannot import Cosmos 3 as it is now from 'diffusers'")

CHANNELS = 4


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        Cosmos3OmniTransformer(
            head_dim=8,
            hidden_size=32,
            intermediate_size=32,
            latent_channel=CHANNELS,
            patch_latent_dim=4 * CHANNELS,
            num_attention_heads=4,
            num_hidden_layers=4,
            # Heads share keys and values.
            num_key_value_heads=2,
            rope_axes_dim=(2, 1, 1),
            sound_dim=3,
            sound_gen=True,
            action_dim=10,
            action_gen=True,
            num_embodiment_domains=8,
            vocab_size=40,
        ),
        factor=6.0,
    )


class UniPC(UniPCMultistepScheduler):
    """The sound's scheduler is a copy of the video's, and not guided by tests that patch that."""

    def __deepcopy__(self, memo):
        other = UniPCMultistepScheduler.from_config(self.config)
        other.set_timesteps(self.num_inference_steps)
        return other


class Tokenizer(SimpleNamespace):
    """Every word is a token."""

    eos_token_id = 1

    def convert_tokens_to_ids(self, token):
        return 2

    def apply_chat_template(self, conversations, **kwargs):
        words = " ".join(turn["content"] for turn in conversations).split()
        return SimpleNamespace(input_ids=[3 + len(word) for word in words])


class Autoencoder(SimpleNamespace):
    """What the pipeline asks of an autoencoder, without a network."""

    dtype = torch.float32
    config = SimpleNamespace(
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
    )

    def encode(self, video):
        frames, height, width = video.shape[2:]
        latents = noise(1, CHANNELS, 1 + frames // 4, height // 8, width // 8, seed=8)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))


class SoundTokenizer(torch.nn.Module):
    """The number of samples for a token of sound, and sound that nobody listens to."""

    config = SimpleNamespace(sampling_rate=100)
    _hop_size = 10

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def decode(self, latents):
        return latents


def cosmos3():
    return Cosmos3OmniPipeline(
        transformer=transformer(),
        text_tokenizer=Tokenizer(),
        vae=Autoencoder(),
        scheduler=UniPC(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        sound_tokenizer=SoundTokenizer(),
        enable_safety_checker=False,
        default_use_system_prompt=False,
    )


def case(name, **arguments):
    settings = {
        "prompt": "a red lighthouse",
        "num_frames": 9,
        "height": 64,
        "width": 96,
        "guidance_scale": 1.0,
        "add_resolution_template": False,
        "add_duration_template": False,
    }
    # The text's tokens are among the keys.
    return Case(
        name,
        cosmos3,
        settings | arguments,
        {f"layers.{n}.self_attn": Image((3, 4, 6), other_keys=True) for n in (1, 2)},
        # The negative prompt has another length.
        cfg={"negative_prompt": "a dog in the park", "guidance_scale": 6.0},
        scale=6.0,
        separate=True,
    )


CASES = [case("Cosmos 3")]
MORE = [
    case("Cosmos 3, from a picture, with sound", image=picture(64, 96, seed=6), enable_sound=True)
]
