"""What guidance must know of the pipeline it is attached to."""

from __future__ import annotations

__all__ = [
    "batch_layout",
    "has_learned_variance",
    "picture_size",
    "prediction_type",
    "refuse_own_guidance",
    "scheduler_of",
    "step_position",
    "unconditional_denoisers",
]

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.prediction import Preconditioned, PredictionKind
from ..engine.run import DenoiserState
from ..families import Family, UnknownDenoiser, family_or_unknown
from ..schedule import StepPosition, schedule_position
from .refused import has_other_batches


def batch_layout(
    pipeline: Any,
    denoiser: nn.Module,
    arguments: Mapping[str, Any],
    position: Callable[[], StepPosition],
    family: Family | None = None,
) -> BatchLayout:
    """The rows of the denoiser's batch, as the pipeline uses them at this moment.

    It is asked anew at every step, since callbacks may change the guidance scale in mid-run.

    Args:
        pipeline: The running pipeline.
        denoiser: The denoiser that it calls.
        arguments: The arguments of its `__call__`, for pipelines that don't keep them. A family
            that needs them as they were given asks for the setting `"arguments"`.
        position: Where in its schedule it is.
        family: The family of the denoiser, if it is known.
    """
    if getattr(pipeline, "_component_specs", None) is not None:  # of Modular Diffusers
        return BatchLayout()  # Those with CFG were refused.

    def setting(name: str, default: Any) -> Any:
        if name == "arguments":
            return arguments
        value = getattr(pipeline, name, None)
        if value is None:
            # Pipelines of two stages have a scale for each, of which this is the decoder's.
            value = arguments.get(f"decoder_{name}")
        return arguments.get(name, default) if value is None else value

    return (family or family_or_unknown(denoiser)).layout(denoiser, setting, position)


def step_position(
    pipeline: Any, denoiser: nn.Module, timestep: Any, family: Family | None = None
) -> StepPosition:
    """Where in its schedule a pipeline is.

    Args:
        pipeline: The running pipeline.
        denoiser: The denoiser that it calls.
        timestep: What the denoiser is told.
        family: The family of the denoiser, if it is known.

    Raises:
        ValueError: If that is not in the schedule.
    """
    # Some pipelines keep it as it is in the schedule, and round what they give to the denoiser.
    family = family or family_or_unknown(denoiser)
    current = getattr(pipeline, "_current_timestep", None) if family.keeps_time else None
    if current is None or (isinstance(current, Tensor) and current.ndim):  # one for each frame
        current = family.timestep(denoiser, timestep, scheduler_of(pipeline))
    return schedule_position(scheduler_of(pipeline), current)


def scheduler_of(pipeline: Any) -> Any:
    """The scheduler of a pipeline, for the denoiser that is guided."""
    found = getattr(pipeline, "scheduler", None)
    return pipeline.decoder_scheduler if found is None else found


def _is_kind_of(pipeline: Any, part: str) -> bool:
    """Whether its class, or one that it is derived from, has a name with `part` in it."""
    return part in " ".join([cls.__name__ for cls in type(pipeline).__mro__])


def prediction_type(pipeline: Any, denoiser: nn.Module) -> PredictionKind:
    """What the denoiser predicts of the noisy latents that come first in its input.

    None if the scheduler does not tell, or this is not what it predicts.
    """
    family = family_or_unknown(denoiser)
    if isinstance(family, UnknownDenoiser):
        return None  # Pipelines may turn its sign, and scale what it is given.
    scheduler = scheduler_of(pipeline)
    config = scheduler.config
    found = getattr(config, "prediction_type", None)
    # In Marigold's input the latents follow those of the source picture; the latent upscaler makes
    # a prediction of its own of the output, which has another channel. PRX in pixels predicts the
    # picture, and makes a flow of it.
    if any(_is_kind_of(pipeline, part) for part in ("Marigold", "LatentUpscale", "PRXPixel")):
        return None
    if "DDPMWuerstchen" in type(scheduler).__name__:
        return "epsilon"
    if hasattr(scheduler, "precondition_outputs"):
        if found not in ("epsilon", "v_prediction"):
            return None
        return Preconditioned(float(config.sigma_data), negative=found == "v_prediction")
    flow_sigmas = getattr(config, "use_flow_sigmas", False)
    if "FlowMatch" in type(scheduler).__name__ or flow_sigmas:
        # Other predictions on the noise levels of a flow are not known, and where levels rise,
        # only those of a flow that is known to do so.
        rising = getattr(config, "invert_sigmas", False)
        if (flow_sigmas and found != "flow_prediction") or (rising and not family.reversed_flow):
            return None
        return "reversed_flow" if family.reversed_flow else "flow"
    for known in ("epsilon", "v_prediction", "sample"):
        if found == known:
            return known
    return None


