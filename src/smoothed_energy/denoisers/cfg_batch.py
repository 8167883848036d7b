r"""Which rows of a denoiser's batch are conditional, and how a correction enters them.

A pipeline under classifier-free guidance (CFG) stacks `[u, c]`, calls the denoiser once, and
computes $u + g\,(c - u)$ from the two halves. A correction $\delta$ is to be added to that sum
without touching the pipeline:

- added to *both* halves it gives $(u + \delta) + g\,((c + \delta) - (u + \delta))
  = u + g\,(c - u) + \delta$, whatever $g$ is;
- if the pipeline also rescales the sum by the statistics of $c$ (`guidance_rescale`, Lin et al.
  2023), $c$ must stay as it is: $u + \delta / (1 - g)$ gives the same sum.

A pipeline that makes two calls in place of one batch is corrected in the second of them, which is
the one for $u$, in this second way: it holds whatever the pipeline rescales by $c$.

With three branches, $u + g\,(c - i) + g_i\,(i - u)$ (InstructPix2Pix), both hold again, since the
factors of $u$ and $i$ add up to $1 - g$.
"""

from __future__ import annotations

__all__ = [
    "BatchLayout",
    "Formulation",
    "RowChoice",
    "pair_layout",
    "related_rows",
    "relates_rows",
    "repeat_rows",
    "take_rows",
]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..intercept.module_call import Rows
from .prediction import Predictions

Formulation = Literal["conditional", "unconditional"]

#: Which rows of the batch a second pass has: those of the prediction that it perturbs (and all of
#: them where a known processor relates rows), or always all.
RowChoice = Literal["needed", "all"]

# Frames attend to the first of their video (Text2Video-Zero), pictures to the first of their half
# of the batch (StyleAligned). Processors of diffusers' PAG, which a pipeline may have left behind,
# perturb the last part of whatever rows there are.
_RELATING_ROWS = ("CrossFrameAttn", "SharedAttentionProcessor", "PAG")


@dataclass(frozen=True)
class BatchLayout:
    """Equal, consecutive groups of rows of a denoiser's batch.

    Args:
        groups: The number of groups: 1 without CFG, 2 for `[u, c]`.
        conditional: The index of the group with the condition.
        unconditional: The index of the group without it; that of the only group if there is one.
        rescale_scale: CFG's `g` if the pipeline rescales by the statistics of the conditional
            prediction, else None.
        cfg_scale: CFG's `g` where there is one and it is known, else None.
        separate: Whether the batch is one branch alone: under CFG the pipeline calls the denoiser
            first with the condition, then without it. With a `cfg_scale` of 1 it makes both calls
            and ignores the second prediction.
        normalises: Whether the pipeline divides its sum by the size of that, other than by
            `rescale_scale`.
    """

    groups: int = 1
    conditional: int = 0
    unconditional: int = 0
    rescale_scale: float | None = None
    cfg_scale: float | None = None
    separate: bool = False
    normalises: bool = False

    @property
    def has_cfg(self) -> bool:
        """Whether there are predictions with the condition and without it, and both are used."""
        return self.groups > 1 or (self.separate and not self.drops_unconditional)

    @property
    def drops_unconditional(self) -> bool:
        """Whether the pipeline makes two calls and ignores the second, since CFG's scale is 1."""
        return self.separate and self.cfg_scale == 1

    def rows(self, formulation: Formulation, batch: int) -> Rows:
        """The rows of a batch that hold the prediction of a formulation.

        Raises:
            ValueError: If the batch is not made of this many equal groups.
        """
        if batch % self.groups:
            raise ValueError(
                f"a batch of {batch} rows can't hold {self.groups} equal groups of rows; "
                "expected the rows of each prompt once for every branch of the pipeline's own "
                "guidance"
            )
        size = batch // self.groups
        group = self.conditional if formulation == "conditional" else self.unconditional
        return Rows(group * size, (group + 1) * size, batch)

    def predictions(self, prediction: Tensor, formulation: Formulation) -> Predictions:
        """The groups of a prediction `(B, *)` by their meaning."""
        batch = len(prediction)
        conditional = self.rows("conditional", batch).of(prediction)
        unconditional = None
        if self.groups > 1:
            unconditional = self.rows("unconditional", batch).of(prediction)
        return Predictions(
            clean=self.rows(formulation, batch).of(prediction),
            conditional=conditional,
            unconditional=unconditional,
            # Three branches have two scales, and their sum is not u + g (c - u).
            cfg_scale=self.cfg_scale if self.groups == 2 else None,
        )

    def corrected(self, prediction: Tensor, delta: Tensor) -> Tensor:
        """The prediction that makes the pipeline's own guidance come out `delta` higher.

        Args:
            prediction: `(B, *)`, all groups.
            delta: `(B / groups, *)`.

        Returns:
            `(B, *)`, dtype of `prediction`.
        """
        if self.rescale_scale is not None:
            shift = delta / (1.0 - self.rescale_scale)
            return torch.cat(
                [
                    branch if index == self.conditional else branch + shift
                    for index, branch in enumerate(prediction.chunk(self.groups))
                ]
            )
        if self.groups > 1:
            delta = delta.repeat(self.groups, *([1] * (delta.ndim - 1)))
        return prediction + delta

    def replaced(self, prediction: Tensor, guided: Tensor) -> Tensor:
        r"""The prediction that makes the pipeline's own guidance come out as it is told.

        The sum of equal predictions is the same one, for every scale; where $c$ must stay, it is
        $u = (D^\star - g\,c) / (1 - g)$.

        Args:
            prediction: `(B, *)`, all groups, perhaps with a learned variance, which stays.
            guided: $D^\star$, `(B / groups, *)`.

        Returns:
            `(B, *)`, dtype of `prediction`.
        """
        channels = guided.shape[1]
        branches = []
        for index, branch in enumerate(prediction.chunk(self.groups)):
            mean = guided
            if self.rescale_scale is not None:
                g, c = self.rescale_scale, self.rows("conditional", len(prediction)).of(prediction)
                kept = c[:, :channels].to(guided.dtype)
                mean = kept if index == self.conditional else (guided - g * kept) / (1.0 - g)
            mean = mean.to(branch.dtype)
            rest = branch[:, channels:]
            branches.append(torch.cat([mean, rest], dim=1) if rest.shape[1] else mean)
        return torch.cat(branches)


