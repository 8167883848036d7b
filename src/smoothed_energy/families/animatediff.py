"""The family of AnimateDiff: a U-Net of pictures, with motion modules between its frames."""

from __future__ import annotations

__all__ = ["AnimateDiff", "level_grid"]

from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.attention_layer import PARTS, LayerError, SelfAttentionLayer
from ..denoisers.image_tokens import ImageTokens, unknown_grid
from .base import Arguments
from .unet import UNet, attention_class, in_transformers
from .unet_grid import token_grids

_STARTS = ("transformer_in", "down_blocks", "mid_block", "up_blocks")


class AnimateDiff(UNet):
    """Attention over space in every frame, as in Stable Diffusion, and over time in every place.

    The layers over time are a stack of their own, ``t0``, ``t1``, ..., and the part ``"motion"``.
    Where FreeNoise gives them windows of frames, each window is a video of its own.

    Attributes:
        motion: What the names of the layers over time have in them.
        frames: The axis of the latents that is time.
    """

    name: ClassVar[str] = "AnimateDiff"
    denoisers: ClassVar[tuple[str, ...]] = ("UNetMotionModel",)
    parts: ClassVar[tuple[str, ...]] = (*PARTS, "motion")
    motion: ClassVar[tuple[str, ...]] = (".motion_modules.",)
    frames: ClassVar[int] = 2
    # A row for every frame.
    folded: ClassVar[frozenset[str]] = frozenset(
        {
            "encoder_hidden_states",
            "down_block_additional_residuals",
            "mid_block_additional_residual",
        }
    )

    @override
    def layers(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        """Its layers within frames, and those over time.

        Raises:
            LayerError: If the denoiser is split into calls with a few frames or places.
        """
        motion = []
        for name, module in denoiser.named_modules():
            if type(module).__name__ == "SplitInferenceModule":
                raise LayerError(
                    "split inference (enable_free_noise_split_inference) calls layers with a part "
                    "of the batch, whose rows can't be told then; expected a pipeline without it"
                )
            if (
                self.is_over_time(name)
                and isinstance(module, attention_class())
                and super().is_layer(name, module)
            ):
                motion.append((name.replace("._orig_mod", ""), module))
        motion.sort(key=lambda item: self._place(item[0]))
        found = [*super().layers(denoiser), *in_transformers("motion", "t", motion)]
        return tuple(sorted(found, key=lambda layer: self._place(layer.name)))

    def is_over_time(self, layer: str) -> bool:
        """Whether a layer attends over time, by its name."""
        return any(part in layer for part in self.motion)

    @override
    def is_layer(self, name: str, module: Any) -> bool:
        """Layers over time are counted apart."""
        return not self.is_over_time(name) and super().is_layer(name, module)

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        shape = argument(self.sample).shape
        grid = argument.features.get(layer) or level_grid(denoiser, layer, shape)
        frames = shape[self.frames]
        if not self.is_over_time(layer):
            found = ImageTokens((frames, *grid), folded="frames")
        else:
            block: Any = denoiser.get_submodule(layer.rpartition(".")[0])
            window = count == getattr(block, "context_length", None)
            found = ImageTokens((count if window else frames, *grid), folded="places")
        if found.count != count:
            size = "x".join(map(str, found.grid))
            return unknown_grid(layer, count, f"{found.count} of a grid {size} were expected")
        return found

    @override
    def layer_grid(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, latents: tuple[int, ...]
    ) -> tuple[int, ...]:
        frames = latents[0] if len(latents) == 3 else 1
        return (frames, *level_grid(denoiser, layer.name, (1, 1, *latents)))

    def _place(self, layer: str) -> tuple[int, list[int], bool]:
        """The place of a name in the order in which layers run."""
        start, *pieces = layer.split(".")
        numbers = [int(piece) for piece in pieces if piece.isdigit()]
        return _STARTS.index(start), numbers[:-1], self.is_over_time(layer)


def level_grid(denoiser: nn.Module, layer: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """The height and width of the level that a layer is on."""
    # Every block of the path down halves the size, except the last.
    grids = token_grids(denoiser, shape)
    start, number, *_ = layer.split(".")
    if start == "transformer_in":
        return grids[0]
    if start == "mid_block":
        return grids[-1]
    return grids[int(number)] if start == "down_blocks" else grids[-1 - int(number)]
