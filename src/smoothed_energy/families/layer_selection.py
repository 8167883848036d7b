"""The self-attention layers of a denoiser, and how to name a choice of them.

A U-Net has three parts, run in this order: the path down, the middle, the path up. Two customs of
counting the self-attention layers of a part are in use, and both work here:

- A **plain code** counts layers: ``d5`` is the sixth self-attention layer of the path down, in
  module order. The released implementations of PAG and SEG count so.
- A **dotted code** counts transformers, then the layers in them: ``d2.1`` is the second layer of
  the third transformer of the path down. A transformer is what diffusers calls
  ``down_blocks.i.attentions.j``, a stack of one or more layers. Blocks that only convolve are not
  counted. ComfyUI packs for PAG and SEG count so (their "block" is one input or output block of
  the original code, which holds at most one transformer). In those packs a code without a dot is a
  whole block: their ``d2`` is ``d2.*`` here.

A diffusion transformer has one or two stacks of blocks, with the letters ``b`` (blocks) and ``s``
(single-stream blocks). ``b7`` is its eighth self-attention layer, which is that of the eighth block
unless blocks have two, as in SD 3.5 medium; ``b7.*`` are those of the eighth block.
``"down"``, ``"mid"`` and ``"up"`` are the first, the middle and the last third of all blocks.

=================================  ===========================================================
selection                          layers
=================================  ===========================================================
``"down"``, ``"mid"``, ``"up"``    a part; ``"all"`` is every layer
``"d5"``, ``"d0-d3"``, ``"d0-3"``  plain codes
``"d2.1"``, ``"d2.2-9"``           dotted codes; ``"d2.*"`` is every layer of a transformer
``"d2-3.0-4"``                     layers 0 to 4 of the transformers 2 and 3
``"b7-b9"``, ``"s0-s5"``           the same in transformers
``"*.transformer_blocks.0.attn1"`` module names, with the wildcards ``*``, ``?`` and ``[...]``
``"m0.7,u0.4"``                    any of these together
``["down", "m0"]``                 the same, as a list
``lambda layer: layer.width > 8``  a predicate on `SelfAttentionLayer`
=================================  ===========================================================

References:
    | Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance (Ahn et al., 2024)
    | https://arxiv.org/abs/2403.17377

    | Smoothed Energy Guidance (Hong, 2024)
    | https://arxiv.org/abs/2408.00760
"""

from __future__ import annotations

__all__ = [
    "LayerError",
    "LayerSelection",
    "SelfAttentionLayer",
    "normalise_selection",
    "select_layers",
    "self_attention_layers",
]

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn

from ..denoisers.attention_layer import LayerError, SelfAttentionLayer
from ..intercept.module_call import unwrap
from .registry import family_of, known_parts

KINDS = (
    "down, mid, up, all, a code (d5, d0-d3), a dotted code (d2.1, d2.2-9, d2.*) "
    "or a module name with wildcards (*.attn1)"
)

# One code: a letter, then one number or a range of them; after a dot the same, or a star.
_CODE = re.compile(
    r"(?P<letter>[a-z])(?P<first>\d+)(?:-(?P<again>[a-z])?(?P<last>\d+))?"
    r"(?:\.(?:(?P<star>\*)|(?P<low>\d+)(?:-(?P<high>\d+))?))?"
)


LayerSelection: TypeAlias = "str | Sequence[str] | Callable[[SelfAttentionLayer], bool]"


