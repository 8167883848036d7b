"""Guidance of a MODEL of ComfyUI: a copy of it that guides whatever is sampled with it.

What a model's copy carries are settings alone. What a run remembers is made when it begins, and
travels in the options of that run, so copies and runs share nothing.
"""

from __future__ import annotations

__all__ = ["guidances_of", "guide"]

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...denoisers.attention_layer import LayerError, SelfAttentionLayer
from ...engine.participant import Participant
from ...families.layer_selection import self_attention_layers
from ...guidance import Guidance
from ...guidance.beside import check_beside
from ...guidance.result_guidance import ResultGuidance
from ...methods import as_guidances
from .conflicts import check_sum, why_not_beside
from .known import denoiser_of
from .negative import check_text
from .run import ComfyRun
from .step import Schedule

_GUIDANCES = "smoothed_energy_guidances"
_RUN = "smoothed_energy_run"
_KEY = "smoothed_energy"


#: What is not known in ComfyUI yet, by the methods that need it.
_UNKNOWN = {
    "autoguidance": "a second model, which is not known in ComfyUI yet",
    "sg": "the timestep that the network is told, which ComfyUI makes of the noise level",
    "tsg": "the embedding of the timestep, which is not known in ComfyUI yet",
}


def guide(patcher: Any, guidance: str | Mapping[str, Any] | Guidance | Sequence[Any]) -> Any:
    """A copy of a model with guidance, beside what it has already.

    Args:
        patcher: ComfyUI's MODEL, a `ModelPatcher`.
        guidance: A text such as `"seg; scale=3; layers=mid"`, a dict, a guidance, or several.

    Returns:
        The copy.

    Raises:
        LayerError: If the model has no such layers.
        RuntimeError: If guidance can't be right in this model, or beside what acts on it.
        ValueError: If a text is not understood, or two guidances can't stand together.

    Example:
        >>> model = guide(model, "seg; scale=3; layers=mid")
    """
    added = as_guidances(guidance)
    before = guidances_of(patcher)
    denoiser = denoiser_of(_Model(patcher))
    for item in added:
        if reason := _UNKNOWN.get(item.method):
            raise RuntimeError(f"{item.method} needs {reason}; expected another method")
        if item in before:
            raise RuntimeError(
                f"{item!r} acts on this model already; expected other settings, or a higher scale"
            )
        if item.method == "nag" and not item.is_off:
            check_text(getattr(item, "negative_embeds", None))
        Participant(item).check(denoiser)
        _check_parts(item, denoiser)
    check_beside([*before, *added])
    _check(patcher.model_options)
    copy = patcher.clone()
    options = copy.model_options
    options[_GUIDANCES] = (*before, *added)
    if not before:
        copy.set_model_sampler_calc_cond_batch_function(_predict)
        copy.set_model_sampler_post_cfg_function(_combine)
        copy.add_wrapper_with_key("outer_sample", _KEY, _sample)
    return copy


def guidances_of(patcher: Any) -> tuple[Guidance, ...]:
    """The guidances that act on a MODEL, in the order in which they were added."""
    found: tuple[Guidance, ...] = patcher.model_options.get(_GUIDANCES, ())
    return found


def layers_of(patcher: Any) -> tuple[SelfAttentionLayer, ...]:
    """The self-attention layers of a MODEL, in the order in which they run.

    Raises:
        RuntimeError: If guidance can't be right in this model.
    """
    return self_attention_layers(denoiser_of(_Model(patcher)))


def _check_parts(guidance: Guidance, denoiser: nn.Module) -> None:
    """Check that attention is a part by itself where it is to be skipped alone.

    Raises:
        LayerError: If a block computes it together with the rest.
    """
    if getattr(guidance, "skip", None) != "attention":
        return
    for layer in guidance.select(denoiser):
        if denoiser.get_submodule(layer.name.rpartition(".")[0]) is layer.module:
            raise LayerError(
                f"layers: the block of {layer.name} computes attention and the rest in one, so "
                'attention alone can\'t be skipped; expected skip="block"'
            )


class _Model:
    """What is asked of a model before it is loaded, with the objects that its patcher exchanges."""

    def __init__(self, patcher: Any) -> None:
        self.diffusion_model = patcher.get_model_object("diffusion_model")
        self.model_sampling = patcher.get_model_object("model_sampling")


def _check(options: Mapping[str, Any]) -> None:
    reason = why_not_beside(options, _predict)
    if reason:
        raise RuntimeError(f"this model can't be guided: {reason}")


def _sample(executor: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """A whole run of a sampler, as ComfyUI wraps it (`outer_sample`)."""
    guider: Any = executor.class_obj  # type: ignore[attr-defined]  # ComfyUI's WrapperExecutor
    options = guider.model_options
    guidances: tuple[Guidance, ...] = options.get(_GUIDANCES, ())
    _check(options)
    if options.get("sampler_calc_cond_batch_function") is not _predict:
        raise RuntimeError(
            "this model can't be guided: another node took the place where predictions are made "
            "(sampler_calc_cond_batch_function) after it was guided; expected a model without it"
        )
    names = ", ".join(
        one.method for one in guidances if isinstance(one, ResultGuidance) and one.replaces_sum
    )
    if names:
        check_sum(options, _combine, names)
    sampler, sigmas = (
        kwargs[name] if name in kwargs else args[place]
        for name, place in (("sampler", 2), ("sigmas", 3))
    )
    run = ComfyRun(guidances, Schedule.of(sampler, sigmas))
    # These options are the run's own: ComfyUI copies them for it.
    options[_RUN] = run
    try:
        latents = executor(*args, **kwargs)
    finally:
        del options[_RUN]
    run.finish(latents)
    return latents


def _predict(asked: Mapping[str, Any]) -> Sequence[Tensor]:
    """The predictions of a step (`sampler_calc_cond_batch_function`)."""
    return _run_of(asked).predict(asked)


def _combine(asked: Mapping[str, Any]) -> Tensor:
    """What a step comes to (`sampler_post_cfg_function`)."""
    return _run_of(asked).combine(asked)


def _run_of(asked: Mapping[str, Any]) -> ComfyRun:
    run: ComfyRun | None = asked["model_options"].get(_RUN)
    if run is None:
        raise RuntimeError(
            "a guided model was asked for predictions outside of a run of ComfyUI's samplers; "
            "expected KSampler, SamplerCustom, or SamplerCustomAdvanced"
        )
    return run
