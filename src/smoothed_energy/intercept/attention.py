r"""The interception point: attention as the softmax sees it.

A perturbation must act on the query, key and value *as they enter*
$\operatorname{softmax}(Q K^\top / \sqrt{d})\, V$: after the head split, the query norm and the
rotary embedding. `torch.nn.functional.scaled_dot_product_attention` is the one call in which all
attention processors of `diffusers` meet, so it is intercepted there, and only while a chosen layer
runs: other layers, other threads and the unperturbed pass never see it.
"""

from __future__ import annotations

__all__ = ["AttentionBackendError", "ScaledDotProduct", "Watcher", "attend_with", "watch_attention"]

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .module_call import ModuleCall

_SDPA_PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")

# Processors that compute softmax(QK^T)V without the native function, each with one that computes
# the same with it.
_NATIVE_TWINS = {
    "AttnProcessor": "AttnProcessor2_0",
    "SlicedAttnProcessor": "AttnProcessor2_0",
    "XFormersAttnProcessor": "AttnProcessor2_0",
    "AttnProcessorNPU": "AttnProcessor2_0",
    "XLAFlashAttnProcessor2_0": "AttnProcessor2_0",
    "AttnAddedKVProcessor": "AttnAddedKVProcessor2_0",
    "SlicedAttnAddedKVProcessor": "AttnAddedKVProcessor2_0",
    "XFormersAttnAddedKVProcessor": "AttnAddedKVProcessor2_0",
}


class AttentionBackendError(RuntimeError):
    """A chosen layer ran without a `scaled_dot_product_attention` call to perturb."""


class ScaledDotProduct(Protocol):
    """What replaces one call of `scaled_dot_product_attention`.

    It gets query `(B, heads, T, d)`, key and value `(B, heads, S, d)`, the other arguments of the
    call by name in `options`, and `native`, the function itself, and returns `(B, heads, T, d)`.
    """

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        options: Mapping[str, Any],
        native: Callable[..., Tensor],
    ) -> Tensor:
        """Attention of `query` to `key` and `value`."""
        ...


class Watcher(Protocol):
    """What looks at one call of `scaled_dot_product_attention`; see `ScaledDotProduct`."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, options: Mapping[str, Any]
    ) -> None:
        """Look at what enters the attention of `query` to `key` and `value`."""
        ...


class _Interception(TorchFunctionMode):
    """Hands every scaled dot-product attention in the block to `replacement`."""

    def __init__(self, replacement: ScaledDotProduct) -> None:
        super().__init__()
        self.replacement = replacement
        self.calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        options = dict(zip(_SDPA_PARAMETERS, args, strict=False)) | dict(kwargs or {})
        query, key, value = options.pop("query"), options.pop("key"), options.pop("value")
        return self.replacement(query, key, value, options, func)


def attend_with(replacement: ScaledDotProduct, call: ModuleCall, name: str) -> Any:
    """One call of an attention module with its softmax attention replaced.

    Args:
        replacement: Called in place of `scaled_dot_product_attention`.
        call: The call of the attention module (a `diffusers` `Attention`, or another that calls
            the function).
        name: The module's full name, for messages.

    Returns:
        What the module returns.

    Raises:
        AttentionBackendError: If the module never called `scaled_dot_product_attention`.
    """
    module = call.module
    twin = _native_twin(module)
    with _Interception(replacement) as interception:
        if twin is None:
            output = call.forward(*call.args, **call.kwargs)
        else:
            output = twin(module, *call.args, **_accepted(twin, call.kwargs))
    if interception.calls == 0:
        raise _not_native(module, name, "perturbed")
    return output


def watch_attention(see: Watcher, call: ModuleCall, name: str) -> Any:
    """One call of an attention module as it is, whose softmax attention somebody looks at.

    A processor that computes attention without the native function runs as it is, too; what would
    enter the softmax is then worked out by its native twin once more, without the softmax.

    Args:
        see: Called with what enters `scaled_dot_product_attention`.
        call: The call of the attention module.
        name: The module's full name, for messages.

    Returns:
        What the module returns, the same bits as without anybody looking.

    Raises:
        AttentionBackendError: If the module calls no `scaled_dot_product_attention`, and has no
            twin that does.
    """

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        options: Mapping[str, Any],
        native: Callable[..., Tensor],
    ) -> Tensor:
        see(query, key, value, options)
        return native(query, key, value, **options)

    def only_see(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        options: Mapping[str, Any],
        native: Callable[..., Tensor],
    ) -> Tensor:
        see(query, key, value, options)
        return value.new_zeros(*query.shape[:-1], value.shape[-1])

    with _Interception(attend) as interception:
        output = call()
    if interception.calls == 0:
        if _native_twin(call.module) is None:
            raise _not_native(call.module, name, "looked at")
        attend_with(only_see, call, name)
    return output


def _not_native(module: nn.Module, name: str, done: str) -> AttentionBackendError:
    processor = type(getattr(module, "processor", module)).__name__
    return AttentionBackendError(
        f"layer {name!r} computes attention with {processor}, which never calls "
        f"torch.nn.functional.scaled_dot_product_attention, so it can't be {done}; use a "
        "native processor, for example "
        "pipe.unet.set_attn_processor(diffusers.models.attention_processor.AttnProcessor2_0()),"
        " or choose other layers"
    )


def _native_twin(module: nn.Module) -> Callable[..., Any] | None:
    """The native processor to use in place of the module's own, or None to use its own."""
    processor = getattr(module, "processor", None)
    name = _NATIVE_TWINS.get(type(processor).__name__)
    return None if name is None else _processor(type(processor).__module__, name)


@functools.lru_cache(maxsize=32)
def _processor(module: str, name: str) -> Callable[..., Any] | None:
    """A processor of `diffusers` that is defined in a module, beside another one."""
    cls = getattr(sys.modules.get(module), name, None)
    twin: Callable[..., Any] | None = None if cls is None else cls()
    return twin


def _accepted(processor: Callable[..., Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments `processor` takes, as `Attention.forward` filters them."""
    parameters = inspect.signature(processor).parameters
    return {name: value for name, value in kwargs.items() if name in parameters}
