r"""The interception point: attention as the softmax sees it.

A perturbation must act on the query, key and value *as they enter*
$\operatorname{softmax}(Q K^\top / \sqrt{d})\, V$: after the head split, the query norm and the
rotary embedding. `torch.nn.functional.scaled_dot_product_attention` is the one call in which all
attention processors of `diffusers` meet, so it is intercepted there, and only while a chosen layer
runs: other layers, other threads and the unperturbed pass never see it.
"""

from __future__ import annotations

__all__ = [
    "Attention",
    "AttentionBackendError",
    "LayerAttention",
    "NativeForward",
    "attend_with",
    "is_intercepted",
    "natively",
    "seeing",
    "watch_attention",
]

import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .attention_backends import NATIVE, AttentionBackendError, not_native, processor_name
from .module_call import ModuleCall

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

_SDPA_PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")

_INTERCEPTED: ContextVar[bool] = ContextVar("smoothed_energy_attention", default=False)


def is_intercepted() -> bool:
    """Whether what attends now is to call the native function, since somebody waits for it.

    For those who choose what computes attention in place of the layers themselves.
    """
    return _INTERCEPTED.get()


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


class LayerAttention:
    """Tells the self-attention in one call of a layer's module from what else attends there.

    Every attention of all the layer's queries to as many keys is its own; the module may attend to
    something else besides (an IP-Adapter's picture). If it has none of these, one attention of all
    its queries to *other keys* is the layer's: to every second token, to a reference's tokens as
    well, to text and image (where the text's queries may attend by themselves).

    Windows that lie in the batch are attention of their own. Queries, heads and rows may come in
    slices. From the first slice of queries on all attentions are noted, since only the whole of
    them is one attention.

    Nothing is raised before the call is over: a processor might catch it.

    Args:
        call: The call of the module.
        name: The name of the layer.
        own_keys: Whether keys must be of the same tokens as the queries.
    """

    def __init__(self, call: ModuleCall, name: str, *, own_keys: bool) -> None:
        self._call, self._name, self._needs_own_keys = call, name, own_keys
        #: The rows of the module's batch; 0 if they are not known.
        self.rows, image = _size(call.argument(call.tokens))
        _, text = _size(call.argument("encoder_hidden_states"))
        self.image, self._text = image, 0 if text == image else text
        #: The numbers of queries that the layer may have: beside a text's, or not.
        self.wholes = {image, image + text} if image else set()
        self._own: list[Attention] = []
        self._other: list[Attention] = []
        self._problem: str | None = None
        #: All attentions, if they come in slices of queries.
        self.noted: list[Attention] = []

    def takes(self, attention: Attention) -> bool:
        """Whether an attention, the next in the call, is the layer's; as far as is known so far."""
        if self.noted:
            self.noted.append(attention)
            return False
        if not self.image and attention.options.get("is_causal"):
            return False  # The text's, where a sequence has no axis for rows.
        whole = self._is_whole(attention)
        if whole and attention.has_a_key_for_each_query:
            self._own.append(attention)
            return True
        if self._own or attention.queries == self._text:
            return False
        if whole:
            self._other.append(attention)
            return not self._needs_own_keys
        if self._other:
            self._problem = "attends several times, never to its own keys"
        else:
            self.noted.append(attention)
        return False

    def check(self) -> None:
        """Check, as the call is over, that what was taken is the layer's self-attention.

        Raises:
            AttentionBackendError: If it is not, or not the whole of it.
        """
        if self._problem is not None:
            pass
        elif self._own and self._other:
            self._problem = "attends to other keys before its own, so it can't be told what for"
        elif self._own:
            self._check_rows(self._own)
        elif self._needs_own_keys and self._other:
            first = self._other[0]
            self._problem = (
                f"has {first.queries} queries and {first.key.shape[-2]} keys, which are not of the "
                "same tokens, as this method needs them to be"
            )
        elif self._other:
            self._check_rows(self._other)
            heads = getattr(self._call.module, "heads", None)
            count = sum(math.prod(one.query.shape[:-2]) for one in self._other)
            if len(self._other) > 1 and count != self.rows * (heads or 1):
                self._problem = "attends several times, never to its own keys"
        elif not self.noted:
            self._problem = "attends with none of its tokens' queries"
        if self._problem is not None:
            raise self.refusal(self._problem)

    def check_all(self, attentions: Sequence[Attention]) -> list[bool]:
        """Which of all attentions of the call are the layer's, if each is of all its queries.

        Raises:
            AttentionBackendError: If they don't make the layer's self-attention.
        """
        own = [one.has_a_key_for_each_query for one in attentions]
        own = own if any(own) else [True] * len(own)
        taken = [one for one, is_own in zip(attentions, own, strict=True) if is_own]
        whole = taken[0].has_a_key_for_each_query
        self.noted, self._own, self._other = [], taken if whole else [], [] if whole else taken
        self.check()
        return own

    def check_at_once(self) -> None:
        """Check, as the call is over, that one attention was all of the layer's.

        Raises:
            AttentionBackendError: If it was not.
        """
        self.check()
        taken = self._own or self._other
        if len(taken) != 1 or taken[0].query.ndim != 4:
            raise self.refusal("attends in slices, of which each would be measured by itself")

    def refusal(self, reason: str) -> AttentionBackendError:
        """An error that names the layer."""
        return AttentionBackendError(
            f"layer {self._name!r} ({processor_name(self._call.module)}) {reason}; expected "
            "other layers, a processor whose keys are the layer's own, or another method: "
            "seg; on=query and erg ask for no keys, tpg for no attention"
        )

    def _is_whole(self, attention: Attention) -> bool:
        if not self.image or attention.queries in self.wholes:
            return True
        if attention.has_a_key_for_each_query and self.is_window(attention):
            return True
        # Rows may come one by one, each with as much of the text as it has.
        if self.image < attention.queries < self.image + self._text:
            return attention.has_a_key_for_each_query
        # A text may come under another name.
        more = attention.queries > self.image and len(attention.query) == self.rows
        return more and attention.has_a_key_for_each_query

    def is_window(self, attention: Attention) -> bool:
        """Whether the layer's tokens attend within windows, which lie in the batch."""
        rows = len(attention.query)
        whole = attention.query.ndim == 4 and rows > self.rows
        return whole and rows * attention.queries == self.rows * self.image

    def _check_rows(self, taken: Sequence[Attention]) -> None:
        rows = sum(len(one.query) for one in taken)
        if rows < self.rows:
            self._problem = f"attends in {rows} of the {self.rows} rows of its batch only"


