r"""The interception point: attention as the softmax sees it.

A perturbation must act on the query, key and value *as they enter*
$\operatorname{softmax}(Q K^\top / \sqrt{d})\, V$: after the head split, the query norm and the
rotary embedding. `torch.nn.functional.scaled_dot_product_attention` is the one call in which all
attention processors of `diffusers` meet, so it is intercepted there, and only while a chosen layer
runs: other layers, other threads and the unperturbed pass never see it.
"""

from __future__ import annotations

__all__ = ["Attention", "AttentionBackendError", "attend_with", "watch_attention"]

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode

from .attention_backends import NATIVE, AttentionBackendError, native_twin, not_native
from .module_call import ModuleCall

_SDPA_PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


class Attention(NamedTuple):
    """One call of `scaled_dot_product_attention`.

    Args:
        query: `(B, heads, T, d)`, or with heads in the rows `(B heads, T, d)`.
        key: `(B, heads, S, d)`.
        value: `(B, heads, S, e)`.
        options: The other arguments, by name.
        native: The function.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    options: Mapping[str, Any]
    native: Callable[..., Tensor]

    def __call__(self) -> Tensor:
        """Attention as it is, `(B, heads, T, e)`."""
        return self.native(self.query, self.key, self.value, **self.options)

    @property
    def queries(self) -> int:
        """T."""
        return self.query.shape[-2]

    @property
    def has_a_key_for_each_query(self) -> bool:
        """Whether T is S."""
        return self.key.shape[-2] == self.query.shape[-2]


class _Interception(TorchFunctionMode):
    """Hands every scaled dot-product attention in the block to `replacement`."""

    def __init__(self, replacement: Callable[[Attention], Tensor]) -> None:
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
        # Not what `F` holds now: people put wrappers there, which end in the native function.
        if func is not NATIVE:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        options = dict(zip(_SDPA_PARAMETERS, args, strict=False)) | dict(kwargs or {})
        query, key, value = options.pop("query"), options.pop("key"), options.pop("value")
        return self.replacement(Attention(query, key, value, options, func))


def attend_with(replacement: Callable[[Attention], Tensor], call: ModuleCall, name: str) -> Any:
    """One call of an attention module with its softmax attention replaced.

    Args:
        replacement: Called in place of `scaled_dot_product_attention`; it returns
            `(B, heads, T, e)`.
        call: The call of the attention module (a `diffusers` `Attention`, or another that calls
            the function).
        name: The module's full name, for messages.

    Returns:
        What the module returns.

    Raises:
        AttentionBackendError: If the module never called `scaled_dot_product_attention`.
    """
    module = call.module
    twin = native_twin(module)
    with _Interception(replacement) as interception:
        if twin is None:
            output = call.forward(*call.args, **call.kwargs)
        else:
            output = twin(module, *call.args, **_accepted(twin, call.kwargs))
    if interception.calls == 0:
        raise not_native(module, name, "perturbed")
    return output


def watch_attention(see: Callable[[Attention], None], call: ModuleCall, name: str) -> Any:
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

    def attend(attention: Attention) -> Tensor:
        see(attention)
        return attention()

    def only_see(attention: Attention) -> Tensor:
        see(attention)
        query, value = attention.query, attention.value
        return value.new_zeros(*query.shape[:-1], value.shape[-1])

    with _Interception(attend) as interception:
        output = call()
    if interception.calls == 0:
        if native_twin(call.module) is None:
            raise not_native(call.module, name, "looked at")
        attend_with(only_see, call, name)
    return output


def _accepted(processor: Callable[..., Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments `processor` takes, as `Attention.forward` filters them."""
    parameters = inspect.signature(processor).parameters
    return {name: value for name, value in kwargs.items() if name in parameters}
