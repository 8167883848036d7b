"""The diffusion model's parts: SDXL's classes in small.

The middle block reads the *last* entry of ``transformer_layers_per_block`` in diffusers, and the
first number of it when that entry is a tuple; so ``(1, (4,))`` gives four transformer layers after
the lower level's residual block and four in the middle. The up path has one residual block more
than the down path, and its own depths.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from .recipes import Recipe

__all__ = [
    "TOKENS",
    "build_controlnet",
    "build_scheduler",
    "build_text_encoder",
    "build_unet",
    "save_tokenizer",
    "time_ids",
    "train_tokenizer",
]

#: Length of a tokenized caption, start and end included.
TOKENS = 48
_TIME_IDS_WIDTH = 8
_START, _END = "<|startoftext|>", "<|endoftext|>"


def build_unet(recipe: Recipe) -> UNet2DConditionModel:
    """An untrained U-Net of the recipe's size."""
    upper = recipe.upper_layers
    attention = "CrossAttn" if upper else ""
    return UNet2DConditionModel(
        sample_size=recipe.image_size // 4,
        in_channels=4,
        out_channels=4,
        down_block_types=(f"{attention}DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", f"{attention}UpBlock2D"),
        block_out_channels=recipe.channels,
        layers_per_block=recipe.layers_per_block,
        transformer_layers_per_block=(
            (max(upper, 1),) * recipe.layers_per_block,
            recipe.down_layers,
        ),
        reverse_transformer_layers_per_block=(
            recipe.up_layers,
            (max(upper, 1),) * len(recipe.up_layers),
        ),
        attention_head_dim=(recipe.heads, recipe.heads),
        cross_attention_dim=recipe.text_width,
        use_linear_projection=True,
        norm_num_groups=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=_TIME_IDS_WIDTH,
        projection_class_embeddings_input_dim=6 * _TIME_IDS_WIDTH + recipe.text_width,
    )


def build_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet that begins as a copy of the U-Net's path down and middle.

    Two of the three numbers halve the picture: latents have a quarter of its size.
    """
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64))


def build_text_encoder(recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """An untrained text encoder; its projection has its own width."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.text_width,
            intermediate_size=4 * recipe.text_width,
            projection_dim=recipe.text_width,
            num_hidden_layers=recipe.text_layers,
            num_attention_heads=recipe.text_width // 64,
            max_position_embeddings=TOKENS,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_scheduler() -> DDIMScheduler:
    """The noise schedule: cosine, rescaled to zero terminal SNR.

    SDXL's own scaled-linear betas spend most of the schedule where latents this small are already
    lost in noise (Hoogeboom et al., 2023, https://arxiv.org/abs/2301.11093). Zero terminal SNR:
    Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023
    (https://arxiv.org/abs/2305.08891). With v-prediction and trailing timesteps, sampling starts
    from the pure noise that training saw.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def time_ids(recipe: Recipe) -> list[float]:
    """SDXL's size conditioning as its pipeline gives it by default: original, crop, target."""
    side = float(recipe.image_size)
    return [side, side, 0.0, 0.0, side, side]


def train_tokenizer(captions: Iterable[str], *, vocabulary: int = 1000) -> CLIPTokenizer:
    """Trains a byte-pair vocabulary on captions, in CLIP's format."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    clip = CLIPTokenizer().backend_tokenizer  # The text is split as CLIP splits it.
    trained.normalizer, trained.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2,
        min_frequency=2,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    trained.train_from_iterator(captions, trainer)
    model = json.loads(trained.to_str())["model"]
    # Every character also ends a word: no text is unknown. (Unknown would mean "end of text".)
    # The two special tokens come last, as in CLIP's own vocabulary.
    vocab = dict(model["vocab"])
    for token in [*(f"{character}</w>" for character in sorted(alphabet)), _START, _END]:
        vocab.setdefault(token, len(vocab))
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TOKENS)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Writes a tokenizer in the form that both major versions of transformers read."""
    tokenizer.save_pretrained(folder)
    tokenizer.backend_tokenizer.model.save(str(folder))  # vocab.json, merges.txt
