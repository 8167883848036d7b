"""What denoisers have in common: layers, image tokens, layouts of latents and batches."""

from __future__ import annotations
