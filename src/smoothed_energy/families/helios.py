"""The family of Helios, which draws a video chunk by chunk beside the frames before."""

from __future__ import annotations

__all__ = ["Helios"]

from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .true_cfg import two_calls
from .wan import Wan

_HISTORY = ("short", "mid", "long")


class Helios(Wan):
    """Wan's blocks, in which tokens of earlier frames come before those that are drawn."""

    name: ClassVar[str] = "Helios"
    denoisers: ClassVar[tuple[str, ...]] = ("HeliosTransformer3DModel",)
    text: ClassVar[Any] = "before"
    # Places of frames in the video, the same in all rows.
    unbatched: ClassVar[frozenset[str]] = frozenset(
        ["indices_hidden_states", *[f"indices_latents_history_{part}" for part in _HISTORY]]
    )
    tied_to_size: ClassVar[tuple[str, ...]] = tuple(
        [f"latents_history_{part}" for part in _HISTORY]
    )

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """Two calls, with the prompt first.

        Raises:
            RuntimeError: If the pipeline projects c on u before it adds them.
        """
        found = two_calls(setting)
        if found.separate and setting("config", {}).get("is_cfg_zero_star"):
            raise RuntimeError(
                "this pipeline has is_cfg_zero_star, a CFG whose sum depends on how c and u lie to "
                "each other, so guidance would come out wrong; expected guidance_scale=1, or "
                "is_cfg_zero_star=False"
            )
        return found
