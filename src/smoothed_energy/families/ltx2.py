"""The family of LTX-2, which draws a video and its sound together."""

from __future__ import annotations

__all__ = ["LTX2"]

from collections.abc import Mapping
from typing import ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import GridError
from .advice import Advice
from .base import Arguments, Setting, Step
from .beside_sound import BesideSound


class LTX2(BesideSound):
    """Self-attention of a video's tokens, beside that of the sound's; each attends to the other.

    The layers are the video's, and its prediction is corrected. The sound's prediction stays as it
    is: at the next step it hears of the video.
    """

    name: ClassVar[str] = "LTX-2"
    denoisers: ClassVar[tuple[str, ...]] = ("LTX2VideoTransformer3DModel",)
    advised: ClassVar[tuple[Advice, ...]] = (
        Advice(
            "pag",
            "b28",
            "Lightricks (STG), in diffusers' LTX2Pipeline",
            scale=1.0,
            model="2.3",
            fits=lambda config: config.num_layers == 48 and bool(config.perturbed_attn),
        ),
        Advice(
            "pag",
            "b29",
            "Lightricks (STG), in diffusers' LTX2Pipeline",
            scale=1.0,
            model="2.0",
            fits=lambda config: config.num_layers == 48 and not config.perturbed_attn,
        ),
    )
    packed: ClassVar[bool] = True
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    cross: ClassVar[str | None] = "attn2"
    text_arguments: ClassVar[tuple[str, ...]] = (
        "encoder_hidden_states",
        "audio_encoder_hidden_states",
        "encoder_attention_mask",
        "audio_encoder_attention_mask",
    )
    text_masks: ClassVar[Mapping[str, str]] = {
        "encoder_hidden_states": "encoder_attention_mask",
        "audio_encoder_hidden_states": "audio_encoder_attention_mask",
    }
    # In 2.3 what attention gets of it follows from the time.
    text_runs_along: ClassVar[bool] = True
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "b": ("hidden_states", "audio_hidden_states")
    }
    tied_to_size: ClassVar[tuple[str, ...]] = ("num_frames", "height", "width", "video_coords")

    @override
    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        """The grid of the first tokens; those of keyframes and references follow.

        Raises:
            GridError: If the call does not tell the sizes of the video.
        """
        sizes = [argument(name) for name in ("num_frames", "height", "width")]
        if None in sizes:
            raise GridError(
                "this call tells the coordinates of tokens alone; expected num_frames, height and "
                "width of the video, whose tokens come first"
            )
        return tuple(size // part for size, part in zip(sizes, self.patch(denoiser), strict=True))

    @override
    def is_of_own_guidance(self, argument: Arguments) -> bool:
        """Passes without self-attention in some blocks, and without what joins video and sound."""
        return bool(argument("spatio_temporal_guidance_blocks") or argument("isolate_modalities"))

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        r"""The pipelines add guidance of their own to $c$, and rescale by it: only $u$ may change.

        Raises:
            RuntimeError: If $u$ does not matter, but such guidance acts.
        """
        scale = float(setting("guidance_scale", 1.0))
        stg, joint = setting("stg_scale", 0.0), setting("modality_scale", 1.0)
        # Either kind acts on both, the video and the sound, if one of them asks for it.
        sounds = setting("audio_stg_scale", None), setting("audio_modality_scale", None)
        stg_acts = stg != 0 and max(stg, sounds[0] or 0.0) > 0
        joint_acts = joint != 1 and max(joint, sounds[1] or 1.0) > 1
        # The sound may have CFG where the video's scale is 1.
        if setting("do_classifier_free_guidance", scale > 1.0) and scale != 1.0:
            return BatchLayout(
                2, conditional=1, unconditional=0, rescale_scale=scale, cfg_scale=scale
            )
        if stg_acts or joint_acts:
            raise RuntimeError(
                f"without classifier-free guidance of the video, its own guidance (stg_scale={stg}"
                f", modality_scale={joint}) would multiply what this one adds; expected "
                "guidance_scale above 1, or stg_scale=0 and modality_scale=1 (stg_scale is "
                "PerturbedAttentionGuidance of its blocks)"
            )
        if setting("do_classifier_free_guidance", False):
            return BatchLayout(2, conditional=1, unconditional=0, cfg_scale=scale)
        return BatchLayout()
