"""More diffusion transformers in ComfyUI: Stable Diffusion 3, HiDream, HunyuanVideo, LTX-Video."""

from __future__ import annotations

__all__ = ["ComfyHiDream", "ComfyHunyuanVideo", "ComfyLTX", "ComfySD3"]

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ...denoisers.attention_layer import SelfAttentionLayer
from ...denoisers.image_tokens import GridError, ImageTokens
from ...families import Arguments
from ...intercept.module_call import name_inputs
from .family import network_of
from .transformers import ComfyFlux, ComfyTransformer, patches_of


class ComfySD3(ComfyTransformer):
    """Stable Diffusion 3 and 3.5: blocks attend themselves, in 3.5 medium some of them twice."""

    name: ClassVar[str] = "ComfyUI Stable Diffusion 3"
    networks: ClassVar[tuple[str, ...]] = ("OpenAISignatureMMDITWrapper",)
    stacks: ClassVar[Mapping[str, str]] = {"b": "joint_blocks"}
    attention: ClassVar[Mapping[str, str]] = {"b": ""}
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"b": ("context", "x")}
    texts: ClassVar[Mapping[str, str]] = {"c_crossattn": "context", "y": "y"}
    tells_runs: ClassVar[bool] = False

    @override
    def refuse(self, network: nn.Module) -> str:
        if getattr(network, "register_length", 0):
            return "it has tokens that are neither text nor picture (registers)"
        return ""

    @override
    def layers_in(self, network: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        blocks: Any = network.joint_blocks
        # They take whatever they are given, and hand it on.
        name_inputs(type(blocks[0]), ("context", "x"), tokens="x")
        return super().layers_in(network)

    @override
    def heads_and_width(self, module: Any) -> tuple[int, int]:
        attention = module.x_block.attn
        return int(attention.num_heads), int(attention.num_heads * attention.head_dim)

    @override
    def feed_forward(self, block: nn.Module) -> nn.Module | None:
        part: Any = getattr(block, "x_block", None)
        return getattr(part, "mlp", None)


class ComfyHiDream(ComfyTransformer):
    """HiDream-I1: the picture's tokens come before those of its texts."""

    name: ClassVar[str] = "ComfyUI HiDream"
    networks: ClassVar[tuple[str, ...]] = ("HiDreamImageTransformer2DModel",)
    stacks: ClassVar[Mapping[str, str]] = {"b": "double_stream_blocks", "s": "single_stream_blocks"}
    attention: ClassVar[Mapping[str, str]] = {"b": "block.attn1", "s": "block.attn1"}
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "b": ("image_tokens", "text_tokens"),
        "s": ("image_tokens",),
    }
    text_is_first: ClassVar[bool] = False
    texts: ClassVar[Mapping[str, str]] = {
        "c_crossattn": "context",
        "y": "y",
        "encoder_hidden_states_llama3": "encoder_hidden_states_llama3",
    }

    @override
    def heads_and_width(self, module: Any) -> tuple[int, int]:
        return int(module.heads), int(module.inner_dim)

    @override
    def feed_forward(self, block: nn.Module) -> nn.Module | None:
        found = getattr(block, "ff_i", None)
        return found if isinstance(found, nn.Module) else None

    @override
    def outputs(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, module: nn.Module
    ) -> tuple[str, ...]:
        if module is layer.module:
            return ("norm_image_tokens", "norm_text_tokens")
        return super().outputs(denoiser, layer, module)

    @override
    def counts(self, denoiser: nn.Module) -> tuple[tuple[int, ...], int, int]:
        """Every block gets two texts, and one of the layers of a third."""
        grid, text, _ = super().counts(denoiser)
        arguments = network_of(denoiser).inner[-1].arguments
        if arguments.get("image_cond") is not None:
            raise GridError(
                "a picture that HiDream edits lies beside its own, and where is not known here; "
                "expected a run without one"
            )
        return grid, text + 2 * int(arguments["encoder_hidden_states_llama3"].shape[2]), 0


class ComfyHunyuanVideo(ComfyFlux):
    """HunyuanVideo, 1.5 too, and HunyuanImage 2.1, whose blocks are Flux's.

    A picture that a video begins with comes before the video's own tokens.
    """

    name: ClassVar[str] = "ComfyUI HunyuanVideo"
    networks: ClassVar[tuple[str, ...]] = ("HunyuanVideo",)

    @override
    def patch(self, network: Any) -> tuple[int, ...]:
        return tuple([int(side) for side in network.patch_size])

    @override
    def counts(self, denoiser: nn.Module) -> tuple[tuple[int, ...], int, int]:
        grid, text, _ = super().counts(denoiser)
        network = network_of(denoiser)
        arguments = network.inner[-1].arguments
        for name in ("txt_byt5", "clip_fea"):
            more = arguments.get(name)
            text += 0 if more is None else int(more.shape[1])
        first = arguments.get("ref_latent")
        patch = self.patch(network.diffusion_model)
        return grid, text, 0 if first is None else math.prod(patches_of(first.shape, patch))

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        found = super().tokens(denoiser, argument, layer, count)
        _, text, first = self.counts(denoiser)
        blocks: Any = network_of(denoiser).diffusion_model
        # Until 2025 text came last.
        flipped = getattr(blocks.double_blocks[0], "flipped_img_txt", False)
        before = text if not flipped and count > math.prod(found.grid) + first else 0
        return ImageTokens(found.grid, before + first)

    why_no_text: ClassVar[str] = (
        "one mask of its text holds for all rows of a batch, so no other text can be among them"
    )


class ComfyLTX(ComfyTransformer):
    """LTX-Video, without sound."""

    name: ClassVar[str] = "ComfyUI LTX-Video"
    networks: ClassVar[tuple[str, ...]] = ("LTXVModel",)
    stacks: ClassVar[Mapping[str, str]] = {"b": "transformer_blocks"}
    attention: ClassVar[Mapping[str, str]] = {"b": "attn1"}
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"b": ("x",)}
    texts: ClassVar[Mapping[str, str]] = {
        "c_crossattn": "context",
        "attention_mask": "attention_mask",
    }
    masks: ClassVar[Mapping[str, str]] = {"context": "attention_mask"}
    has_text: ClassVar[bool] = False
    cross: ClassVar[str | None] = "attn2"

    @override
    def patch(self, network: Any) -> tuple[int, ...]:
        return (1, 1, 1)

    @override
    def heads_and_width(self, module: Any) -> tuple[int, int]:
        return int(module.heads), int(module.heads * module.dim_head)

    @override
    def cross_attention(self, denoiser: nn.Module, layer: SelfAttentionLayer) -> nn.Module | None:
        block: Any = denoiser.get_submodule(layer.name.rpartition(".")[0])
        # Those of LTX 2 change the text with the time.
        changes = getattr(block, "cross_attention_adaln", False)
        return None if changes else super().cross_attention(denoiser, layer)
