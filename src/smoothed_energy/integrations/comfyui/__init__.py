"""Guidance of models in ComfyUI."""

from __future__ import annotations
