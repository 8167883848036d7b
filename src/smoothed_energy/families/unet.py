"""The family of U-Nets: Stable Diffusion 1 and 2, SDXL, Kolors, and those without text."""

from __future__ import annotations

__all__ = ["UNet"]

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import PARTS, SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import ImageTokens, tokens_of_map
from ..intercept.module_call import parameter_names, unwrap
from .advice import Advice
from .base import Arguments, Family, Setting, Step
from .unet_grid import layer_grid, token_grid, token_grids

_PART_OF_NAME = {"down_blocks": "down", "mid_block": "mid", "up_blocks": "up"}


def _is_sdxl(config: Any) -> bool:
    layers = getattr(config, "transformer_layers_per_block", None)
    is_sdxl = isinstance(layers, (list, tuple)) and tuple(layers) == (1, 2, 10)
    return is_sdxl and getattr(config, "encoder_hid_dim_type", None) is None  # Kolors has one


def _is_stable_diffusion(config: Any) -> bool:
    latents = getattr(config, "out_channels", None) == 4
    return latents and getattr(config, "cross_attention_dim", None) in (768, 1024)


def _is_text_to_image(config: Any) -> bool:
    return _is_sdxl(config) or _is_stable_diffusion(config)


class UNet(Family):
    """A path down, a middle and a path up of convolutions and transformers."""

    name: ClassVar[str] = "U-Net"
    denoisers: ClassVar[tuple[str, ...]] = (
        "UNet2DConditionModel",
        "UNet2DModel",
        "AudioLDM2UNet2DConditionModel",
    )
    advised: ClassVar[tuple[Advice, ...]] = (
        Advice("seg", "mid", "Hong 2024, arXiv 2408.00760", scale=3.0, model="SDXL", fits=_is_sdxl),
        Advice(
            "pag",
            "mid",
            "Ahn et al. 2024, arXiv 2403.17377",
            scale=3.0,
            model="Stable Diffusion, SDXL",
            fits=_is_text_to_image,
        ),
        Advice(
            "sag",
            "m0",
            "diffusers' StableDiffusionSAGPipeline",
            scale=0.75,
            model="Stable Diffusion",
            fits=_is_stable_diffusion,
        ),
        Advice(
            "tpg",
            "d6-d23",
            "Rajabi et al. 2025, arXiv 2506.10036, released code",
            scale=3.0,
            model="SDXL",
            fits=_is_sdxl,
        ),
    )
    sample: ClassVar[str] = "sample"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "encoder_attention_mask")
    text_masks: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "encoder_attention_mask"}
    # Residuals of ControlNet and T2I-Adapter.
    tied_to_size: ClassVar[tuple[str, ...]] = (
        "down_block_additional_residuals",
        "mid_block_additional_residual",
        "down_intrablock_additional_residuals",
    )

    @override
    def layers(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        """The layers whose queries, keys and values come from the image tokens.

        The text's tokens may be among the keys, too (DeepFloyd IF, Kandinsky 2). Not among the
        layers: cross-attention, and the gated attention of GLIGEN, whose queries are not only image
        tokens.
        """
        found: dict[str, list[tuple[str, nn.Module]]] = {part: [] for part in PARTS}
        attention = attention_class()
        for name, module in denoiser.named_modules():
            if isinstance(module, attention) and self.is_layer(name, module):
                # A compiled block adds a component to the names of what is inside it.
                plain = name.replace("._orig_mod", "").replace("_orig_mod.", "")
                part = _PART_OF_NAME.get(plain.partition(".")[0])
                if part is not None:
                    found[part].append((plain, module))
        layers: list[SelfAttentionLayer] = []
        for part in PARTS:
            layers.extend(in_transformers(part, part[0], found[part]))
        return tuple(layers)

    def is_layer(self, name: str, module: Any) -> bool:
        """Whether an attention module is one of the layers."""
        if getattr(module, "added_kv_proj_dim", None) is not None:
            return not module.only_cross_attention
        return not module.is_cross_attention and ".fuser." not in name

    @override
    def why_no_layers(self, denoiser: nn.Module) -> str:
        attends = any(isinstance(module, attention_class()) for module in denoiser.modules())
        return (
            "it attends to the text alone; guidance that needs no layers works (a guidance "
            "interval, sliding windows, autoguidance)"
            if attends
            else ""
        )

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        if layer not in argument.features:
            return ImageTokens(token_grid(denoiser, argument(self.sample).shape, count))
        return tokens_of_map(layer, count, argument.features[layer])

    @override
    def feature_modules(
        self, denoiser: nn.Module, layers: Sequence[SelfAttentionLayer]
    ) -> dict[nn.Module, list[str]]:
        """The transformers around layers, or those of the layers that are in none."""
        found: dict[nn.Module, list[str]] = {}
        for layer in layers:
            module = unwrap(denoiser.get_submodule(_transformer_name(layer.name)))
            found.setdefault(module, []).append(layer.name)
        return found

    @override
    def layer_grid(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, latents: tuple[int, ...]
    ) -> tuple[int, ...]:
        return layer_grid(denoiser, layer, (1, 1, *latents))

    @override
    def cross_attention(self, denoiser: nn.Module, layer: SelfAttentionLayer) -> nn.Module | None:
        if "encoder_hidden_states_1" in parameter_names(denoiser):
            return None  # AudioLDM 2 has two texts, which layers attend to in turns.
        found = getattr(denoiser.get_submodule(layer.name.rpartition(".")[0]), "attn2", None)
        return found if getattr(found, "is_cross_attention", False) else None

    @override
    def no_text(self, denoiser: nn.Module) -> str:
        if self.why_no_text:
            return self.why_no_text
        if "encoder_hidden_states" not in parameter_names(denoiser):
            return "it has no text"
        if "encoder_hidden_states_1" in parameter_names(denoiser):
            return "it has two texts, which layers attend to in turns"
        layers = self.layers(denoiser)
        if any(getattr(layer.module, "add_k_proj", None) is not None for layer in layers):
            return "its text is among the keys of feature maps"
        return ""

    @override
    def multiple(self, denoiser: nn.Module) -> int:
        """The size at every stage is half of the one before, without a remainder."""
        return int(2 ** (len(token_grids(denoiser, (1, 1, 1, 1))) - 1))

    @override
    def tied(self, argument: Arguments) -> tuple[str, ...]:
        """Kandinsky 2's ControlNet gets a picture to follow among other conditions."""
        conditions = argument("added_cond_kwargs")
        hint = ("hint",) if isinstance(conditions, dict) and "hint" in conditions else ()
        return (*super().tied(argument), *hint)

    @override
    def channels(self, denoiser: nn.Module, latents: int, predicted: int, learned: bool) -> int:
        """DeepFloyd IF, Kandinsky 2 and UnCLIP have a variance beside every prediction.

        The small picture follows the latents in the upscalers of IF, where `class_embed_type` says
        so; a masked picture and the mask in Kandinsky's inpainting.
        """
        config: Any = denoiser.config
        with_text = any("SimpleCrossAttn" in name for name in config.get("down_block_types", ()))
        upscales = config.get("class_embed_type") == "timestep" and predicted == latents
        if with_text and (upscales or predicted in (2 * latents, latents - 1)):
            return predicted // 2
        return super().channels(denoiser, latents, predicted, learned)

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """InstructPix2Pix stacks `[text, image, nothing]`; UnCLIP's stages have CFG together."""
        layout = super().layout(denoiser, setting, step)
        arguments = setting("arguments", {})
        if "super_res_num_inference_steps" in arguments:
            scale = arguments["decoder_guidance_scale"]
            if max(scale, arguments.get("prior_guidance_scale", scale)) <= 1.0:
                return BatchLayout()
            return BatchLayout(2, conditional=1, unconditional=0, cfg_scale=float(scale))
        image_scale = setting("image_guidance_scale", None)
        if layout.groups == 1 or image_scale is None:
            return layout
        if image_scale < 1.0:
            return BatchLayout()
        return BatchLayout(3, conditional=0, unconditional=2, rescale_scale=layout.rescale_scale)

    @override
    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        """The latent upscaler is told a quarter of the noise level's log."""
        config: Any = denoiser.config
        fourier = config.get("time_embedding_type") == "fourier"
        if not fourier or "cross_attention_dim" not in config:
            return super().timestep(denoiser, value, scheduler)
        # The last level is that of the finished image.
        levels = torch.as_tensor(scheduler.sigmas)[:-1].double().log() / 4
        given = torch.as_tensor(value).double().to(levels.device).flatten()[0]
        found: Tensor = torch.as_tensor(scheduler.timesteps)[(levels - given).abs().argmin()]
        return found


@functools.cache
def attention_class() -> type[nn.Module]:
    """The class of attention modules in U-Nets."""
    # A U-Net of diffusers has imported it; this package need not.
    from diffusers.models.attention_processor import Attention

    return cast(type[nn.Module], Attention)


def in_transformers(
    part: str, letter: str, modules: list[tuple[str, nn.Module]]
) -> list[SelfAttentionLayer]:
    """The layers of a stack, counted in the transformers that they are in."""
    layers = []
    blocks: dict[str, int] = {}  # the number of layers so far in each transformer
    for index, (name, module) in enumerate(modules):
        owner = _transformer_name(name)
        position = blocks.get(owner, 0)
        blocks[owner] = position + 1
        layers.append(
            SelfAttentionLayer(
                name=name,
                part=part,
                letter=letter,
                index=index,
                block=len(blocks) - 1,
                position=position,
                heads=int(cast(int, module.heads)),
                width=int(cast(int, module.inner_dim)),
                module=module,
            )
        )
    return layers


def _transformer_name(name: str) -> str:
    """The part of a module name up to the transformer, ``down_blocks.1.attentions.0``."""
    pieces = name.split(".")
    if pieces[0] == "transformer_in":  # before the path down, in U-Nets for videos
        return pieces[0]
    for list_name in ("attentions", "motion_modules", "temp_attentions", "base_attentions"):
        if list_name in pieces:
            return ".".join(pieces[: pieces.index(list_name) + 2])
    return name
