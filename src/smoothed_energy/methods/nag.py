r"""Normalized attention guidance (NAG): a negative prompt inside of attention, in the same pass.

References:
    | Normalized Attention Guidance: Universal Negative Guidance for Diffusion Models
    | (Chen et al., NeurIPS 2025), https://arxiv.org/abs/2505.21179
"""

from __future__ import annotations

__all__ = ["NormalizedAttentionGuidance", "normalized"]

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import LayerError, SelfAttentionLayer
from ..denoisers.cfg_batch import Formulation
from ..families import family_of
from ..guidance.alteration import Alteration, AlteredRows
from ..guidance.guidance import About
from ..guidance.pass_guidance import PassGuidance
from ..guidance.perturbation import LayerCall
from ..guidance.plan import Plan
from ..intercept.attention import Attention, AttentionBackendError, attend_with
from ..intercept.module_call import Rows, unwrap
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
class _Strength:
    """What is made of attention with the prompt and with the negative one."""

    scale: float
    tau: float
    alpha: float

    def __call__(self, positive: Tensor, negative: Tensor) -> Tensor:
        return normalized(positive, negative, self.scale, self.tau, self.alpha)


def normalized(
    positive: Tensor, negative: Tensor, scale: float, tau: float, alpha: float
) -> Tensor:
    r"""What NAG makes of attention, `(B, heads, T, d)`, with the prompt and with the negative one.

    $\tilde Z = Z^+ + s\,(Z^+ - Z^-)$, scaled down where its L1 norm over heads and channels is more
    than $\tau$ times that of $Z^+$, and $\alpha$ of it is taken: $\alpha \hat Z + (1-\alpha) Z^+$.

    Args:
        positive: $Z^+$.
        negative: $Z^-$.
        scale: $s$.
        tau: $\tau$.
        alpha: $\alpha$.
    """
    # Sums of thousands of channels may be too large for half precision.
    found = torch.promote_types(positive.dtype, torch.float32)
    plus, minus = positive.to(found), negative.to(found)
    guided = plus + scale * (plus - minus)
    size = guided.abs().sum(dim=(1, 3), keepdim=True)
    most = tau * plus.abs().sum(dim=(1, 3), keepdim=True)
    guided = guided * torch.where(size > most, most / size, 1.0)
    return (alpha * guided + (1 - alpha) * plus).to(positive.dtype)


class _InCrossAttention(Alteration):
    """NAG where attention has the text alone for its keys: the same queries ask the negative one.

    Keys and values of the negative text are the same at all steps, so they are made once.
    """

    branch: Formulation | None = "conditional"
    reads_text = True

    def __init__(self, strength: _Strength, text: Mapping[str, Any] | None) -> None:
        self.strength, self.text = strength, text

    @override
    def run(self, call: LayerCall, part: AlteredRows) -> Any:
        negative = self._keys(call, part)
        number = 0

        def attend(attention: Attention) -> Tensor:
            nonlocal number
            output = attention()
            other = negative[number]
            number += 1
            _check_heads(output, call.name)
            query = part.rows.of(attention.query)
            minus = other.native(query, other.key, other.value, **other.options)
            return part.rows.put(output, self.strength(part.rows.of(output), minus))

        return attend_with(attend, call.call, call.name)

    def _keys(self, call: LayerCall, part: AlteredRows) -> list[Attention]:
        """What the module attends to if it is called with the negative text, call by call."""
        rows = part.rows.stop - part.rows.start
        name = call.module, rows
        if name not in part.memory:
            assert part.told is not None
            given: list[Attention] = []

            def attend(attention: Attention) -> Tensor:
                given.append(attention)
                shape = (*attention.query.shape[:-1], attention.value.shape[-1])
                return attention.value.new_zeros(shape)

            made = call.with_input(part.rows.of(call.input()))
            inputs = call.call.named()
            text = call.site.cross_inputs
            if inputs.get(text[0]) is None:
                raise AttentionBackendError(
                    f"the attention to the text of layer {call.name!r} is given "
                    f"{', '.join(inputs)}; expected {text[0]} among them"
                )
            for argument in text:
                if argument in {*inputs, *call.call.parameters}:
                    made = made.with_input(part.told.argument(argument), argument)
            attend_with(attend, made.call, call.name)
            part.memory[name] = given
        found: list[Attention] = part.memory[name]
        return found