def pair_layout(cfg_scale: float | None) -> BatchLayout:
    """The layout of `[u, c]` put together from separate calls."""
    return BatchLayout(
        2, conditional=1, unconditional=0, rescale_scale=cfg_scale, cfg_scale=cfg_scale
    )


def relates_rows(processor: type) -> bool:
    """Whether what attention processors of a class make of a row is known to depend on others."""
    names = [cls.__name__ for cls in processor.__mro__]
    return any(name.startswith(_RELATING_ROWS) and "Processor" in name for name in names)


def related_rows(denoiser: nn.Module) -> tuple[str, ...]:
    """The names of the processors in a denoiser that are known to relate the rows of a batch."""
    kinds = {type(getattr(module, "processor", None)) for module in denoiser.modules()}
    return tuple(sorted([kind.__name__ for kind in kinds if relates_rows(kind)]))


def take_rows(
    value: Any,
    rows: Rows,
    unbatched: frozenset[str] = frozenset(),
    folded: frozenset[str] = frozenset(),
) -> Any:
    """The rows of everything batched inside nested arguments.

    Args:
        value: Tensors in any nesting of dicts, lists and tuples, with anything else.
        rows: The rows to keep. A tensor is batched if its first size is that of the batch.
        unbatched: Keys of the outermost dict whose values stay as they are.
        folded: Keys of the outermost dict whose tensors may have several rows for each of the
            batch, one after the other (one for every frame).

    Returns:
        The same nesting; containers are new, tensors are views.
    """
    return _each_batched(value, rows, rows.of, unbatched, folded)


def repeat_rows(
    value: Mapping[str, Any],
    rows: Rows,
    unbatched: frozenset[str] = frozenset(),
    folded: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Everything batched inside nested arguments, with some rows once more after themselves.

    Args:
        value: The arguments by name, as for `take_rows`.
        rows: The rows that come twice.
        unbatched: As for `take_rows`.
        folded: As for `take_rows`.

    Returns:
        The same nesting; containers are new.
    """
    found: dict[str, Any] = _each_batched(value, rows, rows.repeated, unbatched, folded)
    return found


def _each_batched(
    value: Any,
    rows: Rows,
    change: Callable[[Tensor], Tensor],
    unbatched: frozenset[str] = frozenset(),
    folded: frozenset[str] = frozenset(),
    *,
    is_folded: bool = False,
) -> Any:
    """Nested arguments with `change` made of every tensor that is batched; see `take_rows`."""
    if isinstance(value, Tensor):
        fits = rows.fit(value) if is_folded else value.ndim > 0 and value.shape[0] == rows.batch
        return change(value) if fits else value

    def inside(item: Any, *, is_folded: bool = is_folded) -> Any:
        return _each_batched(item, rows, change, is_folded=is_folded)

    if isinstance(value, dict):
        return {
            key: item if key in unbatched else inside(item, is_folded=is_folded or key in folded)
            for key, item in value.items()
        }
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[inside(item) for item in value])
    if isinstance(value, (list, tuple)):
        return type(value)([inside(item) for item in value])
    return value
