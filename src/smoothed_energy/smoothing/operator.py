r"""Smoothing operators: linear maps $B$ over the tokens of an image (or video) grid.

Smoothed energy guidance replaces the queries of a self-attention layer by smoothed ones. By
Proposition 3.1 of the paper that is the same as smoothing the attention logits over the queries,

    (B Q) K^T = B (Q K^T),        B in R^(T x T),  Q, K in R^(T x d),

so an operator is fully described by one matrix $B$. Tokens lie on a grid `(H, W)`, or `(F, H, W)`
for video, in row-major order: token `t = (f H + h) W + w`.

A separable filter factors over the axes, $B = B_F \otimes B_H \otimes B_W$, so it is applied as two
(or three) small matrix products, with the padding folded into the matrices. That is exact for every
padding and every kernel size, and far faster than a depthwise convolution with a large kernel.

Frames are not mixed unless an operator is told to: on a grid `(F, H, W)` every frame is smoothed by
itself, as an image would be.

Sources: Hong, "Smoothed Energy Guidance" (arXiv:2408.00760), section 3 and appendix; the box blur
and the exponential moving average come from the later published study of smoothing filters.
"""

from __future__ import annotations

__all__ = [
    "PADDINGS",
    "RAMPS",
    "BoxBlur",
    "Compose",
    "EMASmoothing",
    "GaussianBlur",
    "Smoothing",
    "as_smoothing",
    "cache_info",
    "clear_cache",
]

import abc
import dataclasses
import functools
import math
import operator
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

PADDINGS = ("reflect", "symmetric", "replicate", "circular", "zeros")
"""What a filter sees beyond the border, for a row of tokens `a b c`.

| name | left of `a` | note |
|---|---|---|
| `reflect` | `.. c b` | the border token is not repeated; torch's and the reference's `reflect` |
| `symmetric` | `.. b a` | the border token is repeated; $B$ is doubly stochastic |
| `replicate` | `.. a a` | |
| `circular` | `.. b c` | $B$ is doubly stochastic |
| `zeros` | `.. 0 0` | rows sum to less than 1 near the border |
"""

RAMPS = ("linear", "quadratic", "cosine")
"""How the decay of an `EMASmoothing` moves from its first to its last value along the tokens."""

UNIFORM_ABOVE = 9999.0
"""A Gaussian wider than this is the uniform operator, as in the reference implementation."""

_FORMS = (
    '"gaussian:10"',
    '"gaussian:inf"',
    '"gaussian:sigma=10,kernel=31,padding=symmetric"',
    '"box:31,alpha=0.9"',
    '"ema:0.95"',
    '"ema:0.95,end=0.5,ramp=cosine"',
    'several joined by " then "',
)


