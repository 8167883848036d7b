"""One call of a module, as a value that can be asked, changed and made; and rows of a batch."""

from __future__ import annotations

__all__ = ["ModuleCall", "Rows", "modules_of", "name_inputs", "parameter_names", "unwrap"]

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def unwrap(module: nn.Module) -> nn.Module:
    """The module itself, if `torch.compile` wrapped it."""
    while isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
        module = inner
    return module


def modules_of(denoiser: nn.Module) -> list[nn.Module]:
    """A denoiser and all inside: in a seventh of the time of `modules()`, which recurses."""
    found, seen = [denoiser], {denoiser}
    for module in found:
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                found.append(child)
    return found


#: The inputs of forward functions that don't tell them, and the place of their tokens.
_TOLD: dict[Callable[..., Any], tuple[tuple[str, ...], int]] = {}


def name_inputs(kind: type[nn.Module], names: Sequence[str], tokens: str) -> None:
    """Say what a class of modules is given whose forward function takes `*args`.

    Args:
        kind: The class.
        names: The names of its inputs, in order.
        tokens: The one of them that holds the tokens of the image.
    """
    told = tuple(names), names.index(tokens)
    if _TOLD.get(kind.forward) != told:
        _TOLD[kind.forward] = told
        _names.cache_clear()


@functools.lru_cache(maxsize=256)
def _names(forward: Callable[..., Any]) -> tuple[str, ...]:
    if forward in _TOLD:
        return _TOLD[forward][0]
    return tuple(inspect.signature(forward).parameters)[1:]


def parameter_names(module: nn.Module) -> tuple[str, ...]:
    """The names of the parameters of a module's forward function, `self` left out."""
    return _names(type(unwrap(module)).forward)


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a module.

    Args:
        module: The module that is called.
        forward: Its own forward function, without any patch of this package.
        args: The positional arguments.
        kwargs: The keyword arguments.
    """

    module: nn.Module
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the forward function's parameters, in order."""
        return parameter_names(self.module)

    @property
    def tokens(self) -> str:
        """The name of the input that holds the tokens: the first, unless it is told otherwise."""
        names = self.parameters
        if not _TOLD:
            return names[0]
        _, place = _TOLD.get(type(unwrap(self.module)).forward, ((), 0))
        return names[place]

    def argument(self, name: str) -> Any:
        """An argument by its name, however it was passed; None if it was not given."""
        if name in self.kwargs:
            return self.kwargs[name]
        if not self.args:
            return None
        names = self.parameters
        place = names.index(name) if name in names else len(self.args)
        return self.args[place] if place < len(self.args) else None

    def replace(self, name: str, value: Any) -> ModuleCall:
        """The same call with another value of one argument.

        Raises:
            ValueError: If the forward function has no such parameter.
        """
        names = self.parameters
        if name not in names and name not in self.kwargs:
            raise ValueError(
                f"{type(self.module).__name__} has no input {name!r}; it has {', '.join(names)}"
            )
        place = names.index(name) if name in names else len(self.args)
        if place < len(self.args) and name not in self.kwargs:
            args = (*self.args[:place], value, *self.args[place + 1 :])
            return ModuleCall(self.module, self.forward, args, self.kwargs)
        return ModuleCall(self.module, self.forward, self.args, {**self.kwargs, name: value})

    def named(self) -> dict[str, Any]:
        """All arguments by their names."""
        return {**dict(zip(self.parameters, self.args, strict=False)), **self.kwargs}

    def with_named(self, arguments: Mapping[str, Any]) -> ModuleCall:
        """The same call with these values of the arguments that `named` gives."""
        kwargs = dict(arguments)
        names = self.parameters[: len(self.args)]
        return ModuleCall(
            self.module, self.forward, tuple([kwargs.pop(name) for name in names]), kwargs
        )

    def with_forward(self, forward: Callable[..., Any]) -> ModuleCall:
        """The same arguments for another function."""
        return ModuleCall(self.module, forward, self.args, self.kwargs)

    def copied(self) -> ModuleCall:
        """The same call with containers of its own: some modules consume the lists they get."""
        return ModuleCall(self.module, self.forward, _copied(self.args), _copied(self.kwargs))

    def show_to_pre_hooks(self, module: nn.Module) -> None:
        """Show the call to the forward pre-hooks of a module, which it is made below.

        It has other rows, or other latents, than what they saw, and is made of what they returned:
        what they would change is changed in it, so what they return now is ignored. But what they
        note (ToMe: the size of the latents) must be of this call.
        """
        # What Module.compile() made of the module runs the hooks itself.
        if not module._forward_pre_hooks or vars(module).get("_compiled_call_impl") is not None:
            return
        for key, hook in list(module._forward_pre_hooks.items()):
            if key in module._forward_pre_hooks_with_kwargs:
                hook(module, self.args, self.kwargs)
            else:
                hook(module, self.args)

    def __call__(self) -> Any:
        """Make the call."""
        return self.forward(*self.args, **self.kwargs)


def _copied(value: Any) -> Any:
    """New containers, same values in them."""
    if isinstance(value, dict):
        # Most arguments are no containers: looking first saves a call for each.
        return {
            key: _copied(item) if isinstance(item, (dict, list, tuple)) else item
            for key, item in value.items()
        }
    if type(value) in (list, tuple):
        return type(value)(
            [_copied(item) if isinstance(item, (dict, list, tuple)) else item for item in value]
        )
    return value


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive rows of a batch.

    Args:
        start: The first of them.
        stop: The one after the last.
        batch: How many rows the batch has.
    """

    start: int
    stop: int
    batch: int

    @property
    def is_all(self) -> bool:
        """Whether they are all rows of the batch."""
        return self.start == 0 and self.stop == self.batch

    def fit(self, value: Tensor) -> bool:
        """Whether a tensor has a row, or several one after the other, for each of the batch."""
        return value.ndim > 0 and value.shape[0] % self.batch == 0

    def of(self, value: Tensor) -> Tensor:
        """These rows of a tensor `(batch n, *)`: a view of `((stop - start) n, *)`.

        Some modules fold more into the first dimension (frames, heads), the batch outermost.
        """
        fold = value.shape[0] // self.batch
        return value[self.start * fold : self.stop * fold]

    def repeated(self, value: Tensor) -> Tensor:
        """A tensor `(batch n, *)` in which these rows come once more after themselves."""
        end = self.stop * (value.shape[0] // self.batch)
        return torch.cat([value[:end], self.of(value), value[end:]])

    def left_out(self, value: Tensor) -> Tensor:
        """A tensor `(batch n, *)` without these rows."""
        fold = value.shape[0] // self.batch
        return torch.cat([value[: self.start * fold], value[self.stop * fold :]])

    def put(self, value: Tensor, part: Tensor) -> Tensor:
        """A tensor `(batch n, *)` with other values `((stop - start) n, *)` in these rows."""
        if self.is_all:
            return part
        fold = value.shape[0] // self.batch
        return torch.cat([value[: self.start * fold], part, value[self.stop * fold :]])
