r"""Smoothing operators: linear maps $B$ over the tokens of an image (or video) grid.

Smoothed energy guidance replaces the queries of a self-attention layer by smoothed ones. By
Proposition 3.1 of the paper that is the same as smoothing the attention logits over the queries,

    (B Q) K^T = B (Q K^T),        B in R^(T x T),  Q, K in R^(T x d),

so an operator is fully described by one matrix $B$. Tokens lie on a grid `(H, W)`, or `(F, H, W)`
for video, in row-major order. Frames are not mixed unless an operator is told to: on a grid
`(F, H, W)` every frame is smoothed by itself, as an image would be.

Sources: Hong, "Smoothed Energy Guidance" (arXiv:2408.00760), section 3 and appendix.
"""

from __future__ import annotations

__all__ = ["Compose", "Smoothing", "as_smoothing", "readable"]

import abc
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import Tensor
from typing_extensions import override

from ..settings.conversion import set_field
from .text import Parameter, read_json, read_text


class Smoothing(abc.ABC):
    """A linear operator over the tokens of a grid: an immutable, hashable value."""

    kind: ClassVar[str]
    """The operator's name in its text and JSON forms."""

    parameters: ClassVar[tuple[Parameter, ...]] = ()
    """The constructor's arguments in these forms, if the class is `readable`."""

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

    @property
    def changes_nothing(self) -> bool:
        """Whether it leaves the tokens of every grid as they are."""
        # A grid on which no kernel degenerates for lack of neighbours.
        return self.is_identity((8, 8, 8))

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The operator as JSON-ready values, `"kind"` first; infinity as the text `"inf"`."""

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Smoothing:
        """The operator of what `to_dict` gave.

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
        if not isinstance(kind, str) or kind not in _MAKERS:
            raise ValueError(
                f"unknown smoothing kind {kind!r}; the kinds are "
                f"{', '.join([*map(repr, _MAKERS), repr(Compose.kind)])}"
            )
        return _MAKERS[kind](**read_json(kind, _PARAMETERS[kind], values))

    @staticmethod
    def parse(text: str) -> Smoothing:
        """The operator of a text, e.g. `"gaussian:10"` or `"box:31,alpha=0.9"`.

        The text is `kind:value,name=value,...`; names and kinds are case-insensitive, the first
        value may be named or not, and several operators are joined by `" then "`, the first being
        applied first. `parse(str(op)) == op` for every operator.

        Raises:
            ValueError: If the text has no valid form; the message lists the forms.
        """
        parts = [_MAKERS[kind](**values) for kind, values in read_text(text, _PARAMETERS)]
        return parts[0] if len(parts) == 1 else Compose(*parts)

    def __matmul__(self, other: Smoothing) -> Compose:
        """The product of the matrices: `(a @ b)` applies `b` first, then `a`."""
        if not isinstance(other, Smoothing):
            return NotImplemented
        return Compose(other, self)


_MAKERS: dict[str, Callable[..., Smoothing]] = {}
_PARAMETERS: dict[str, tuple[Parameter, ...]] = {}

_Class = TypeVar("_Class", bound=type[Smoothing])


def readable(cls: _Class) -> _Class:
    """Lets `Smoothing.parse` and `Smoothing.from_dict` read a class, by its kind and parameters."""
    _MAKERS[cls.kind] = cls
    _PARAMETERS[cls.kind] = cls.parameters
    return cls


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
        set_field(self, "operators", tuple(flat))

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.operators))})"

    def __str__(self) -> str:
        return " then ".join(map(str, self.operators))

    @override
    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "operators": [part.to_dict() for part in self.operators]}

    @override
    def is_uniform(self, grid: tuple[int, ...]) -> bool:
        # One mean makes all tokens alike, if no other part tells them apart again.
        return any(part.is_uniform(grid) for part in self.operators) and all(
            part.is_uniform(grid) or part.is_identity(grid) for part in self.operators
        )

    @override
    def is_identity(self, grid: tuple[int, ...]) -> bool:
        return all(part.is_identity(grid) for part in self.operators)

    @override
    def matrix(self, grid: tuple[int, ...]) -> Tensor:
        return functools.reduce(
            lambda product, part: part.matrix(grid) @ product,
            self.operators[1:],
            self.operators[0].matrix(grid),
        )

    @override
    def apply(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
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
