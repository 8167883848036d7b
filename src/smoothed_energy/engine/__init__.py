"""The step engine: what happens at the calls of a run's denoisers."""

from __future__ import annotations
