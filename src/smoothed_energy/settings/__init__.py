"""Checks of settings and their forms as text."""

from __future__ import annotations