class Smoothing(abc.ABC):
    """A linear operator over the tokens of a grid: an immutable, hashable value."""

    kind: ClassVar[str]
    """The operator's name in its text and JSON forms."""

    @abc.abstractmethod
    def apply(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Smooth tokens: `B @ tokens`, without forming the T x T matrix.

        Args:
            tokens: Real floating-point tensor of shape `(..., T, d)`. Head-transposed (strided)
                queries are read as they lie in memory and keep their layout.
            grid: `(H, W)` or `(F, H, W)` with `T` equal to its product.

        Returns:
            A tensor of the same shape, dtype and device; `tokens` itself where the operator is the
            identity. Differentiable in `tokens`.

        Raises:
            ValueError: If the grid is not two or three positive sizes, or does not hold T tokens.
            TypeError: If the tokens are not of a real floating-point dtype.
        """

    @abc.abstractmethod
    def matrix(self, grid: tuple[int, ...]) -> Tensor:
        """The operator itself: a T x T float64 matrix on the CPU.

        For mathematics and tests; `apply` never forms it.
        """

    @abc.abstractmethod
    def is_uniform(self, grid: tuple[int, ...]) -> bool:
        """Whether every token becomes the mean of all T tokens of this grid.

        All queries are then equal, and attention needs to be computed for one of them only.
        """

    @abc.abstractmethod
    def is_identity(self, grid: tuple[int, ...]) -> bool:
        """Whether the operator leaves the tokens of this grid as they are."""

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The operator as JSON-ready values, `"kind"` first; infinity as the text `"inf"`."""

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Smoothing:
        """Rebuild an operator from what `to_dict` gave.

        Raises:
            ValueError: If the kind or a parameter is unknown or invalid.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"{values!r} is no smoothing operator; expected a dict with a 'kind'")
        values = dict(values)
        kind = values.pop("kind", None)
        if kind == Compose.kind:
            operators = values.get("operators", ())
            if isinstance(operators, str) or not isinstance(operators, Sequence):
                raise ValueError(f"operators={operators!r}: expected a list of smoothing operators")
            return Compose(*(Smoothing.from_dict(part) for part in operators))
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ValueError(
                f"unknown smoothing kind {kind!r}; the kinds are "
                f"{', '.join([*map(repr, _KINDS), repr(Compose.kind)])}"
            )
        cls = _KINDS[kind]
        first, *_ = known = [field.name for field in dataclasses.fields(cls)]
        if first not in values:
            raise ValueError(f"{kind} smoothing needs the parameter {first!r}")
        for name in values:
            if name not in known:
                raise ValueError(
                    f"{kind} smoothing has no parameter {name!r}; it has {', '.join(known)}"
                )
        parameters: dict[str, Any] = {name: _from_json(value) for name, value in values.items()}
        return cls(**parameters)

    @staticmethod
    def parse(text: str) -> Smoothing:
        """Read an operator from its text form, e.g. `"gaussian:10"` or `"box:31,alpha=0.9"`.

        The text is `kind:value,name=value,...`; names and kinds are case-insensitive, the first
        value may be named or not, and several operators are joined by `" then "`, the first being
        applied first. `parse(str(op)) == op` for every operator.

        Raises:
            ValueError: If the text has no valid form; the message lists the forms.
        """
        parts = [_parse_one(part, text) for part in text.lower().split(" then ")]
        return parts[0] if len(parts) == 1 else Compose(*parts)

    def __matmul__(self, other: Smoothing) -> Compose:
        """The product of the matrices: `(a @ b)` applies `b` first, then `a`."""
        if not isinstance(other, Smoothing):
            return NotImplemented
        return Compose(other, self)


class _Parametric(Smoothing):
    """What the operators with scalar parameters share: representation, text and JSON forms."""

    _short: ClassVar[dict[str, str]]
    """Parameter name -> its name in the text form."""

    _names_first: ClassVar[bool] = False
    """Whether the text names the first parameter too when there are others."""

    def _changed(self) -> dict[str, Any]:
        """The first parameter and those that differ from their defaults."""
        first, *rest = dataclasses.fields(self)  # type: ignore[arg-type]
        values = {first.name: getattr(self, first.name)}
        for field in rest:
            value = getattr(self, field.name)
            if value != field.default:
                values[field.name] = value
        return values

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self._changed().items())
        return f"{type(self).__name__}({inside})"

    def __str__(self) -> str:
        first, *rest = (
            (self._short[name], _number_text(value)) for name, value in self._changed().items()
        )
        head = f"{first[0]}={first[1]}" if rest and self._names_first else first[1]
        return ",".join([f"{self.kind}:{head}", *(f"{name}={value}" for name, value in rest)])

    def to_dict(self) -> dict[str, Any]:
        """See `Smoothing.to_dict`."""
        values: dict[str, Any] = {"kind": self.kind}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            values[field.name] = "inf" if value == math.inf else value
        return values


class _Separable(_Parametric):
    """A filter that factors over the axes: $B = B_F (x) B_H (x) B_W$."""

    @abc.abstractmethod
    def _factors(self, grid: tuple[int, ...]) -> tuple[Tensor | None, ...]:
        """One float64 matrix an axis, None where the axis is left alone."""

    def _mix(self) -> float:
        """The share of the filtered tokens in the result; the rest are the tokens themselves."""
        return 1.0

    def is_uniform(self, grid: tuple[int, ...]) -> bool:
        """See `Smoothing.is_uniform`; a finite filter counts as uniform on a single token only."""
        return math.prod(_check_grid(grid)) == 1

    def is_identity(self, grid: tuple[int, ...]) -> bool:
        """See `Smoothing.is_identity`."""
        return all(factor is None for factor in _cached_factors(self, _check_grid(grid), *_EXACT))

    def matrix(self, grid: tuple[int, ...]) -> Tensor:
        """See `Smoothing.matrix`."""
        grid = _check_grid(grid)
        product = torch.ones(1, 1, **_FLOAT64)
        for size, factor in zip(grid, self._factors(grid), strict=True):
            axis = torch.eye(size, **_FLOAT64) if factor is None else factor
            product = torch.kron(product, axis)
        mix = self._mix()
        return mix * product + (1 - mix) * torch.eye(len(product), **_FLOAT64)

    def apply(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """See `Smoothing.apply`."""
        grid = _check_tokens(tokens, grid)
        working = _working_dtype(tokens)
        factors = _cached_factors(self, grid, working, tokens.device)
        if all(factor is None for factor in factors):
            return tokens
        rows, shape = _rows(tokens.to(working))
        with _without_autocast(tokens.device):
            smoothed = _apply_factors(rows, grid, factors, self._mix())
        return _unrows(smoothed.to(tokens.dtype), tokens.shape, shape)


@dataclass(frozen=True, repr=False)
class GaussianBlur(_Separable):
    r"""Gaussian blur over the token grid (paper, section 3; the reference's `gaussian_blur_2d`).

    The kernel has weights $\propto \exp(-x^2 / (2 \sigma^2))$ at $x = -(k-1)/2, \dots, (k-1)/2$,
    normalised to sum 1, on each axis. An infinite sigma is the uniform operator: every token
    becomes the mean of its frame. sigma = 0 is the identity.

    `padding="reflect"` is the reference's choice, but does not preserve the mean: for 32 tokens and
    sigma = 10 the columns of $B$ sum to between 0.52 and 1.04, and its largest singular value is
    1.008, so that Lemma 3.1's decrease of variance is not guaranteed. With `padding="symmetric"`
    $B$ is symmetric and doubly stochastic: the mean is preserved exactly, and the variance never
    grows.

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
    _short: ClassVar[dict[str, str]] = {
        "sigma": "sigma",
        "kernel_size": "kernel",
        "padding": "padding",
        "temporal_sigma": "temporal",
    }
    _names_first: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", _check_sigma("sigma", self.sigma))
        if self.temporal_sigma is not None:
            temporal = _check_sigma("temporal_sigma", self.temporal_sigma)
            object.__setattr__(self, "temporal_sigma", temporal)
        if self.kernel_size is not None:
            size = _check_kernel_size(self.kernel_size)
            object.__setattr__(self, "kernel_size", size)
            if self.sigma == math.inf:
                raise ValueError(
                    f"kernel_size={size} has no meaning with an infinite sigma, which averages all "
                    f"tokens; leave it out, or use BoxBlur({size}) for a mean over a window"
                )
        _check_padding(self.padding)

    def is_uniform(self, grid: tuple[int, ...]) -> bool:
        """See `Smoothing.is_uniform`: an infinite sigma on a grid of one frame.

        With several frames `temporal_sigma` must be infinite too.
        """
        frames, spatial = _split(_check_grid(grid))
        return (math.prod(spatial) == 1 or self.sigma == math.inf) and (
            frames == 1 or self.temporal_sigma == math.inf
        )

    def apply(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """See `Smoothing.apply`."""
        if self.sigma < math.inf:
            return super().apply(tokens, grid)
        frames, _ = _split(_check_tokens(tokens, grid))
        if self.temporal_sigma not in (None, math.inf) or self.is_identity(grid):
            return super().apply(tokens, grid)
        # A mean is one pass over memory, where matrix products are two.
        groups = frames if self.temporal_sigma is None else 1
        *batch, length, width = tokens.shape
        mean = tokens.reshape(*batch, groups, length // groups, width).mean(dim=-2, keepdim=True)
        spread = mean.expand(*batch, groups, length // groups, width)
        # An expanded view would have all tokens share their memory.
        return spread.reshape(tokens.shape).contiguous()

    def _factors(self, grid: tuple[int, ...]) -> tuple[Tensor | None, ...]:
        sigmas = [self.sigma] * len(grid)
        sizes = [self.kernel_size] * len(grid)
        if len(grid) == 3:
            sigmas[0] = 0.0 if self.temporal_sigma is None else self.temporal_sigma
            sizes[0] = None
        return tuple(
            _gaussian_factor(length, sigma, size, self.padding)
            for length, sigma, size in zip(grid, sigmas, sizes, strict=True)
        )


@dataclass(frozen=True, repr=False)
class BoxBlur(_Separable):
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
    _short: ClassVar[dict[str, str]] = {
        "kernel_size": "kernel",
        "alpha": "alpha",
        "padding": "padding",
        "temporal_kernel_size": "temporal",
    }

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel_size", _check_kernel_size(self.kernel_size))
        object.__setattr__(self, "alpha", _check_unit("alpha", self.alpha))
        if self.temporal_kernel_size is not None:
            size = _check_kernel_size(self.temporal_kernel_size, "temporal_kernel_size")
            object.__setattr__(self, "temporal_kernel_size", size)
        _check_padding(self.padding)

    def _mix(self) -> float:
        return self.alpha

    def _factors(self, grid: tuple[int, ...]) -> tuple[Tensor | None, ...]:
        sizes = [self.kernel_size] * len(grid)
        if len(grid) == 3:
            sizes[0] = self.temporal_kernel_size or 1
        if self.alpha == 0:
            return (None,) * len(grid)
        return tuple(
            _box_factor(length, size, self.padding)
            for length, size in zip(grid, sizes, strict=True)
        )


@dataclass(frozen=True, repr=False)
class EMASmoothing(_Parametric):
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
    _short: ClassVar[dict[str, str]] = {"decay": "decay", "end_decay": "end", "ramp": "ramp"}

    def __post_init__(self) -> None:
        object.__setattr__(self, "decay", _check_unit("decay", self.decay))
        if self.end_decay is not None:
            object.__setattr__(self, "end_decay", _check_unit("end_decay", self.end_decay))
        if self.ramp not in RAMPS:
            raise ValueError(
                f"ramp must be one of {', '.join(map(repr, RAMPS))}; got {self.ramp!r}"
            )

    def is_uniform(self, grid: tuple[int, ...]) -> bool:
        """See `Smoothing.is_uniform`; an average counts as uniform on a single token only."""
        return math.prod(_check_grid(grid)) == 1

    def is_identity(self, grid: tuple[int, ...]) -> bool:
        """See `Smoothing.is_identity`."""
        _, spatial = _split(_check_grid(grid))
        return math.prod(spatial) == 1 or (self.decay == 0 and not self.end_decay)

    def matrix(self, grid: tuple[int, ...]) -> Tensor:
        """See `Smoothing.matrix`."""
        frames, spatial = _split(_check_grid(grid))
        decays = self._decays(math.prod(spatial))
        weights = 1 - decays
        weights[0] = 1
        return torch.kron(torch.eye(frames, **_FLOAT64), _transitions(decays) * weights)

    def apply(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """See `Smoothing.apply`."""
        frames, spatial = _split(_check_tokens(tokens, grid))
        if self.is_identity(grid):
            return tokens
        working = _working_dtype(tokens)
        rows, shape = _rows(tokens.to(working))
        rows = rows.reshape(len(rows) * frames, math.prod(spatial), rows.shape[-1])
        tables = _cached_ema(self, math.prod(spatial), working, tokens.device)
        with _without_autocast(tokens.device):
            smoothed = _apply_ema(rows, *tables)
        return _unrows(smoothed.to(tokens.dtype), tokens.shape, shape)

    def _decays(self, length: int) -> Tensor:
        """The decay at each of `length` tokens, float64."""
        if self.end_decay is None:
            return torch.full((length,), self.decay, **_FLOAT64)
        s = torch.linspace(0, 1, length, **_FLOAT64)
        if self.ramp == "quadratic":
            s = s.square()
        elif self.ramp == "cosine":
            s = (1 - torch.cos(math.pi * s)) / 2
        return (self.decay + (self.end_decay - self.decay) * s).clamp(0, 1)


@dataclass(frozen=True, repr=False, init=False)
class Compose(Smoothing):
    """Several operators one after the other, the first applied first.

    The matrix of `Compose(a, b)` is `b.matrix(grid) @ a.matrix(grid)`, and `b @ a` is the same
    operator. Compositions inside a composition are unfolded.

    Args:
        operators: At least two smoothings.

    Raises:
        ValueError: If there are fewer than two.
        TypeError: If something else than a `Smoothing` is given.
    """

    operators: tuple[Smoothing, ...]

    kind: ClassVar[str] = "compose"

    def __init__(self, *operators: Smoothing) -> None:
        flat: list[Smoothing] = []
        for part in operators:
            if not isinstance(part, Smoothing):
                raise TypeError(f"Compose takes smoothings; got {part!r}")
            flat.extend(part.operators if isinstance(part, Compose) else [part])
        if len(flat) < 2:
            raise ValueError(f"Compose needs at least two smoothings; got {len(flat)}")
        object.__setattr__(self, "operators", tuple(flat))

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.operators))})"

    def __str__(self) -> str:
        return " then ".join(map(str, self.operators))

    def to_dict(self) -> dict[str, Any]:
        """See `Smoothing.to_dict`."""
        return {"kind": self.kind, "operators": [part.to_dict() for part in self.operators]}

    def is_uniform(self, grid: tuple[int, ...]) -> bool:
        """See `Smoothing.is_uniform`: all parts are uniform or the identity, and one is uniform."""
        return any(part.is_uniform(grid) for part in self.operators) and all(
            part.is_uniform(grid) or part.is_identity(grid) for part in self.operators
        )

    def is_identity(self, grid: tuple[int, ...]) -> bool:
        """See `Smoothing.is_identity`."""
        return all(part.is_identity(grid) for part in self.operators)

    def matrix(self, grid: tuple[int, ...]) -> Tensor:
        """See `Smoothing.matrix`."""
        return functools.reduce(
            lambda product, part: part.matrix(grid) @ product,
            self.operators[1:],
            self.operators[0].matrix(grid),
        )

    def apply(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """See `Smoothing.apply`."""
        for part in self.operators:
            tokens = part.apply(tokens, grid)
        return tokens


def as_smoothing(value: Smoothing | str | Mapping[str, Any]) -> Smoothing:
    """A smoothing from itself, its text form or its JSON form.

    Raises:
        ValueError: If the text or the mapping describes no operator.
        TypeError: If the value is none of the three.
    """
    if isinstance(value, Smoothing):
        return value
    if isinstance(value, str):
        return Smoothing.parse(value)
    if isinstance(value, Mapping):
        return Smoothing.from_dict(value)
    raise TypeError(
        f"a smoothing is given as an operator, a text or a mapping; got {type(value).__name__}"
    )


_KINDS: dict[str, type[GaussianBlur] | type[BoxBlur] | type[EMASmoothing]] = {
    cls.kind: cls for cls in (GaussianBlur, BoxBlur, EMASmoothing)
}

_FLOAT64: dict[str, Any] = {"dtype": torch.float64, "device": torch.device("cpu")}
_EXACT = (torch.float64, torch.device("cpu"))


# --- the matrices -------------------------------------------------------------------------------


def _reference_kernel_size(sigma: float) -> int:
    """`ceil(6 sigma)`, plus one where that is even."""
    taps = math.ceil(6 * sigma)
    return taps + 1 - taps % 2


def _limit(kernel_size: int, length: int) -> int:
    """The largest odd kernel that the reference allows on an axis of `length` tokens."""
    return min(kernel_size, length - (length % 2 - 1))


def _gaussian_factor(
    length: int, sigma: float, kernel_size: int | None, padding: str
) -> Tensor | None:
    if length == 1 or sigma == 0:
        return None
    if sigma == math.inf:
        return torch.full((length, length), 1 / length, **_FLOAT64)
    size = _limit(_reference_kernel_size(sigma) if kernel_size is None else kernel_size, length)
    if size == 1:
        return None
    x = torch.linspace(-(size - 1) / 2, (size - 1) / 2, size, **_FLOAT64)
    weights = torch.exp(-0.5 * (x / sigma) ** 2)
    return _filter_matrix(weights / weights.sum(), length, padding)


def _box_factor(length: int, kernel_size: int, padding: str) -> Tensor | None:
    size = _limit(kernel_size, length)
    if length == 1 or size == 1:
        return None
    return _filter_matrix(torch.full((size,), 1 / size, **_FLOAT64), length, padding)


def _filter_matrix(weights: Tensor, length: int, padding: str) -> Tensor:
    """The `length` x `length` matrix of a 1-D filter with its padding folded in."""
    taps = len(weights)
    offsets = torch.arange(taps, device="cpu") - taps // 2
    source = torch.arange(length, device="cpu")[:, None] + offsets
    values = weights.expand(length, taps)
    if padding == "reflect":
        source = source.remainder(2 * length - 2)
        source = torch.minimum(source, 2 * length - 2 - source)
    elif padding == "symmetric":
        source = source.remainder(2 * length)
        source = torch.minimum(source, 2 * length - 1 - source)
    elif padding == "circular":
        source = source.remainder(length)
    else:
        if padding == "zeros":
            values = values * ((source >= 0) & (source < length))
        source = source.clamp(0, length - 1)
    return torch.zeros(length, length, **_FLOAT64).scatter_add_(1, source, values)


def _transitions(decays: Tensor) -> Tensor:
    """`P[i, j] = a_(j+1) ... a_i` for `j <= i`, else 0; decays `(..., n)` -> `(..., n, n)`.

    Products, not ratios of products or differences of logarithms: exact for decays of 0 and 1.
    """
    length = decays.shape[-1]
    below = torch.ones(length, length, dtype=torch.bool, device="cpu").tril(-1)
    steps = torch.where(below, decays[..., :, None], 1.0)
    return steps.cumprod(dim=-2).tril()


@functools.lru_cache(maxsize=128)
def _cached_factors(
    smoothing: _Separable, grid: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor | None, ...]:
    # A tensor made in inference mode could never take part in autograd later.
    with torch.inference_mode(False), torch.no_grad():
        return tuple(
            None if factor is None else factor.to(dtype).to(device)
            for factor in smoothing._factors(grid)
        )


@functools.lru_cache(maxsize=32)
def _cached_ema(
    smoothing: EMASmoothing, length: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    r"""What `_apply_ema` needs for sequences of `length` tokens in chunks of c.

    Returns:
        `within` of shape `(n, c, c)`, the average within each of the n chunks from a zero start;
        `carry` `(n, c, 1)`, the weight of the value before the chunk; `across` `(n, n)`, from the
        first token and the chunks' last values so far to the value before each chunk. The
        first size of `within` and `carry` is 1 if all chunks are alike.
    """
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
        across = _transitions(torch.cat([torch.ones(1, **_FLOAT64), ends[:-1]]))
        return tuple(table.to(dtype).to(device) for table in (within, carry, across))  # type: ignore[return-value]


def clear_cache() -> None:
    """Forget all cached matrices, on every device."""
    _cached_factors.cache_clear()
    _cached_ema.cache_clear()


def cache_info() -> dict[str, tuple[int, int]]:
    """How many entries the caches hold, and how many they may hold."""
    return {
        name: (cache.cache_info().currsize, cache.cache_info().maxsize or 0)
        for name, cache in (("separable", _cached_factors), ("ema", _cached_ema))
    }


# --- applying them ------------------------------------------------------------------------------


def _working_dtype(tokens: Tensor) -> torch.dtype:
    """The dtype to multiply in: the tokens' own, but float32 for float16 on a CPU.

    Matrix products in float16 take a hundred times as long there, two casts hardly any time.
    """
    if tokens.dtype == torch.float16 and tokens.device.type == "cpu":
        return torch.float32
    return tokens.dtype


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast would compute, and return, another dtype than the tokens'."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def _rows(tokens: Tensor) -> tuple[Tensor, torch.Size]:
    """Tokens as `(N, T, D)` without a copy where their memory layout allows one, and its shape.

    Queries usually arrive as `(B, T, heads, d)` in memory, seen as `(B, heads, T, d)`. There the
    heads are columns: `(B, T, heads d)`.
    """
    if tokens.ndim >= 4 and not tokens.is_contiguous():
        inner = tokens.transpose(-3, -2)
        if inner.stride(-1) == 1 and inner.stride(-2) == inner.shape[-1]:
            inner = inner.flatten(-2)
            return inner.reshape(-1, *inner.shape[-2:]), inner.shape
    return tokens.reshape(-1, *tokens.shape[-2:]), tokens.shape


def _unrows(rows: Tensor, shape: torch.Size, folded: torch.Size) -> Tensor:
    """Undo `_rows`: back to the tokens' shape, from the one that `_rows` folded them to."""
    rows = rows.reshape(folded)
    if folded == shape:
        return rows
    *batch, heads, length, width = shape
    return rows.reshape(*batch, length, heads, width).transpose(-3, -2)


#: Bytes of rows smoothed at a time on a CPU: what the caches of a core or two hold.
_BLOCK_BYTES = 2 << 20


def _apply_factors(
    rows: Tensor, grid: tuple[int, ...], factors: tuple[Tensor | None, ...], mix: float
) -> Tensor:
    """`mix B rows + (1 - mix) rows`, one axis of the grid at a time; rows `(N, T, D)`."""
    block = max(1, _BLOCK_BYTES // max(1, rows[:1].numel() * rows.element_size()))
    if (
        rows.device.type == "cpu"
        and len(rows) > block
        and sum(factor is not None for factor in factors) > 1
        and not (torch.is_grad_enabled() and rows.requires_grad)
        and not torch.compiler.is_compiling()
    ):
        with suppress(RuntimeError):  # Forward-mode derivatives and vmap have no `out=`.
            return _apply_in_blocks(rows, block, grid, factors, mix)
    return _multiply(rows, grid, factors, mix)


def _apply_in_blocks(
    rows: Tensor,
    block: int,
    grid: tuple[int, ...],
    factors: tuple[Tensor | None, ...],
    mix: float,
) -> Tensor:
    """`_apply_factors`, a block of rows at a time.

    The product along one axis is still in the cache when the next one reads it, and its buffer
    is allocated once: a third less time for 60 heads of 64 x 64 tokens.
    """
    result = torch.empty(rows.shape, dtype=rows.dtype)
    buffers: dict[int, Tensor] = {}
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        if len(part) < block:
            buffers.clear()
        _multiply(part, grid, factors, mix, buffers, result[start : start + block])
    return result


def _multiply(
    rows: Tensor,
    grid: tuple[int, ...],
    factors: tuple[Tensor | None, ...],
    mix: float,
    buffers: dict[int, Tensor] | None = None,
    into: Tensor | None = None,
) -> Tensor:
    """`_apply_factors` of one block; products go to `buffers` by axis, the last to `into`."""
    count, length, width = rows.shape
    last = min(axis for axis, factor in enumerate(factors) if factor is not None)
    result = rows
    after = 1
    # The last axis first: it reads strided rows as they are, the others need merged columns.
    for axis in reversed(range(len(grid))):
        factor = factors[axis]
        if factor is not None:
            batch = count * length // (grid[axis] * after)
            columns = result.reshape(batch, grid[axis], after * width)
            repeated = factor.expand(batch, *factor.shape)
            out = None
            if into is not None and axis == last:
                out = into.view(columns.shape)
            elif buffers is not None:
                if axis not in buffers:
                    buffers[axis] = torch.empty(columns.shape, dtype=rows.dtype)
                out = buffers[axis]
            if axis == last and mix != 1:
                # Mixing inside the product saves a pass over memory.
                original = rows.reshape(columns.shape)
                result = torch.baddbmm(
                    original, repeated, columns, beta=1 - mix, alpha=mix, out=out
                )
            else:
                result = torch.bmm(repeated, columns, out=out)
        after *= grid[axis]
    return result


# Longer chunks would make the work within them grow faster than the sequence.
_LONGEST_CHUNK = 64


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


def _apply_ema(rows: Tensor, within: Tensor, carry: Tensor, across: Tensor) -> Tensor:
    """The moving average along rows `(N, T, D)`: within chunks, plus what each inherits."""
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


# --- checking and reading -----------------------------------------------------------------------


def _check_grid(grid: tuple[int, ...]) -> tuple[int, ...]:
    sizes = tuple(operator.index(size) for size in grid)
    if len(sizes) not in (2, 3) or min(sizes) < 1:
        raise ValueError(f"a grid is (H, W) or (F, H, W), of positive sizes; got {tuple(grid)!r}")
    return sizes


def _check_tokens(tokens: Tensor, grid: tuple[int, ...]) -> tuple[int, ...]:
    sizes = _check_grid(grid)
    if not tokens.is_floating_point():
        raise TypeError(f"tokens must be of a real floating-point dtype; got {tokens.dtype}")
    if tokens.ndim < 2 or tokens.shape[-2] != math.prod(sizes):
        raise ValueError(
            f"a grid {sizes} holds {math.prod(sizes)} tokens, but tokens of shape "
            f"{tuple(tokens.shape)} (..., T, d) do not have T = {math.prod(sizes)}"
        )
    return sizes


def _split(grid: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Number of frames, and the grid of one."""
    return (1, grid) if len(grid) == 2 else (grid[0], grid[1:])


def _check_sigma(name: str, value: float) -> float:
    number = _check_number(name, value)
    if not number >= 0:
        raise ValueError(
            f"{name} must lie in [0, inf] (0: identity, inf: uniform); got {_number_text(number)}"
        )
    return math.inf if number > UNIFORM_ABOVE else number


def _check_unit(name: str, value: float) -> float:
    number = _check_number(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must lie in [0, 1]; got {_number_text(number)}")
    return number


def _check_number(name: str, value: float) -> float:
    if isinstance(value, (bool, str)):
        raise TypeError(f"{name} must be a number; got {value!r}")
    try:
        return float(value) + 0.0  # -0.0 becomes 0.0
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number; got {value!r}") from None


def _check_kernel_size(value: int, name: str = "kernel_size") -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a positive odd integer; got {value!r}") from None
    if size < 1 or size % 2 == 0:
        raise ValueError(f"{name} must be a positive odd integer (1, 3, 5, ...); got {size}")
    return size


def _check_padding(padding: str) -> None:
    if padding not in PADDINGS:
        raise ValueError(
            f"padding must be one of {', '.join(map(repr, PADDINGS))}; got {padding!r}"
        )


def _number_text(value: object) -> str:
    """The shortest text that reads back as the same value: 10.0 -> "10"."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)


def _from_json(value: object) -> object:
    return math.inf if value == "inf" else value


def _parse_one(part: str, text: str) -> Smoothing:
    kind, _, arguments = part.strip().partition(":")
    kind = kind.strip()
    if kind not in _KINDS:
        raise ValueError(f"unknown smoothing {text!r}; valid forms are {', '.join(_FORMS)}")
    cls = _KINDS[kind]
    names = {short: name for name, short in cls._short.items()}
    values: dict[str, Any] = {}
    for position, argument in enumerate(arguments.split(",")):
        name, equals, value = (piece.strip() for piece in argument.rpartition("="))
        if not equals and position == 0:
            name = next(iter(names))
        key = names.get(name, name)
        if key not in cls._short or key in values:
            raise ValueError(
                f"cannot read {argument.strip()!r} in smoothing {text!r}: {kind} takes "
                f"{', '.join(names)}, each once; valid forms are {', '.join(_FORMS)}"
            )
        values[key] = value if key in ("padding", "ramp") else _parse_number(value, key, text)
    return cls(**values)


def _parse_number(value: str, key: str, text: str) -> float | int:
    try:
        return int(value) if "kernel" in key else float(value)
    except ValueError:
        expected = "an integer" if "kernel" in key else "a number"
        raise ValueError(
            f"{value!r} is not {expected}, for {key} in smoothing {text!r}; "
            f"valid forms are {', '.join(_FORMS)}"
        ) from None
