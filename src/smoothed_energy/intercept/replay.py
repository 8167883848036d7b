"""Stem replay: what comes before the first edited module is computed once.

Up to the first module that it edits, a perturbed pass of a denoiser does the same work on the same
rows as the clean pass. The clean pass records the outputs of modules that end before that one
begins, and the perturbed pass returns the recorded rows instead of running those modules. With
several perturbed passes, each with a first edit of its own, the clean pass records once for all.
"""

from __future__ import annotations

__all__ = ["Recorder", "Replay", "Stem"]

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .module_call import ModuleCall, Rows

_NOT_RECORDED = object()


class Stem:
    """What a perturbed pass may take over from the clean one.

    Args:
        denoiser: The denoiser.
        edited: The modules that the perturbed pass edits: the stem ends where the first begins.
        lists: Names of classes that are lists of modules, though they could be called.

    Attributes:
        modules: The largest modules that contain none of `edited`. Which of them run before the
            first edit is seen when they run: after the first clean pass only those are left.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        edited: Collection[nn.Module],
        lists: Collection[str] = (),
    ) -> None:
        self.edited = frozenset(edited)
        self.modules = _largest_without(denoiser, self.edited, lists)
        self.is_learned = False

    def learn(self, seen: Collection[nn.Module]) -> None:
        """Keep those modules only that were seen to end before the first edit."""
        self.modules = self.modules.intersection(seen)
        self.is_learned = True


def _largest_without(
    denoiser: nn.Module, edited: frozenset[nn.Module], names: Collection[str]
) -> frozenset[nn.Module]:
    """The largest modules of a denoiser that contain none of `edited`."""

    def is_list(module: nn.Module) -> bool:
        return isinstance(module, nn.ModuleList) or type(module).__name__ in names

    ancestors: set[nn.Module] = set()
    for name, module in denoiser.named_modules():
        if module in edited:
            parts = name.split(".")
            for end in range(len(parts)):
                ancestors.add(denoiser.get_submodule(".".join(parts[:end])))
    found: set[nn.Module] = set()
    for ancestor in ancestors - edited:
        found.update(ancestor.children())
    found -= ancestors
    # A list of modules is never called itself; its items are.
    while lists := [module for module in found if is_list(module)]:
        found.difference_update(lists)
        for module in lists:
            found.update(module.children())  # some items may be None
    return frozenset(found - edited)


@dataclass(slots=True)
class _Recording:
    """One output of a module, and what tells whether it can be used again."""

    number: int
    output: Any
    #: The shapes of the tensors that went in.
    shapes: list[torch.Size]
    #: The tensors in the output, and the numbers of their changes in place so far.
    versions: list[tuple[Tensor, int]]


class Recorder:
    """The outputs of one clean pass that perturbed passes will replay.

    Args:
        stems: The stems of these passes.
    """

    def __init__(self, stems: Sequence[Stem]) -> None:
        self._open = list(stems)
        self._ends_of: dict[Stem, int] = {}
        self._count = 0
        self._first: dict[nn.Module, int] = {}
        self._recorded: dict[nn.Module, list[_Recording | None]] = {}
        self._wanted: set[nn.Module] = set()
        self._edited: set[nn.Module] = set()
        for stem in stems:
            self._wanted |= stem.modules
            self._edited |= stem.edited

    def run(self, call: ModuleCall) -> Any:
        """One call of a module in the clean pass, recorded if a stem has it and has not ended."""
        module = call.module
        if module in self._edited:
            self._end(module)
        output = call.forward(*call.args, **call.kwargs)
        if module in self._wanted:
            self._record(call, output)
        return output

    def _end(self, edited: nn.Module) -> None:
        """End the stems of the passes that edit a module."""
        for stem in list(self._open):
            if edited in stem.edited:
                self._ends_of[stem] = self._count
                self._open.remove(stem)
        self._wanted = set().union(*[stem.modules for stem in self._open])
        self._edited = set().union(*[stem.edited for stem in self._open])

    def _record(self, call: ModuleCall, output: Any) -> None:
        self._count += 1
        inputs = (*call.args, *call.kwargs.values())
        shapes = [value.shape for value in inputs if isinstance(value, Tensor) and value.ndim]
        versions: list[tuple[Tensor, int]] = []
        kept = _kept(output, versions, {})
        recording = _Recording(self._count, kept, shapes, versions)
        self._first.setdefault(call.module, self._count)
        self._recorded.setdefault(call.module, []).append(recording)

    def learn(self) -> None:
        """Tell the stems which of their modules ended before the first edit."""
        for stem in self._open:  # No module that it edits ran.
            self._ends_of[stem] = self._count
        self._open = []
        for stem, end in self._ends_of.items():
            if not stem.is_learned:
                stem.learn([module for module, first in self._first.items() if first <= end])

    def replay(self, stem: Stem, rows: Rows, *, is_last: bool = False) -> Replay:
        """What one perturbed pass takes over.

        Args:
            stem: Its stem.
            rows: Its rows of the clean pass's batch.
            is_last: Whether no other pass follows, so that what was replayed can be dropped.
        """
        end = self._ends_of.get(stem, self._count)
        return Replay(self._recorded, end, stem, rows, drops=is_last)


class Replay:
    """Gives a perturbed pass the recorded outputs of its stem, one after the other.

    Args:
        recorded: The recordings of each module.
        end: The number of the last one that belongs to the stem.
        stem: The stem.
        rows: The rows of the perturbed pass.
        drops: Whether a recording is dropped once it was replayed.
    """

    def __init__(
        self,
        recorded: dict[nn.Module, list[_Recording | None]],
        end: int,
        stem: Stem,
        rows: Rows,
        *,
        drops: bool,
    ) -> None:
        self._recorded = recorded
        self._drops = drops
        self._end = end
        self._modules = stem.modules
        self._rows = rows
        self._has_all_rows = rows.is_all
        self._used: dict[nn.Module, int] = {}

    def run(self, call: ModuleCall) -> Any:
        """The recorded rows of the next output of a module; without any, the call itself."""
        module = call.module
        recordings = self._recorded.get(module, ()) if module in self._modules else ()
        used = self._used.get(module, 0)
        recording = recordings[used] if used < len(recordings) else None
        if recording is not None and recording.number <= self._end:
            self._used[module] = used + 1
            if self._drops:
                self._recorded[module][used] = None
            output = self._rows_of(recording, call)
            if output is not _NOT_RECORDED:
                return output
        return call.forward(*call.args, **call.kwargs)

    def _rows_of(self, recording: _Recording, call: ModuleCall) -> Any:
        """The rows of an output; `_NOT_RECORDED` if it was changed, or its rows can't be told."""
        for tensor, version in recording.versions:
            # FreeU and T2I-Adapter change outputs in place.
            if tensor._version != version:
                return _NOT_RECORDED
        if self._has_all_rows:
            return recording.output
        inputs = (*call.args, *call.kwargs.values())
        shapes = [value.shape for value in inputs if isinstance(value, Tensor) and value.ndim]
        if shapes and shapes == recording.shapes:
            # Nothing of what went in has rows: positions, for instance.
            return recording.output
        if len(shapes) != len(recording.shapes) or not shapes:
            return _NOT_RECORDED
        for shape, before in zip(shapes, recording.shapes, strict=True):
            if shape[1:] != before[1:]:  # Fewer rows may be padded to a shorter length.
                return _NOT_RECORDED
            # Rows of different lengths may lie one after the other, so that the first is no batch.
            rows = self._rows.stop - self._rows.start
            if shape[0] != before[0] and shape[0] * self._rows.batch != before[0] * rows:
                return _NOT_RECORDED
        return _rows_of(recording.output, self._rows, {shape[0] for shape in recording.shapes})


