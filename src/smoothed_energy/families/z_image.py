"""The family of Z-Image, whose inputs and outputs are lists of tensors."""

from __future__ import annotations

__all__ = ["ZImage"]

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import GridError, ImageTokens
from ..intercept.module_call import ModuleCall, Rows
from .base import Arguments, Setting, Step
from .transformer import Transformer

# Image and text are each padded to a multiple of so many tokens.
_MULTIPLE = 32


class ZImage(Transformer):
    """The image's tokens attend to themselves first (``n``), then together with the text's (``b``).

    There the image comes first, then its padding, then the row's text, which may be of any length.
    Latents are a list of pictures `(C, 1, H, W)`, and so are predictions. In Omni an item is the
    list of a row's pictures, the noisy one last, and all text comes before them.
    """

    name: ClassVar[str] = "Z-Image"
    denoisers: ClassVar[tuple[str, ...]] = ("ZImageTransformer2DModel",)
    sample: ClassVar[str] = "x"
    time: ClassVar[str] = "t"
    stacks: ClassVar[Mapping[str, str]] = {"n": "noise_refiner", "b": "layers"}
    attention: ClassVar[tuple[str, ...]] = ("attention",)
    text: ClassVar[Any] = "after"
    text_arguments: ClassVar[tuple[str, ...]] = ("cap_feats",)
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"n": ("x",), "b": ("x",)}
    listed: ClassVar[frozenset[str]] = frozenset(
        {"x", "cap_feats", "siglip_feats", "image_noise_mask"}
    )
    tied_to_size: ClassVar[tuple[str, ...]] = ("controlnet_block_samples",)
    reversed_flow: ClassVar[bool] = True

    @override
    def patch(self, denoiser: nn.Module) -> tuple[int, ...]:
        config: Any = denoiser.config
        side = config.all_patch_size[0]
        return (side, side)

    @override
    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        patch = argument("patch_size") or self.patch(denoiser)[0]
        return tuple(size // patch for size in self.latents(argument).shape[-2:])

    @override
    def latents(self, argument: Arguments) -> Any:
        pictures = [item[-1] if isinstance(item, list) else item for item in argument(self.sample)]
        shapes = list(dict.fromkeys([tuple(picture.shape) for picture in pictures]))
        if len(shapes) != 1 or shapes[0][1] != 1:
            raise GridError(
                f"the latents of a batch are of the shapes {', '.join(map(str, shapes))}; expected "
                "pictures (C, 1, H, W) of one size"
            )
        return torch.stack(pictures).squeeze(2)

    @override
    def with_latents(self, call: ModuleCall, latents: Tensor) -> ModuleCall:
        pictures = latents.unsqueeze(2).unbind()
        rows = [
            [*item[:-1], picture] if isinstance(item, list) else picture
            for item, picture in zip(call.argument(self.sample), pictures, strict=True)
        ]
        return call.replace(self.sample, rows)

    @override
    def prediction_of(self, output: Any) -> Tensor:
        pictures = output[0] if isinstance(output, tuple) else output.sample
        return torch.stack(pictures).squeeze(2)

    @override
    def with_prediction(self, output: Any, prediction: Tensor) -> Any:
        pictures = list(prediction.unsqueeze(2).unbind())
        return (pictures,) if isinstance(output, tuple) else type(output)(sample=pictures)

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        found = super().tokens(denoiser, argument, layer, count)
        rows = argument(self.sample)
        if not isinstance(rows[0], list):
            return found
        patch = argument("patch_size") or self.patch(denoiser)[0]
        starts = []
        for pictures, texts in zip(rows, argument("cap_feats"), strict=True):
            before = [picture[0].numel() // patch**2 for picture in pictures[:-1]]
            if not layer.startswith("noise_refiner"):
                before.extend(map(len, texts))
            starts.append(sum(map(_padded, before)))
        return ImageTokens(found.grid, tuple(starts))

    @override
    def beside_text(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> tuple[int | tuple[int, ...], int]:
        """The image's tokens and their padding, which attends as well."""
        if isinstance(argument(self.sample)[0], list):
            raise GridError(
                "the texts of Z-Image Omni lie between its pictures, so which tokens are not of a "
                "text is not known; expected a pipeline with one picture"
            )
        return 0, _padded(self.length(denoiser, argument))

    @override
    def take_rows(self, arguments: dict[str, Any], rows: Rows) -> dict[str, Any]:
        """Fewer rows may be padded to a shorter length, and so must be what a ControlNet gave."""
        taken = super().take_rows(arguments, rows)
        residuals = taken.get("controlnet_block_samples")
        if rows.is_all or residuals is None:
            return taken
        before, after = (_longest(found["cap_feats"]) for found in (arguments, taken))
        taken["controlnet_block_samples"] = {
            layer: value[:, : value.shape[1] + after - before] for layer, value in residuals.items()
        }
        return taken

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """One batch `[c, u]`, and c + s (c - u), as long as the time is not truncated."""
        scale = float(setting("guidance_scale", 0.0))
        truncation = setting("cfg_truncation", None)
        if truncation is not None and float(truncation) <= 1 and scale > 0:
            # As the pipelines work it out, in single precision.
            passed = (1000 - torch.tensor(step().timestep, dtype=torch.float32)) / 1000
            scale = 0.0 if float(passed) > truncation else scale
        if scale <= 0:
            return BatchLayout()
        # The norm of the sum is limited by that of c, which must stay as it is.
        limited = float(setting("cfg_normalization", False) or 0.0) > 0.0
        return BatchLayout(
            2,
            conditional=0,
            unconditional=1,
            rescale_scale=1 + scale if limited else None,
            cfg_scale=1 + scale,
            normalises=limited,
        )

    @override
    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        return (1 - value) * 1000.0


def _padded(count: int) -> int:
    return -(-count // _MULTIPLE) * _MULTIPLE


def _longest(texts: Any) -> int:
    return max(_padded(len(text)) for text in texts)
