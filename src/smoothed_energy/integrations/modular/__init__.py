"""Guidance in the guider slot of Modular Diffusers."""

from __future__ import annotations
