"""The energy of attention, its curvature, and what smoothing operators do to both."""

from __future__ import annotations

from .analysis import OperatorAnalysis, Range, Requirement, analyse
from .attention_energy import attention_energy, log_sum_exp
from .curvature import SoftmaxCurvature, largest_eigenvalue, softmax_curvature
from .hessian import entrywise_hessian, smoothed_hessian, softmax_hessian

__all__ = [
    "OperatorAnalysis",
    "Range",
    "Requirement",
    "SoftmaxCurvature",
    "analyse",
    "attention_energy",
    "entrywise_hessian",
    "largest_eigenvalue",
    "log_sum_exp",
    "smoothed_hessian",
    "softmax_curvature",
    "softmax_hessian",
]
