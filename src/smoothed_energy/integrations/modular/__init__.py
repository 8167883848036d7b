"""A guider for Modular Diffusers."""

from __future__ import annotations
