"""What computes the attention of a module, and what to do where it is not the native function."""

from __future__ import annotations

__all__ = ["NATIVE", "AttentionBackendError", "not_native", "processor_name"]

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

#: `scaled_dot_product_attention` itself, whatever anybody puts in its place in `F`.
NATIVE: Callable[..., Any] = torch._C._nn.scaled_dot_product_attention


class AttentionBackendError(RuntimeError):
    """A chosen layer whose attention can't be perturbed, or looked at, and come out right."""


#: Processors that ask for flex_attention, whatever backend is set.
_FLEX = ("WanAnimate2AttnProcessor",)


def processor_name(module: nn.Module) -> str:
    """The name of what computes a module's attention: its processor, or itself."""
    return type(getattr(module, "processor", module)).__name__


def not_native(module: nn.Module, name: str, done: str) -> AttentionBackendError:
    """An error for a module that never called the native function.

    Args:
        module: The attention module.
        name: Its full name.
        done: What can't be done to its attention.
    """
    return AttentionBackendError(
        f"layer {name!r} computes attention with {processor_name(module)}, which never calls "
        f"torch.nn.functional.scaled_dot_product_attention, so it can't be {done}; "
        f"{_advice(module)}"
    )


def _advice(module: nn.Module) -> str:
    """What to do for a module to compute attention with the native function."""
    processor = getattr(module, "processor", None)
    name = processor_name(module)
    if "Linear" in name:
        return (
            "linear attention has no softmax(QK^T); choose other layers, or a method that changes "
            "no attention (tpg, slg)"
        )
    if name in _FLEX:
        return (
            "it attends through flex_attention, with a mask that no other function takes; choose a "
            "method that changes no attention (slg, tpg)"
        )
    backend = _backend(processor)
    if backend is not None and "native" not in backend:
        return (
            f'its attention backend is {backend!r}; call set_attention_backend("native") of the '
            "denoiser, or choose other layers"
        )
    present: Any = F.scaled_dot_product_attention
    if present is not NATIVE:
        origin = getattr(present, "__module__", None)
        shown = getattr(present, "__qualname__", None) or repr(present)
        return (
            f"that function was replaced by {f'{origin}.' if origin else ''}{shown}, which does "
            "not end in the native one; put it back "
            "(torch.nn.functional.scaled_dot_product_attention = "
            "torch._C._nn.scaled_dot_product_attention), or choose other layers"
        )
    # Modules of newer models name the processors that fit them.
    default = getattr(module, "_default_processor_cls", None)
    if default is not None:
        fitting = f"the module's set_processor({default.__name__}())"
    elif getattr(module, "added_kv_proj_dim", None) is None and name != "AttnProcessor2_0":
        fitting = "set_attn_processor(diffusers.models.attention_processor.AttnProcessor2_0())"
    else:
        fitting = "the processors that the denoiser was loaded with"
    return f"use a native processor, for example {fitting}, or choose other layers"


def _backend(processor: Any) -> str | None:
    """The attention backend of `diffusers` that a processor asks for; None if it asks for none."""
    if not hasattr(type(processor), "_attention_backend"):
        return None
    backend = processor._attention_backend
    if backend is None:
        dispatch = sys.modules.get("diffusers.models.attention_dispatch")
        registry = getattr(dispatch, "_AttentionBackendRegistry", None)
        if registry is None:
            return None
        backend = registry.get_active_backend()[0]
    return str(getattr(backend, "value", backend))
