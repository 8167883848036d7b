"""Guidance in other people's programs: pipelines, loops of one's own, Modular Diffusers."""

from __future__ import annotations
