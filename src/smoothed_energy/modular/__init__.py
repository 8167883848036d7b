"""The public path of `SmoothedEnergyGuider`, imported on demand: it needs Modular Diffusers."""

from __future__ import annotations

from ..integrations.modular.guider import SmoothedEnergyGuider

__all__ = ["SmoothedEnergyGuider"]

# Saved pipelines name the module of their guider's class; this name will not change.
SmoothedEnergyGuider.__module__ = __name__
