r"""Blurs that factor over the axes of the grid, $B = B_F \otimes B_H \otimes B_W$.

Sources: the Gaussian blur is that of Hong, "Smoothed Energy Guidance" (arXiv:2408.00760); the box
blur comes from the later published study of smoothing filters.
"""

from __future__ import annotations

__all__ = ["BoxBlur", "GaussianBlur", "Separable", "cached_matrices"]

import abc
import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ..settings.checks import check_choice, check_number, check_odd, check_unit
from ..settings.conversion import set_field
from .axis_matrices import PADDINGS, box_matrix, gaussian_matrix
from .axis_products import multiply_axes
from .layout import (
    EXACT,
    check_grid,
    check_tokens,
    frames_of,
    rows_of,
    tokens_of,
    without_autocast,
    working_dtype,
)
from .operator import readable
from .parametric import Parametric
from .text import Parameter, number_text

UNIFORM_ABOVE = 9999.0
"""A Gaussian wider than this is the uniform operator, as in the reference implementation."""


class Separable(Parametric):
    """A filter with one matrix for each axis of the grid."""

    @abc.abstractmethod
    def axis_matrices(self, grid: tuple[int, ...]) -> tuple[Tensor | None, ...]:
        """One float64 matrix on the CPU for each axis, None where the axis is left alone."""

    @property
    def mix(self) -> float:
        """The share of the filtered tokens in the result; the rest are the tokens themselves."""
        return 1.0

    @override
    def is_uniform(self, grid: tuple[int, ...]) -> bool:
        # A finite filter is the mean of a single token only.
        return math.prod(check_grid(grid)) == 1

    @override
    def is_identity(self, grid: tuple[int, ...]) -> bool:
        matrices = cached_matrices(self, check_grid(grid), EXACT["dtype"], EXACT["device"])
        return all(matrix is None for matrix in matrices)

    @override
    def matrix(self, grid: tuple[int, ...]) -> Tensor:
        grid = check_grid(grid)
        product = torch.ones(1, 1, **EXACT)
        for size, matrix in zip(grid, self.axis_matrices(grid), strict=True):
            product = torch.kron(product, torch.eye(size, **EXACT) if matrix is None else matrix)
        return self.mix * product + (1 - self.mix) * torch.eye(len(product), **EXACT)

    @override
    def apply(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        grid = check_tokens(tokens, grid)
        working = working_dtype(tokens)
        matrices = cached_matrices(self, grid, working, tokens.device)
        if all(matrix is None for matrix in matrices):
            return tokens
        rows, folded = rows_of(tokens.to(working))
        with without_autocast(tokens.device):
            smoothed = multiply_axes(rows, grid, matrices, self.mix)
        return tokens_of(smoothed.to(tokens.dtype), tokens.shape, folded)


@functools.lru_cache(maxsize=128)
def cached_matrices(
    smoothing: Separable, grid: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor | None, ...]:
    """A filter's matrices for the axes of a grid, in this dtype and on this device."""
    # A tensor made in inference mode could never take part in autograd later.
    with torch.inference_mode(False), torch.no_grad():
        return tuple(
            None if matrix is None else matrix.to(dtype).to(device)
            for matrix in smoothing.axis_matrices(grid)
        )


@readable
@dataclass(frozen=True, repr=False)
class GaussianBlur(Separable):
    r"""Gaussian blur over the token grid (paper, section 3; the reference's `gaussian_blur_2d`).

    The kernel has weights $\propto \exp(-x^2 / (2 \sigma^2))$ at $x = -(k-1)/2, \dots, (k-1)/2$,
    normalised to sum 1, on each axis. An infinite sigma is the uniform operator: every token
    becomes the mean of its frame. sigma = 0 is the identity.

    `padding="reflect"` is the reference's choice, but does not preserve the mean: for 32 tokens and
    sigma = 10 the columns of $B$ sum to between 0.52 and 1.04, and its largest singular value is
    1.008. Nor is Lemma 3.1's decrease of variance guaranteed: at sigma = 1 it may grow by 1 %. With
    `padding="symmetric"` $B$ is symmetric and doubly stochastic: the mean is preserved exactly, and
    the variance never grows.

    Args:
        sigma: Standard deviation in tokens, in [0, inf]. Above 9999 it counts as infinite.
        kernel_size: Number of taps, positive and odd. By default the reference's rule,
            `ceil(6 sigma)` made odd by adding 1 to an even one. Either way it is limited on each
            axis to the axis length, or to that plus 1 if the length is even.
        padding: One of `PADDINGS`.
        temporal_sigma: Blur over the frames of a grid `(F, H, W)` too, by this sigma (its kernel
            size follows the default rule). None: frames are not mixed.

    Raises:
        ValueError: If a parameter is outside its set.
        TypeError: If a parameter is not a number.
    """

    sigma: float
    kernel_size: int | None = None
    padding: str = "reflect"
    temporal_sigma: float | None = None

    kind: ClassVar[str] = "gaussian"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("sigma", float),
        Parameter("kernel_size", int, "kernel"),
        Parameter("padding", str),
        Parameter("temporal_sigma", float, "temporal"),
    )
    name_first: ClassVar[bool] = True

    def __post_init__(self) -> None:
        set_field(self, "sigma", _check_sigma("sigma", self.sigma))
        if self.temporal_sigma is not None:
            set_field(self, "temporal_sigma", _check_sigma("temporal_sigma", self.temporal_sigma))
        if self.kernel_size is not None:
            set_field(self, "kernel_size", check_odd("kernel_size", self.kernel_size))
            if self.sigma == math.inf:
                raise ValueError(
                    f"kernel_size={self.kernel_size} has no meaning with an infinite sigma, which "
                    f"averages all tokens; leave it out, or use BoxBlur({self.kernel_size}) for a "
                    "mean over a window"
                )
        check_choice("padding", self.padding, PADDINGS)

    @override
    def is_uniform(self, grid: tuple[int, ...]) -> bool:
        frames, length = frames_of(check_grid(grid))
        return (length == 1 or self.sigma == math.inf) and (
            frames == 1 or self.temporal_sigma == math.inf
        )

    @property
    @override
    def changes_nothing(self) -> bool:
        # The reference's kernels have ceil(6 sigma) taps, made odd.
        spatial = self.kernel_size == 1 or (self.kernel_size is None and 6 * self.sigma <= 1)
        return (spatial or self.sigma == 0) and 6 * (self.temporal_sigma or 0.0) <= 1

    @override
    def apply(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        if self.sigma < math.inf:
            return super().apply(tokens, grid)
        frames, _ = frames_of(check_tokens(tokens, grid))
        if self.temporal_sigma not in (None, math.inf) or self.is_identity(grid):
            return super().apply(tokens, grid)
        # A mean is one pass over memory, where matrix products are two.
        groups = frames if self.temporal_sigma is None else 1
        *batch, length, width = tokens.shape
        mean = tokens.reshape(*batch, groups, length // groups, width).mean(dim=-2, keepdim=True)
        spread = mean.expand(*batch, groups, length // groups, width)
        # An expanded view would have all tokens share their memory.
        return spread.reshape(tokens.shape).contiguous()

    @override
    def axis_matrices(self, grid: tuple[int, ...]) -> tuple[Tensor | None, ...]:
        sigmas = [self.sigma] * len(grid)
        sizes = [self.kernel_size] * len(grid)
        if len(grid) == 3:
            sigmas[0] = 0.0 if self.temporal_sigma is None else self.temporal_sigma
            sizes[0] = None
        return tuple(
            gaussian_matrix(length, sigma, size, self.padding)
            for length, sigma, size in zip(grid, sigmas, sizes, strict=True)
        )


@readable
@dataclass(frozen=True, repr=False)
class BoxBlur(Separable):
    r"""Mean over a k x k window, interpolated with the identity.

    $B = \alpha \, B_{box} + (1 - \alpha) I$. The published study's released box blur pads with
    zeros, which preserves neither the row sums nor the mean: `padding="zeros"` reproduces it.

    Args:
        kernel_size: Width k of the window, positive and odd, limited on each axis as in
            `GaussianBlur`.
        alpha: Share of the box blur, in [0, 1]; 0 is the identity.
        padding: One of `PADDINGS`.
        temporal_kernel_size: Average over this many frames of a grid `(F, H, W)` too. None: frames
            are not mixed.

    Raises:
        ValueError: If a parameter is outside its set.
        TypeError: If a parameter is not a number, or a kernel size not an integer.
    """

    kernel_size: int
    alpha: float = 1.0
    padding: str = "reflect"
    temporal_kernel_size: int | None = None

    kind: ClassVar[str] = "box"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("kernel_size", int, "kernel"),
        Parameter("alpha", float),
        Parameter("padding", str),
        Parameter("temporal_kernel_size", int, "temporal"),
    )

    def __post_init__(self) -> None:
        set_field(self, "kernel_size", check_odd("kernel_size", self.kernel_size))
        set_field(self, "alpha", check_unit("alpha", self.alpha))
        if self.temporal_kernel_size is not None:
            size = check_odd("temporal_kernel_size", self.temporal_kernel_size)
            set_field(self, "temporal_kernel_size", size)
        check_choice("padding", self.padding, PADDINGS)

    @property
    @override
    def mix(self) -> float:
        return self.alpha

    @override
    def axis_matrices(self, grid: tuple[int, ...]) -> tuple[Tensor | None, ...]:
        sizes = [self.kernel_size] * len(grid)
        if len(grid) == 3:
            sizes[0] = self.temporal_kernel_size or 1
        if self.alpha == 0:
            return (None,) * len(grid)
        return tuple(
            box_matrix(length, size, self.padding) for length, size in zip(grid, sizes, strict=True)
        )


def _check_sigma(name: str, value: float) -> float:
    number = check_number(name, value)
    if not number >= 0:
        raise ValueError(
            f"{name} must lie in [0, inf] (0: identity, inf: uniform); got {number_text(number)}"
        )
    return math.inf if number > UNIFORM_ABOVE else number
