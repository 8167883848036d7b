"""Rules that change a pipeline's own classifier-free guidance."""

from __future__ import annotations
