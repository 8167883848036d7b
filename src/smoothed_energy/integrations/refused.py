"""Pipelines that are refused, whatever their arguments, and why."""

from __future__ import annotations

__all__ = [
    "NEVER",
    "guider_slots",
    "has_other_batches",
    "is_modular",
    "refuse_modular",
    "why_no_guider",
    "why_refused",
]

from typing import Any

#: Why guidance of pipelines can't come out right, by parts of the names of their classes. What
#: stands here is refused when guidance is attached.
NEVER = {
    "DreamLite": "draws the left half of a picture of twice the width, whose right half is its "
    "source, so the image's tokens are no grid of their own in the sequence",
    "AnyFlowFAR": "attends through flex_attention alone, with a cache of the chunks before, into "
    "which nothing can be put (AnyFlowPipeline draws all frames at once, and can be guided)",
    "VisualCloze": "draws into a grid of pictures of several sizes, in one sequence whose tokens "
    "make no grid (what its upsampling_pipe draws can be guided: attach to that)",
    "VersatileDiffusionDualGuided": "mixes what two transformers make of every map, one of them "
    "for a picture and one for a prompt",
    "VersatileDiffusionPipeline": "draws by other pipelines, which it makes anew for every picture "
    "(VersatileDiffusionTextToImagePipeline and the like: attach to one of them)",
    "LTX2DFR": "draws keyframes beside a video of fewer frames, in tiles, so its tokens make no "
    "one grid",
    "LTXI2VLongMultiPrompt": "draws window by window, each with a schedule of its own, and tells "
    "its denoiser no size of the video",
}

# Their batches hold more than predictions with and without the prompt (edits, safety, a source
# picture), hold them in another order (Paradigms), take them from two calls (GLIGEN with pictures),
# or have attention between their rows (Text2Video-Zero). Refused when the pipeline runs.
_OTHER_BATCHES = (
    "AttendAndExcite",
    "CycleDiffusion",
    "GLIGENTextImage",
    "LEditsPP",
    "Panorama",
    "Paradigms",
    "SemanticStableDiffusion",
    "StableDiffusionPipelineSafe",
    "TextToVideoZero",
)

# Blocks of Modular Diffusers that call the denoiser once a step, with the prompt alone.
_WITHOUT_CFG = (
    "FluxLoopDenoiser",
    "FluxKontextLoopDenoiser",
    "Flux2LoopDenoiser",
    "Flux2KleinLoopDenoiser",
    "Flux3DistilledLoopDenoiser",
    "Krea2TurboLoopDenoiser",
    "QwenImage21TurboLoopDenoiser",
)

# Blocks of Modular Diffusers that call no guider, and why guidance can't be attached to them.
_OWN_WAY = {
    "Ideogram4LoopDenoiser": "combine two transformers by a weight for each step that nobody "
    "outside is told (Ideogram4Pipeline can be guided)",
    "Cosmos3LoopDenoiser": "have classifier-free guidance of their own, and no guider",
    "Cosmos3TransferLoopDenoiser": "have classifier-free guidance of their own, and no guider",
    "EchoLoopDenoiser": "put tokens of a memory before those of the video, so its grid begins "
    "where its denoiser does not tell",
    "MiniMaxH3LoopDenoiser": "draw text, sound and video in one sequence, whose order no family "
    "knows",
    "MiniMaxH3Ref2VALoopDenoiser": "draw text, sound and video in one sequence, whose order no "
    "family knows",
}


def why_no_guider(blocks: Any) -> str:
    """Why blocks without a guider can't be guided; empty if guidance can be attached to them."""
    called = [name for name in _blocks_of(blocks) if name.endswith("LoopDenoiser")]
    for name in called:
        if name in _OWN_WAY:
            return _OWN_WAY[name]
    unknown = [name for name in called if name not in _WITHOUT_CFG]
    if unknown or not called:
        what = " and ".join(unknown) or "what they call"
        return (
            f"call no guider, and what {what} makes of predictions can't be seen from outside "
            f"(known are {', '.join(_WITHOUT_CFG)})"
        )
    return ""


def is_modular(pipeline: type) -> bool:
    """Whether pipelines of a class are of Modular Diffusers."""
    return "ModularPipeline" in [cls.__name__ for cls in pipeline.__mro__]


def guider_slots(pipeline: Any) -> list[str]:
    """The components of a pipeline of Modular Diffusers that are guiders.

    Raises:
        TypeError: If it is no such pipeline.
        RuntimeError: If its blocks call no guider, or only parts of one.
    """
    name = type(pipeline).__name__
    if not is_modular(type(pipeline)):
        raise TypeError(
            f"a {name} has no guider of Modular Diffusers; expected one of its pipelines, or "
            "guidance.attach(pipe) for an ordinary one"
        )
    slots = [slot for slot in pipeline._component_specs if slot.startswith("guider")]
    if not slots:
        refuse_modular(pipeline)
        raise RuntimeError(
            f"the blocks of this {name} call no guider, since they have no classifier-free "
            "guidance; expected guidance.attach(pipe)"
        )
    return slots


def refuse_modular(pipeline: Any) -> None:
    """Refuse pipelines of Modular Diffusers, but those whose blocks have no CFG.

    Raises:
        RuntimeError: If it is one whose CFG is a guider's, or is not known.
    """
    cls = type(pipeline)
    if not is_modular(cls):
        return
    if any("guider" in name for name in pipeline._component_specs):
        raise RuntimeError(
            f"a guider combines what the blocks of this {cls.__name__} predict; expected "
            "SmoothedEnergyGuider(guidance).put_into(pipe), see docs/modular.md"
        )
    reason = why_no_guider(pipeline._blocks)
    if reason:
        raise RuntimeError(
            f"guidance of a {cls.__name__} would come out wrong, since its blocks {reason}"
        )


def _blocks_of(block: Any) -> list[str]:
    """The names of the classes of the blocks in a block, of those that have no others in them."""
    inside = getattr(block, "sub_blocks", None)
    if not inside:
        return [type(block).__name__]
    return [name for one in inside.values() for name in _blocks_of(one)]


def why_refused(pipeline: type) -> str:
    """Why pipelines of a class can't be guided, whatever their arguments; empty if they can."""
    names = [cls.__name__ for cls in pipeline.__mro__]
    for part, reason in NEVER.items():
        if any(part in name for name in names):
            return reason
    if has_other_batches(pipeline):
        return "arranges its batches in a way of its own"
    if any("SAG" in name for name in names):
        return "runs self-attention guidance by itself"
    return ""


def has_other_batches(pipeline: type) -> bool:
    """Whether batches of a pipeline of a class hold other predictions than `[u, c]`."""
    names = " ".join([cls.__name__ for cls in pipeline.__mro__])
    return any(part in names for part in _OTHER_BATCHES)
