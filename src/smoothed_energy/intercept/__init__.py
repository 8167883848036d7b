"""Calls of a denoiser's modules: replaced, observed, recorded and replayed."""

from __future__ import annotations
