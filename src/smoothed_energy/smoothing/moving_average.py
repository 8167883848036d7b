"""Exponential moving averages along the tokens.

They come from the published study of smoothing filters, later than the paper of smoothed energy
guidance. A long sequence is averaged in chunks: within each from a zero start, by one matrix, and
then the value before each chunk is added to it, with a weight that decays.
"""

from __future__ import annotations

__all__ = ["RAMPS", "EMASmoothing", "cached_tables"]

import functools
import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from ..settings.checks import check_choice, check_unit
from ..settings.conversion import set_field
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
from .text import Parameter

RAMPS = ("linear", "quadratic", "cosine")
"""How the decay of an `EMASmoothing` moves from its first to its last value along the tokens."""

# Longer chunks would make the work within them grow faster than the sequence.
_LONGEST_CHUNK = 64


@readable
@dataclass(frozen=True, repr=False)
class EMASmoothing(Parametric):
    r"""Exponential moving average along the tokens in row-major order.

    $y_0 = x_0, \quad y_t = a_t \, y_{t-1} + (1 - a_t) \, x_t$

    with the decay $a_t$ constant, or going from `decay` at the first token to `end_decay` at the
    last: $a_t = a + (a_{end} - a) \, r(t / (T - 1))$ with $r(s) = s$ (linear), $s^2$ (quadratic) or
    $(1 - \cos \pi s) / 2$ (cosine). On a grid `(F, H, W)` every frame is averaged by itself.

    The decay is the weight of the *history*. The published study uses both conventions: its text
    writes $y_t = \beta x_t + (1-\beta) y_{t-1}$, so that `decay = 1 - beta`; its released code
    computes $y_t = \alpha y_{t-1} + (1-\alpha) x_t$, so that `decay = alpha`. "0.95" is a strong
    smoothing in the code and hardly any in the text. The ramps are the code's.

    Args:
        decay: Weight of the history, in [0, 1]; 0 is the identity, 1 repeats the first token.
        end_decay: Decay at the last token, in [0, 1]; None for a constant one.
        ramp: One of `RAMPS`; only matters with an `end_decay`.

    Raises:
        ValueError: If a parameter is outside its set.
        TypeError: If a parameter is not a number.
    """

    decay: float
    end_decay: float | None = None
    ramp: str = "linear"

    kind: ClassVar[str] = "ema"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("decay", float),
        Parameter("end_decay", float, "end"),
        Parameter("ramp", str),
    )

    def __post_init__(self) -> None:
        set_field(self, "decay", check_unit("decay", self.decay))
        if self.end_decay is not None:
            set_field(self, "end_decay", check_unit("end_decay", self.end_decay))
        check_choice("ramp", self.ramp, RAMPS)

    @override
    def is_uniform(self, grid: tuple[int, ...]) -> bool:
        # An average that ends at each token is the mean of a single token only.
        return math.prod(check_grid(grid)) == 1

    @override
    def is_identity(self, grid: tuple[int, ...]) -> bool:
        _, length = frames_of(check_grid(grid))
        return length == 1 or (self.decay == 0 and not self.end_decay)

    @override
    def matrix(self, grid: tuple[int, ...]) -> Tensor:
        frames, length = frames_of(check_grid(grid))
        decays = self._decays(length)
        weights = 1 - decays
        weights[0] = 1
        return torch.kron(torch.eye(frames, **EXACT), _transitions(decays) * weights)

    @override
    def apply(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        frames, length = frames_of(check_tokens(tokens, grid))
        if self.is_identity(grid):
            return tokens
        working = working_dtype(tokens)
        rows, folded = rows_of(tokens.to(working))
        rows = rows.reshape(len(rows) * frames, length, rows.shape[-1])
        tables = cached_tables(self, length, working, tokens.device)
        with without_autocast(tokens.device):
            smoothed = _average(rows, tables)
        return tokens_of(smoothed.to(tokens.dtype), tokens.shape, folded)

    def _decays(self, length: int) -> Tensor:
        """The decay at each of n tokens: `(n,)`, float64 on the CPU."""
        if self.end_decay is None:
            return torch.full((length,), self.decay, **EXACT)
        s = torch.linspace(0, 1, length, **EXACT)
        if self.ramp == "quadratic":
            s = s.square()
        elif self.ramp == "cosine":
            s = (1 - torch.cos(math.pi * s)) / 2
        return (self.decay + (self.end_decay - self.decay) * s).clamp(0, 1)


class ChunkTables(NamedTuple):
    """The weights of an average over n chunks of c tokens; m is 1 if all chunks are alike, else n.

    Args:
        within: `(m, c, c)`, the average within each chunk from a zero start.
        carry: `(m, c, 1)`, the weight of the value before the chunk.
        across: `(n, n)`, from the first token and the chunks' last values so far to the value
            before each chunk.
    """

    within: Tensor
    carry: Tensor
    across: Tensor


@functools.lru_cache(maxsize=32)
def cached_tables(
    smoothing: EMASmoothing, length: int, dtype: torch.dtype, device: torch.device
) -> ChunkTables:
    """An average's weights for sequences of this many tokens, in this dtype and on this device."""
    # A tensor made in inference mode could never take part in autograd later.
    with torch.inference_mode(False), torch.no_grad():
        chunk = _chunk_length(length)
        decays = smoothing._decays(length)
        count = -(-length // chunk)
        decays = torch.cat([decays, decays[-1:].expand(count * chunk - length)])
        decays = decays.reshape(count, chunk)
        alike = 1 if smoothing.end_decay is None else count
        within = _transitions(decays[:alike]) * (1 - decays[:alike, None, :])
        carry = decays[:alike].cumprod(dim=-1)[..., None]
        ends = decays.prod(dim=-1)
        # The value before chunk 0 is the first token itself (then y_0 = x_0 comes out right).
        across = _transitions(torch.cat([torch.ones(1, **EXACT), ends[:-1]]))
        return ChunkTables(*(table.to(dtype).to(device) for table in (within, carry, across)))


def _average(rows: Tensor, tables: ChunkTables) -> Tensor:
    """The moving average along rows `(N, T, D)`: within chunks, plus what each inherits."""
    within, carry, across = tables
    number, length, width = rows.shape
    count, chunk = len(across), within.shape[-1]
    x = rows
    if count * chunk > length:
        x = torch.nn.functional.pad(rows, (0, 0, 0, count * chunk - length))
    within = within.expand(number, count, chunk, chunk).reshape(number * count, chunk, chunk)
    y = torch.bmm(within, x.reshape(number * count, chunk, width))
    y = y.reshape(number, count, chunk, width)
    starts = torch.cat([rows[:, :1], y[:, :-1, -1]], dim=1)
    before = torch.bmm(across.expand(number, count, count), starts)
    y.addcmul_(carry, before[:, :, None, :])
    return y.reshape(number, count * chunk, width)[:, :length]


def _chunk_length(length: int) -> int:
    """About the square root of the length, dividing it if possible (no padding needed then).

    The work is `length` times the chunk's length within the chunks, and the square of their number
    between them. Up to a quarter of a million tokens the first is more, and linear.
    """
    root = min(math.isqrt(length), _LONGEST_CHUNK)
    for chunk in range(root, root // 2, -1):
        if length % chunk == 0:
            return chunk
    return root


def _transitions(decays: Tensor) -> Tensor:
    """`P[i, j] = a_(j+1) ... a_i` for `j <= i`, else 0; decays `(..., n)` -> `(..., n, n)`.

    Products, not ratios of products or differences of logarithms: exact for decays of 0 and 1.
    """
    length = decays.shape[-1]
    below = torch.ones(length, length, dtype=torch.bool, device="cpu").tril(-1)
    steps = torch.where(below, decays[..., :, None], 1.0)
    return steps.cumprod(dim=-2).tril()
