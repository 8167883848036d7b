"""What else acts on a model of ComfyUI, as far as guidance beside it would come out wrong."""

from __future__ import annotations

__all__ = ["check_sum", "why_not_beside"]

from collections.abc import Callable, Mapping
from typing import Any

# Caches and compilers by the names under which they wrap calls of a model, or of their functions.
_CACHES = (
    "easycache",
    "teacache",
    "deepcache",
    "firstblock",
    "first_block",
    "wavespeed",
    "magcache",
)
_COMPILED = "torch.compile"


def why_not_beside(options: Mapping[str, Any], calc: Callable[..., Any]) -> str:
    """Why guidance can't be right beside what acts on a model; empty if it can.

    Args:
        options: The model's `model_options`.
        calc: The function of this package that predicts.
    """
    own = options.get("sampler_calc_cond_batch_function")
    if own is not None and own is not calc:
        return (
            f"{_name(own)} of another node predicts in place of ComfyUI, and only one can "
            "(sampler_calc_cond_batch_function); expected a model without it"
        )
    if options.get("multigpu_clones"):
        return "it runs on several GPUs, and layers are found on one only; expected one GPU"
    wrapped = _wrappers(options)
    wrapper = options.get("model_function_wrapper")
    if wrapper is not None:
        wrapped.append(_name(wrapper))
    for name in wrapped:
        plain = name.lower()
        if _COMPILED in plain:
            return (
                "it is compiled, and what layers compute can't be changed inside of compiled code; "
                "expected a model without torch.compile"
            )
        cache = next((one for one in _CACHES if one in plain), None)
        if cache is not None:
            return (
                f"a cache ({name}) gives the results of one pass to another, so a perturbed pass "
                "would be taken for the clean one; expected a model without it"
            )
    return ""


def check_sum(options: Mapping[str, Any], combine: Callable[..., Any], names: str) -> None:
    """Check that nobody else says what the sum of classifier-free guidance is.

    Args:
        options: The model's `model_options`.
        combine: The function of this package that says what a step comes to.
        names: Who takes the place of the sum.

    Raises:
        RuntimeError: If somebody does.
    """
    others = [options.get("sampler_cfg_function"), *options.get("sampler_pre_cfg_function", ())]
    after = options.get("sampler_post_cfg_function", [])
    others += after[: after.index(combine)] if combine in after else after
    found = [_name(other) for other in others if other is not None]
    if found:
        raise RuntimeError(
            f"{names} takes the place of classifier-free guidance, and so does {', '.join(found)} "
            "of another node; expected one of them, and nodes that only add to it after this one"
        )


def _wrappers(options: Mapping[str, Any]) -> list[str]:
    """The keys of all wrappers of calls of a model."""
    kinds = options.get("transformer_options", {}).get("wrappers", {}).values()
    return [str(key) for keys in kinds for key, found in keys.items() if found]


def _name(function: Any) -> str:
    found = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{getattr(function, '__module__', '')}.{found}"
