"""What can be said of a denoiser that no family knows, for guidance that needs no layers of it."""

from __future__ import annotations

__all__ = ["UnknownDenoiser"]

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import LayerError, SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import GridError, ImageTokens
from ..denoisers.latent_layout import ChannelsFirst, LatentLayout
from ..intercept.module_call import parameter_names
from .base import Arguments, Family, Setting, Step

# How a pipeline says that its one call has the batch [u, c].
_SPLIT = re.compile(r"\b\w*uncond\w*, *\w+ = \w+\.chunk\(2(?:, dim=0)?\)")
_CALL = re.compile(r"\b(?:self\.)?(?:unet|transformer)\(")


class UnknownDenoiser(Family):
    """A denoiser that no family knows: it has no layers, and its latents come first.

    Args:
        denoiser: The denoiser, not compiled.
    """

    name: ClassVar[str] = "unknown"
    tells_timesteps: ClassVar[bool] = False
    denoisers: ClassVar[tuple[str, ...]] = ()
    is_unknown: ClassVar[bool] = True
    # Nobody else's output has twice the channels of the latents.
    learned_variance: ClassVar[bool] = True

    def __init__(self, denoiser: nn.Module) -> None:
        names = parameter_names(denoiser)
        known = [name for name in ("sample", "hidden_states") if name in names]
        self.sample = (*known, *names, "sample")[0]  # type: ignore[misc]

    @override
    def layers(self, denoiser: nn.Module) -> Sequence[SelfAttentionLayer]:
        return ()

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        raise LayerError(_no_layers(denoiser))

    @override
    def layer_grid(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, latents: tuple[int, ...]
    ) -> tuple[int, ...]:
        raise LayerError(_no_layers(denoiser))

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """One call with the batch `[u, c]`, if the pipeline's code says so.

        Raises:
            RuntimeError: If the pipeline has CFG, and its code doesn't.
        """
        scale = setting("guidance_scale", None)
        number = float(scale) if isinstance(scale, (int, float)) else None
        has_cfg = setting("do_classifier_free_guidance", number is not None and number > 1.0)
        if not has_cfg and (setting("true_cfg_scale", None) or 1.0) <= 1.0:
            return BatchLayout()
        if not _splits_in_two(setting("__call__", None)):
            raise RuntimeError(
                f"a {type(denoiser).__name__} is not known, and its pipeline doesn't say that it "
                "predicts without and with the prompt in one batch [u, c], so guidance could come "
                "out wrong; expected a run without classifier-free guidance, or a registered "
                "family with a layout (docs/families.md), or a loop of your own"
            )
        rescaled = (setting("guidance_rescale", 0.0) or 0.0) > 0.0
        return BatchLayout(
            2,
            conditional=1,
            unconditional=0,
            rescale_scale=number if rescaled else None,
            cfg_scale=number,
        )

    @override
    def latent_layout(self, denoiser: nn.Module, argument: Arguments) -> LatentLayout:
        if argument(self.sample).ndim != 4:
            raise GridError(
                f"how predictions of a {type(denoiser).__name__} lie is not known, except for "
                "pictures (B, C, H, W); expected a registered family (docs/families.md)"
            )
        return ChannelsFirst()

    @override
    def timestep(
        self, denoiser: nn.Module, value: Tensor | float | None, scheduler: Any
    ) -> Tensor | float:
        if value is None:
            raise ValueError(
                f"the timestep of a {type(denoiser).__name__} is not known; expected guidance that "
                "is alike at all steps, or a registered family (docs/families.md)"
            )
        return value

    @override
    def multiple(self, denoiser: nn.Module) -> int:
        patch = getattr(getattr(denoiser, "config", None), "patch_size", 1)
        sides = patch if isinstance(patch, (list, tuple)) else [patch]
        return max([side for side in sides if isinstance(side, int)], default=1)


def _no_layers(denoiser: nn.Module) -> str:
    return f"no self-attention layers are known for a {type(denoiser).__name__}"


def _splits_in_two(call: Callable[..., Any] | None) -> bool:
    """Whether the code of a pipeline's `__call__` calls a denoiser once, and splits `[u, c]`."""
    try:
        code = inspect.getsource(inspect.unwrap(call)) if call is not None else ""
    except (OSError, TypeError):  # there is no source
        return False
    return len(_SPLIT.findall(code)) == len(_CALL.findall(code)) == 1