def _kept(value: Any, versions: list[tuple[Tensor, int]], copies: dict[int, Tensor]) -> Any:
    """What is kept of an output."""
    if isinstance(value, Tensor):
        if not value.is_inference():
            versions.append((value, value._version))
            return value
        # Inference tensors count no changes. A copy made outside of inference mode does, and
        # whoever changes it makes the other passes compute theirs. What was one tensor stays one.
        if id(value) not in copies:
            with torch.inference_mode(False):
                copy = copies[id(value)] = value.clone()
            versions.append((copy, copy._version))
        return copies[id(value)]
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        items = [_kept(item, versions, copies) for item in value]
        return _NOT_RECORDED if any(item is _NOT_RECORDED for item in items) else type(value)(items)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return _NOT_RECORDED


def _rows_of(value: Any, rows: Rows, batches: set[int]) -> Any:
    """Rows of nested outputs, or `_NOT_RECORDED` if some part is not batched.

    The first size of a batch is one of `batches`: positions, of which there may be as many as there
    are tokens, are none.
    """
    if isinstance(value, Tensor):
        if value.ndim == 0 or value.shape[0] % rows.batch or value.shape[0] not in batches:
            return _NOT_RECORDED
        return rows.of(value)
    if not isinstance(value, (list, tuple)):
        return value
    items = []
    for item in value:
        found = item
        if isinstance(item, (Tensor, list, tuple)):
            found = _rows_of(item, rows, batches)
        elif isinstance(item, (bool, int, float)):
            found = _NOT_RECORDED  # there may be one number for each row
        if found is _NOT_RECORDED:
            return _NOT_RECORDED
        items.append(found)
    return type(value)(items)