class _BesideText(Alteration):
    """NAG where the tokens of image and text attend together.

    The rows of the prompt run once more with the negative text. What is not of the text is the same
    in both, so only the streams of the text differ, and attention is asked by the same queries.
    """

    branch: Formulation | None = "conditional"
    adds_rows = True

    def __init__(
        self, strength: _Strength, text: Mapping[str, Any] | None, layers: frozenset[str]
    ) -> None:
        self.strength, self.text, self._layers = strength, text, layers

    @override
    def run(self, call: LayerCall, part: AlteredRows) -> Any:
        assert part.added is not None
        pairs = list(zip(_numbers(part.rows), _numbers(part.added), strict=True))
        tokens: Tensor = call.input()
        starts, length = call.site.beside_text(call.name, max(tokens.shape[1], 0))
        modulates = call.site.modulates(call.name)
        if not modulates:
            alone = tokens.shape[1] == length
            first = (0,) * len(starts) if alone else starts
            call = call.with_input(_tied(tokens, pairs, first, length))
        if not modulates and call.name not in self._layers:
            return call()

        def attend(attention: Attention) -> Tensor:
            if attention.queries == length:
                return attention()  # The text is not among the tokens.
            if modulates:
                found, _ = call.site.beside_text(call.name, attention.queries)
                query, key, value = (
                    _tied(part.transpose(1, 2), pairs, found, length).transpose(1, 2)
                    for part in attention[:3]
                )
                attention = attention._replace(query=query, key=key, value=value)
            output = attention()
            if call.name not in self._layers:
                return output
            _check_heads(output, call.name)
            starts, _ = call.site.beside_text(call.name, attention.queries)
            changed = output.clone()
            for row, added in pairs:
                first, second = starts[row], starts[added]
                plus = output[row : row + 1, :, first : first + length]
                minus = output[added : added + 1, :, second : second + length]
                changed[row : row + 1, :, first : first + length] = self.strength(plus, minus)
            return changed

        return attend_with(attend, call.call, call.name)


def _tied(
    tokens: Tensor, pairs: Sequence[tuple[int, int]], starts: Sequence[int], length: int
) -> Tensor:
    """Tokens `(B, T, *)` in which added rows have those of the image from the rows they repeat.

    Args:
        tokens: The tokens.
        pairs: Rows, each with the one that was added for it.
        starts: Where the tokens of the image begin, in each row.
        length: How many these are.
    """
    tied = tokens.clone()
    for row, added in pairs:
        first, second = starts[row], starts[added]
        tied[added, second : second + length] = tokens[row, first : first + length]
    return tied


def _numbers(rows: Rows) -> range:
    return range(rows.start, rows.stop)


def _check_heads(output: Tensor, layer: str) -> None:
    if output.ndim != 4:
        raise AttentionBackendError(
            f"layer {layer!r} attends in slices of heads, of which no norm over all can be taken; "
            "expected attention that is not sliced"
        )


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
        strength = _Strength(self.scale, self.tau, self.alpha)
        edits, beside = self._edits(denoiser, layers)
        alteration: Alteration = _InCrossAttention(strength, self.negative_embeds)
        if beside:
            chosen = frozenset([layer.name for layer in layers])
            alteration = _BesideText(strength, self.negative_embeds, chosen)
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
        if not edits or not family.text_arguments:
            raise LayerError(
                f"layers: how a {type(model).__name__} attends to its text is not known in "
                f"layers={self.layers!r}, so a negative text can't be given there; expected other "
                "layers or another model (docs/methods.md), or a negative prompt under "
                "classifier-free guidance"
            )
        return edits, beside
