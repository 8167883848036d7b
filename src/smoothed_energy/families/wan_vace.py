"""The family of Wan VACE, whose videos follow others."""

from __future__ import annotations

__all__ = ["WanVACE"]

from typing import ClassVar

from .wan import Wan


class WanVACE(Wan):
    """Wan with a branch of blocks that read what the video follows, as a ControlNet does.

    The branch's blocks are no layers: what they give is added to the video's tokens. Reference
    pictures are the first frames of the latents, drawn with the others and cut off at the end.
    """

    name: ClassVar[str] = "Wan VACE"
    denoisers: ClassVar[tuple[str, ...]] = ("WanVACETransformer3DModel",)
    # A number for each block of the branch; there may be as many of them as samples.
    unbatched: ClassVar[frozenset[str]] = frozenset({"control_hidden_states_scale"})
    tied_to_size: ClassVar[tuple[str, ...]] = ("control_hidden_states",)
