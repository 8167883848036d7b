"""How latents lie: an older path of `smoothed_energy.denoisers.latent_layout`."""

from __future__ import annotations

from .denoisers.latent_layout import ChannelsFirst, FramesFirst, LatentLayout, Packed

#: An older name.
Places = LatentLayout

__all__ = ["ChannelsFirst", "FramesFirst", "LatentLayout", "Packed", "Places"]
