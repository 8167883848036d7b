r"""Normalized attention guidance (NAG): a negative prompt inside of attention, in the same pass.

References:
    | Normalized Attention Guidance: Universal Negative Guidance for Diffusion Models
    | (Chen et al., NeurIPS 2025), https://arxiv.org/abs/2505.21179
"""

from __future__ import annotations

__all__ = ["NormalizedAttentionGuidance", "normalized"]

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.attention_layer import LayerError, SelfAttentionLayer
from ..families import family_of
from ..guidance.alteration import Alteration
from ..guidance.away_from_text import (
    BesideText,
    InCrossAttention,
    InRows,
    Strength,
    normalized,
)
from ..guidance.guidance import About
from ..guidance.pass_guidance import PassGuidance
from ..guidance.plan import Plan
from ..intercept.module_call import unwrap
from ..settings.checks import (
    SettingTypeError,
    check_number,
    check_positive,
    check_text,
    check_unit,
    refusal,
)
from ..settings.conversion import set_field


@dataclass(frozen=True)
class NormalizedAttentionGuidance(PassGuidance):
    r"""A negative prompt inside of attention, for models without CFG, and beside it (NAG).

    In the chosen layers attention to the text is $Z^+$ with the prompt and $Z^-$ with the negative
    one, and what the layer goes on with is

    $$\alpha \hat Z + (1 - \alpha)\,Z^+, \qquad
    \hat Z = \tilde Z \min\!\left(1, \tau\,\frac{|Z^+|_1}{|\tilde Z|_1}\right), \qquad
    \tilde Z = Z^+ + s\,(Z^+ - Z^-)$$

    There is no second pass and no correction. Where the text has attention of its own (SD 1.5,
    SDXL, PixArt, Wan), the same queries attend once more. Where text and image attend together
    (Flux, SD 3, Qwen-Image), the negative text runs along in a row of its own, which sees the
    image of the first: a step then costs what CFG does. Under CFG only the rows with the prompt
    are changed.

    Args:
        scale: $s \ge 0$ as in the paper; 0 is no guidance. Released code and ComfyUI call $s + 1$
            the scale, so that theirs is off at 1.
        tau: $\tau > 0$, the most that attention may grow.
        alpha: $\alpha$, in $[0, 1]$: how much of it is taken. The authors take 0.25 for Flux and
            Wan, 0.125 for SD 3.5 and 0.5 for SDXL.
        layers: The layers in whose blocks it acts, named by their self-attention.
        steps: The steps at which it acts.
        negative_prompt: What is not to be drawn; the pipeline encodes it as it does the prompt.
        negative_embeds: In place of that what the denoiser is given for a negative prompt, by the
            names of its arguments: one row, or as many as there are prompts. It has no text.

    Raises:
        TypeError: If the embeddings are no mapping.
        ValueError: If a value is outside its set, or there are a prompt and embeddings.

    Example:
        >>> guidance = NormalizedAttentionGuidance(negative_prompt="blurry, glasses")
        >>> with guidance.attach(pipe):
        ...     image = pipe("a portrait", num_inference_steps=4, guidance_scale=0.0).images[0]
    """

    method: ClassVar[str] = "nag"
    about: ClassVar[About] = About(
        "Normalized attention guidance",
        "nothing; attention turns away from a negative prompt",
        "no pass; one more row in joint attention",
        "Chen et al. 2025, arXiv 2505.21179",
        "needs a negative prompt; made for models without CFG",
    )

    has_prompt: ClassVar[bool] = True

    _: KW_ONLY
    scale: float = 4.0
    tau: float = 2.5
    alpha: float = 0.25
    negative_prompt: str = ""
    negative_embeds: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        scale = check_number("scale", self.scale)
        if not 0 <= scale < float("inf"):
            raise refusal(self.scale, f"scale={self.scale!r}: expected a finite number >= 0")
        set_field(self, "scale", scale)
        set_field(self, "tau", check_positive("tau", self.tau))
        set_field(self, "alpha", check_unit("alpha", self.alpha))
        if not isinstance(self.negative_prompt, str):
            raise SettingTypeError(
                f"negative_prompt={self.negative_prompt!r}: expected text, in a guidance's text "
                "within double quotes"
            )
        check_text("negative_prompt", self.negative_prompt)
        if self.negative_embeds is None:
            return
        if not isinstance(self.negative_embeds, Mapping):
            raise TypeError(
                f"negative_embeds is a {type(self.negative_embeds).__name__}; expected a mapping "
                "of the names of the denoiser's arguments, such as encoder_hidden_states, to "
                "what it is given"
            )
        if self.negative_prompt:
            raise ValueError(
                f"negative_prompt={self.negative_prompt!r} and negative_embeds both say what is "
                "not to be drawn; expected one of them"
            )

    @override
    def __eq__(self, other: object) -> bool:
        """As of other guidances; embeddings are equal if they are the same."""
        if not isinstance(other, NormalizedAttentionGuidance):
            return NotImplemented
        return self._settings() == other._settings()

    @override
    def __hash__(self) -> int:
        return hash(self._settings())

    def _settings(self) -> tuple[Any, ...]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.negative_embeds is not None:
            values["negative_embeds"] = id(self.negative_embeds)
        return tuple(values.values())

    @override
    def __repr__(self) -> str:
        values = {field.name: repr(getattr(self, field.name)) for field in fields(self)}
        if self.negative_embeds is not None:
            values["negative_embeds"] = f"<{', '.join(self.negative_embeds)}>"
        settings = ", ".join([f"{name}={value}" for name, value in values.items()])
        return f"{type(self).__name__}({settings})"

    @override
    def to_dict(self) -> dict[str, Any]:
        """The settings.

        Raises:
            ValueError: If embeddings are given, which have no text.
        """
        if self.negative_embeds is not None:
            raise ValueError("negative_embeds has no text; to save this guidance, give a prompt")
        return super().to_dict()

    @property
    @override
    def is_off(self) -> bool:
        return self.scale == 0 or self.alpha == 0

    @property
    @override
    def prompt_to_encode(self) -> str | None:
        return None if self.negative_embeds is not None or self.is_off else self.negative_prompt

    @override
    def select(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        layers = super().select(denoiser)
        self._edits(denoiser, layers)
        return layers

    @override
    def plan(self, denoiser: nn.Module, *, replay: bool = True) -> Plan:
        layers = super().select(denoiser)
        strength = Strength(self.scale, self.tau, self.alpha)
        edits, beside = self._edits(denoiser, layers)
        family, text = family_of(denoiser), self.negative_embeds
        alteration: Alteration = InCrossAttention(strength, text, family.cross_inputs)
        if beside:
            alteration = BesideText(strength, text, frozenset([layer.name for layer in layers]))
        elif family.text_runs_along:
            alteration = InRows(strength, text)
        return Plan(alteration=alteration, edits=edits)

    def _edits(
        self, denoiser: nn.Module, layers: tuple[SelfAttentionLayer, ...]
    ) -> tuple[dict[nn.Module, str], bool]:
        """The modules that attend to the text, and whether the image's tokens are beside it there.

        Raises:
            LayerError: If none does, or nothing is known of it.
        """
        family, model = family_of(denoiser), unwrap(denoiser)
        edits = family.cross_attentions(model, layers)
        beside = not edits and family.attends_beside_text(model)
        if beside:
            edits = {layer.module: layer.name for layer in family.layers(model)}
        reason = family.no_text(model)
        if not reason and not (edits and family.text_arguments):
            reason = f"how it attends to its text is not known in layers={self.layers!r}"
        if reason:
            raise LayerError(
                f"layers: no negative text can be given to a {type(model).__name__}: {reason}; "
                "expected other layers or another model (docs/methods.md), or a negative prompt "
                "under classifier-free guidance"
            )
        return edits, beside
