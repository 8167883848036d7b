"""The energy of attention, its curvature, and what smoothing operators do to both."""

from __future__ import annotations

from .attention_energy import attention_energy, log_sum_exp

__all__ = ["attention_energy", "log_sum_exp"]