def self_attention_layers(denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
    """All self-attention layers of a denoiser, in the order in which they run.

    Args:
        denoiser: A denoiser of a known family, compiled or not.

    Raises:
        LayerError: If its family is not known, or it has no self-attention.
    """
    denoiser = unwrap(denoiser)
    family = family_of(denoiser)
    layers = tuple(family.layers(denoiser))
    if not layers:
        reason = family.why_no_layers(denoiser)
        raise LayerError(
            f"this {type(denoiser).__name__} has no self-attention layer to guide with"
            f"{': ' if reason else ''}{reason}"
        )
    return layers


def select_layers(denoiser: nn.Module, selection: LayerSelection) -> tuple[SelfAttentionLayer, ...]:
    """The layers that a selection names, in the order in which they run, each once.

    Args:
        denoiser: A denoiser of a known family, compiled or not.
        selection: What to select; the module's documentation lists the forms.

    Raises:
        LayerError: If the selection is empty, is not understood, or names what is not there.
    """
    layers = self_attention_layers(denoiser)
    if callable(selection):
        chosen = {layer.name for layer in layers if selection(layer)}
        if not chosen:
            raise LayerError(
                f"layers: the predicate chose none of the {len(layers)} self-attention layers; "
                f"there are {_summary(layers)}"
            )
    else:
        chosen = set()
        for term in _terms(selection):
            chosen.update([layer.name for layer in _matches(layers, term)])
    return tuple([layer for layer in layers if layer.name in chosen])


def normalise_selection(selection: LayerSelection) -> str:
    """A selection as one line of text, which selects the same.

    Only the form is checked; whether a denoiser has such layers shows when it is attached to.

    Raises:
        LayerError: If the selection is empty or not understood, or a predicate, which has no text.
    """
    if callable(selection):
        raise LayerError(
            "layers: a predicate cannot be written as text; to save it, name the layers it chooses"
        )
    terms = _terms(selection)
    for term in terms:
        _check_form(term)
    return ",".join(dict.fromkeys(terms))


def _terms(selection: str | Sequence[str]) -> list[str]:
    texts: Iterable[object]
    if isinstance(selection, str):
        texts = [selection]
    elif isinstance(selection, Iterable):
        texts = selection
    else:
        raise LayerError(f"layers={selection!r} is not a selection; expected {KINDS}")

    terms: list[str] = []
    for text in texts:
        if not isinstance(text, str):
            raise LayerError(f"layers: {text!r} is not text; expected {KINDS}")
        terms.extend([term.strip() for term in text.split(",")])
    if not any(terms):
        raise LayerError(f"layers={selection!r} is empty; expected {KINDS}")
    if not all(terms):
        raise LayerError(f"layers={selection!r} has an empty item; expected {KINDS}")
    return terms


def _is_name(term: str) -> bool:
    return any(mark in term for mark in "._*?[")


def _check_form(term: str) -> re.Match[str] | None:
    """Check one term and return its code, or None if it is a part or a module name.

    Raises:
        LayerError: If the term is none of these, or a range in it makes no sense.
    """
    if term == "all" or term in known_parts():
        return None
    code = _CODE.fullmatch(term)
    if code is None:
        if re.fullmatch(r"[a-z][\d.*-][a-z\d.*-]*", term) or not _is_name(term):
            raise LayerError(f"layers: {term!r} is not known; expected {KINDS}")
        return None
    if code["again"] and (code["again"] != code["letter"] or code["low"] or code["star"]):
        raise LayerError(
            f"layers: {term!r} is not a range; expected both ends in one part, "
            "as in d0-d3, or d2.2-9 inside a transformer"
        )
    for low, high in ((code["first"], code["last"]), (code["low"], code["high"])):
        if low and high and int(high) < int(low):
            raise LayerError(f"layers: the range {term!r} is reversed: {high} comes before {low}")
    return code


def _matches(layers: tuple[SelfAttentionLayer, ...], term: str) -> list[SelfAttentionLayer]:
    try:
        code = _check_form(term)
    except LayerError as error:
        raise LayerError(f"{error}; there are {_summary(layers)}") from None
    if code is not None:
        return _matches_code(layers, term, code)
    if term == "all":
        return list(layers)
    if term in known_parts():
        matches = [layer for layer in layers if layer.part == term]
    else:
        matches = [layer for layer in layers if fnmatchcase(layer.name, term)]
    if not matches:
        what = "has no self-attention here" if term in known_parts() else "matches no layer"
        example = "" if term in known_parts() else f", with names such as {layers[0].name}"
        raise LayerError(f"layers: {term!r} {what}; there are {_summary(layers)}{example}")
    return matches


def _matches_code(
    layers: tuple[SelfAttentionLayer, ...], term: str, code: re.Match[str]
) -> list[SelfAttentionLayer]:
    of_stack = [layer for layer in layers if layer.letter == code["letter"]]
    wanted = _numbers(code["first"], code["last"])

    if not (code["low"] or code["star"]):
        if wanted[-1] >= len(of_stack):
            raise LayerError(f"layers: {term!r} is out of range; there are {_summary(layers)}")
        return [of_stack[index] for index in wanted]

    matches: list[SelfAttentionLayer] = []
    for block in wanted:
        stack = [layer for layer in of_stack if layer.block == block]
        positions = _numbers(code["low"], code["high"]) if code["low"] else range(len(stack))
        if not stack or positions[-1] >= len(stack):
            raise LayerError(
                f"layers: {term!r} is out of range; there are {_dotted_summary(layers)}"
            )
        matches.extend(stack[position] for position in positions)
    return matches


def _numbers(first: str, last: str | None) -> range:
    return range(int(first), int(last or first) + 1)


def _summary(layers: tuple[SelfAttentionLayer, ...]) -> str:
    """What is there, in plain codes: ``down (d0-d3), mid (m0)``, or ``down, mid, up (b0-b23)``."""
    texts = []
    for letter in dict.fromkeys(layer.letter for layer in layers):
        stack = [layer for layer in layers if layer.letter == letter]
        parts = ", ".join(dict.fromkeys(layer.part for layer in stack))
        codes = [stack[0].code, stack[-1].code][: len(stack)]
        texts.append(f"{parts} ({'-'.join(codes)})")
    return ", ".join(texts)


def _dotted_summary(layers: tuple[SelfAttentionLayer, ...]) -> str:
    """What is there, in dotted codes: ``d0.0-1, d1.0-1, m0.0``."""
    last: dict[str, int] = {}
    for layer in layers:
        last[f"{layer.letter}{layer.block}"] = layer.position
    return ", ".join(f"{block}.0-{end}" if end else f"{block}.0" for block, end in last.items())
