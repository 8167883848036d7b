"""Stem replay: what comes before the first perturbed layer is computed once.

Up to the first perturbed layer, the clean and the perturbed pass of a denoiser do the same work on
the same rows. The clean pass records the outputs of the modules that finish before that layer
begins, and the perturbed pass returns the recorded rows instead of running those modules.
"""

from __future__ import annotations

__all__ = ["Stem", "stem_candidates"]

from collections import deque
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

_NOT_RECORDED = object()


def stem_candidates(denoiser: nn.Module, layers: Collection[nn.Module]) -> frozenset[nn.Module]:
    """The largest modules of a denoiser that contain none of `layers`.

    Which of them run before the first layer is seen when they run.
    """
    ancestors = {
        ancestor
        for name, module in denoiser.named_modules()
        if module in layers
        for ancestor in _ancestors(denoiser, name)
    }
    found: set[nn.Module] = set()
    for ancestor in ancestors:
        if ancestor not in layers:
            found.update(child for child in ancestor.children() if child not in ancestors)
    # A list of modules is never called itself; its items are.
    while lists := {module for module in found if isinstance(module, nn.ModuleList)}:
        found -= lists
        found.update(child for module in lists for child in module)
    return frozenset(found - set(layers))


def _ancestors(denoiser: nn.Module, name: str) -> list[nn.Module]:
    """The module called `name` and all that contain it, the denoiser first."""
    parts = name.split(".")
    names = [".".join(parts[:end]) for end in range(len(parts) + 1)]
    return [denoiser.get_submodule(prefix) for prefix in names]


class Stem:
    """Recorded outputs of the modules before the first perturbed layer, for one denoising step.

    Args:
        candidates: The modules that may be recorded.
        layers: The perturbed layers: recording ends where the first of them begins.
    """

    def __init__(self, candidates: Collection[nn.Module], layers: Collection[nn.Module]) -> None:
        self._candidates = candidates
        self._layers = layers
        self._recorded: dict[nn.Module, deque[_Recording]] = {}
        self._open = True

    def before(self, module: nn.Module) -> None:
        """Note that the clean pass begins `module`."""
        if module in self._layers:
            self._open = False

    def after(self, module: nn.Module, inputs: Collection[Any], output: Any) -> None:
        """Note what `module` gave in the clean pass for these inputs."""
        if self._open and module in self._candidates:
            recording = _Recording(output, _shapes(inputs))
            self._recorded.setdefault(module, deque()).append(recording)

    def replay(
        self, module: nn.Module, inputs: Collection[Any], rows: slice, batch: int
    ) -> tuple[bool, Any]:
        """The recorded rows of the next output of `module`.

        Args:
            module: The module that the perturbed pass is about to run.
            inputs: What it is about to get.
            rows: The rows of the perturbed pass.
            batch: The number of rows of the clean pass.

        Returns:
            Whether there is a usable recording, and the rows of it.
        """
        queue = self._recorded.get(module)
        if not queue:
            return False, None
        value = queue.popleft().rows(rows, batch, _shapes(inputs))
        return (False, None) if value is _NOT_RECORDED else (True, value)


class _Recording:
    """One output, unusable once somebody has changed it in place (FreeU and T2I-Adapter do)."""

    def __init__(self, output: Any, shapes: list[torch.Size]) -> None:
        self._shapes = shapes
        self._tensors: list[tuple[Tensor, int]] = []
        self._copies: dict[int, Tensor] = {}
        self._output = self._keep(output)

    def _keep(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.is_inference():
                # Inference tensors count no changes, so only a copy is safe from them; what was
                # one tensor in the output stays one.
                if id(value) not in self._copies:
                    self._copies[id(value)] = value.clone()
                return self._copies[id(value)]
            self._tensors.append((value, value._version))
            return value
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            return type(value)(self._keep(item) for item in value)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        return _NOT_RECORDED

    def rows(self, rows: slice, batch: int, shapes: list[torch.Size]) -> Any:
        if any(tensor._version != version for tensor, version in self._tensors):
            return _NOT_RECORDED
        if (rows.start == 0 and rows.stop == batch) or (shapes and shapes == self._shapes):
            # Every row, or nothing of what went in has rows: positions, for instance.
            return self._output
        if not shapes or [shape[1:] for shape in shapes] != [shape[1:] for shape in self._shapes]:
            # Fewer rows may be padded to a shorter length.
            return _NOT_RECORDED
        return _rows_of(self._output, rows, batch)


def _shapes(inputs: Collection[Any]) -> list[torch.Size]:
    """The shapes of those inputs that are tensors."""
    return [value.shape for value in inputs if isinstance(value, Tensor) and value.ndim]


def _rows_of(value: Any, rows: slice, batch: int) -> Any:
    """Rows of nested outputs, or `_NOT_RECORDED` if some part is not batched."""
    if isinstance(value, Tensor):
        if value.ndim == 0 or value.shape[0] % batch:
            return _NOT_RECORDED
        # Some modules fold more into the first dimension (time ids, frames), batch outermost.
        fold = value.shape[0] // batch
        return value[rows.start * fold : rows.stop * fold]
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(item, (bool, int, float)) for item in value):
            return _NOT_RECORDED  # there may be one for each row
        items = [_rows_of(item, rows, batch) for item in value]
        if any(item is _NOT_RECORDED for item in items):
            return _NOT_RECORDED
        return type(value)(items)
    return value