def has_learned_variance(pipeline: Any) -> bool:
    """Whether the scheduler reads a variance from the second half of a prediction's channels."""
    variance = getattr(scheduler_of(pipeline).config, "variance_type", None)
    return variance in ("learned", "learned_range")


def refuse_own_guidance(pipeline: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse pipelines whose own guidance takes another kind of batch.

    It is asked before the pipeline runs: PAG and SAG put processors of their own into the denoiser
    at the start, and leave them there if they are stopped.

    Args:
        pipeline: The pipeline that is about to run.
        arguments: The arguments of its `__call__`, defaults included.

    Raises:
        RuntimeError: If the pipeline runs PAG, SAG or skip-layer guidance by itself, or has batches
            that are not known.
    """
    name = type(pipeline).__name__
    if (arguments.get("pag_scale") or 0) > 0 and getattr(pipeline, "pag_applied_layers", ()):
        raise RuntimeError(
            f"{name} runs perturbed-attention guidance in the same batch; attach to the pipeline "
            "without PAG, or pass pag_scale=0"
        )
    if _is_kind_of(pipeline, "SAG"):
        raise RuntimeError(
            f"{name} runs self-attention guidance by itself; attach to the pipeline without SAG"
        )
    skipped = arguments.get("skip_guidance_layers")
    if skipped is not None:
        layers = ",".join(f"b{number}.*" for number in skipped)
        raise RuntimeError(
            f"{name} runs skip-layer guidance by itself with skip_guidance_layers={skipped!r}; "
            f"leave it out, and attach SkipLayerGuidance(layers={layers!r}) as well, at the scale "
            "and the steps that it would have had"
        )
    if _is_kind_of(pipeline, "AceStep"):
        if (arguments.get("guidance_scale") or 0) > 1 and not pipeline.is_turbo:
            raise RuntimeError(
                f"{name} runs adaptive projected guidance by itself, which makes another thing of "
                "a corrected prediction; pass guidance_scale=1, or use a turbo checkpoint"
            )
        if arguments.get("audio_cover_strength", 1.0) < 1:
            raise RuntimeError(
                f"{name} mixes predictions for two prompts with an audio_cover_strength below 1; "
                "pass audio_cover_strength=1"
            )
    if has_other_batches(type(pipeline)):
        raise RuntimeError(
            f"{name} arranges its batches in a way of its own, so guidance would come out wrong; "
            "docs/pipelines.md lists the pipelines that work"
        )


def picture_size(pipeline: Any) -> tuple[int, int]:
    """Height and width in pixels of what a pipeline with a U-Net draws if it is told none."""
    # Not every pipeline tells it: those with a ControlNet ask the denoiser.
    size = getattr(pipeline, "default_sample_size", None)
    size = pipeline.unet.config.sample_size if size is None else size
    height, width = (size, size) if isinstance(size, int) else size
    return height * pipeline.vae_scale_factor, width * pipeline.vae_scale_factor


def unconditional_denoisers(
    pipeline: Any, states: Mapping[nn.Module, DenoiserState]
) -> dict[nn.Module, DenoiserState]:
    """The denoisers that make the calls without the prompt of others, and what those know."""
    found: dict[nn.Module, DenoiserState] = {}
    for denoiser, state in states.items():
        name = state.runner.family.unconditional
        other = getattr(pipeline, name, None) if name else None
        if isinstance(other, nn.Module) and other is not denoiser:
            found[other] = state
    return found