class NativeForward:
    """A forward function of a module in which attention is the native function's.

    Args:
        forward: The function.
    """

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._forward(*args, **kwargs)


def natively(call: ModuleCall) -> ModuleCall:
    """The same call, by a twin of the module's processor that uses the native function, if any."""
    twin = None if isinstance(call.forward, NativeForward) else _native_twin(call.module)
    if twin is None:
        return call
    module, processor = call.module, twin

    def forward(*args: Any, **kwargs: Any) -> Any:
        return processor(module, *args, **_accepted(processor, kwargs))

    return call.with_forward(NativeForward(forward))


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


def seeing(see: Callable[[Attention], None]) -> TorchFunctionMode:
    """A block in which somebody sees every scaled dot-product attention, which stays as it is.

    Args:
        see: Called with what enters `scaled_dot_product_attention`.
    """

    def attend(attention: Attention) -> Tensor:
        see(attention)
        return attention()

    return _Interception(attend)


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
    if vars(module).get("_compiled_call_impl") is not None:
        # Nothing can be replaced inside of compiled code.
        call = call.with_forward(module.forward)
    call = natively(call)
    token = _INTERCEPTED.set(True)
    try:
        with _Interception(replacement) as interception:
            output = call.forward(*call.args, **call.kwargs)
    finally:
        _INTERCEPTED.reset(token)
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
        if _native_twin(call.module) is None:
            raise not_native(call.module, name, "looked at")
        attend_with(only_see, call, name)
    return output


def _accepted(processor: Callable[..., Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments `processor` takes, as `Attention.forward` filters them."""
    parameters = inspect.signature(processor).parameters
    return {name: value for name, value in kwargs.items() if name in parameters}


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


def _size(tokens: Any) -> tuple[int, int]:
    """Rows and number of tokens, `(B, T, C)` or `(B, C, H, W)`; 0 and 0 if it is neither."""
    if not isinstance(tokens, Tensor) or tokens.ndim not in (3, 4):
        return 0, 0
    if tokens.ndim == 3:
        return tokens.shape[0], tokens.shape[1]
    return tokens.shape[0], tokens.shape[2] * tokens.shape[3]
