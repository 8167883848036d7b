"""What guidance is: its settings, its plan for a denoiser, and how corrections are combined."""

from __future__ import annotations

from .guidance import Guidance, LayerGuidance

__all__ = ["Guidance", "LayerGuidance"]
