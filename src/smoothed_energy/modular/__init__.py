"""Guidance in the guider slot of Modular Diffusers; imported on demand, since it needs them."""

from __future__ import annotations

from ..integrations.modular.guider import SmoothedEnergyGuider

__all__ = ["SmoothedEnergyGuider"]

# Saved pipelines name the module of their guider's class; this name will not change.
SmoothedEnergyGuider.__module__ = __name__
