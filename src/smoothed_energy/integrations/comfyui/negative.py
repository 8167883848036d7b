"""A negative text inside of attention: a CONDITIONING, and what a network is given of it."""

from __future__ import annotations

__all__ = ["NegativeText", "TextOfRun", "check_attention", "check_text"]

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ...intercept.module_call import Rows
from .family import ComfyFamily

_CONDITIONING = "conditioning"
#: What makes a conditioning more than a text for the whole picture and run.
_MORE = ("area", "mask", "control", "gligen", "hooks", "start_percent", "end_percent")
_AT_ALL = {"start_percent": 0.0, "end_percent": 1.0}


class NegativeText(Mapping[str, Any]):
    """A CONDITIONING, as NAG takes what a denoiser is given for its negative prompt.

    Copies of a model share it.

    Args:
        conditioning: The CONDITIONING: what ComfyUI makes of one text.

    Raises:
        ValueError: If it is more than one text, or holds for a part of the picture or the run.
    """

    def __init__(self, conditioning: Sequence[Any]) -> None:
        if len(conditioning) != 1:
            raise ValueError(
                f"the negative of NAG has {len(conditioning)} prompts; expected one "
                "(CLIPTextEncode)"
            )
        settings = conditioning[0][1]
        found = [
            name
            for name in _MORE
            if settings.get(name) is not None and settings[name] != _AT_ALL.get(name)
        ]
        if found:
            raise ValueError(
                f"the negative of NAG has {', '.join(found)}, which attention can't be given; "
                "expected a text for the whole picture and run"
            )
        self._conditioning = conditioning

    @override
    def __getitem__(self, name: str) -> Any:
        if name != _CONDITIONING:
            raise KeyError(name)
        return self._conditioning

    @override
    def __iter__(self) -> Iterator[str]:
        return iter((_CONDITIONING,))

    @override
    def __len__(self) -> int:
        return 1

    def __deepcopy__(self, memo: dict[int, Any]) -> NegativeText:
        return self


def check_text(text: Mapping[str, Any] | None) -> None:
    """Check that a guidance with a text of its own was given a CONDITIONING.

    Raises:
        RuntimeError: If it was not: nothing in a MODEL can encode a text.
    """
    if not isinstance(text, NegativeText):
        raise RuntimeError(
            "nag needs a CONDITIONING, since nothing in a MODEL encodes a negative prompt; "
            "expected the node of NAG, or negative_embeds=NegativeText(conditioning)"
        )


def check_attention(family: ComfyFamily, options: Mapping[str, Any] | None) -> None:
    """Check that attention to the text gets the same text in all layers.

    Raises:
        RuntimeError: If another node changes it.
    """
    patches = (options or {}).get("patches", {})
    found = [name for name in family.changes_text if patches.get(name)]
    if found:
        raise RuntimeError(
            f"another node changes the text of some layers ({', '.join(found)}), so what its "
            "negative is there is not known; expected a model without it"
        )


class TextOfRun:
    """What texts are in a run of a sampler.

    Args:
        model: ComfyUI's model.
        latents: Latents of the run.
    """

    def __init__(self, model: Any, latents: Tensor) -> None:
        self._model, self._latents = model, latents
        self._found: dict[int, Mapping[str, Any]] = {}

    def arguments(
        self,
        family: ComfyFamily,
        text: Mapping[str, Any],
        named: Mapping[str, Any],
        rows: Rows,
    ) -> dict[str, Any]:
        """What the network is given for a text, for some rows of a call.

        Args:
            family: The family of the network.
            text: The text.
            named: The arguments of the call.
            rows: The rows.

        Raises:
            ValueError: If the text is of another kind than that of the call.
        """
        given, count = self._encoded(text), rows.stop - rows.start
        found: dict[str, Any] = {}
        for name, argument in family.texts.items():
            value = given.get(name)
            like = named.get(argument)
            if value is None:
                if like is not None and argument not in family.masks.values():
                    raise ValueError(
                        f"the prompt has {argument}, and the negative of NAG has not; expected "
                        "texts of the same encoders"
                    )
                continue
            if like is None and argument not in family.masks.values():
                raise ValueError(
                    f"the negative of NAG has {argument}, and the prompt has not; expected texts "
                    "of the same encoders"
                )
            tensor: Tensor = value.process_cond(batch_size=count, area=None).cond
            if isinstance(like, Tensor):
                if argument in family.masks.values() and like.is_floating_point():
                    raise ValueError(
                        f"{argument} adds to attention, so it can't be of texts of two lengths; "
                        "expected a mask of whole numbers"
                    )
                dtype = like.dtype if tensor.is_floating_point() else tensor.dtype
                tensor = tensor.to(like.device, dtype)
            found[argument] = tensor
        for argument, mask in family.masks.items():
            if mask not in found and isinstance(named.get(mask), Tensor):
                tokens = found[argument]
                found[mask] = tokens.new_ones(tokens.shape[:2], dtype=torch.int64)
        return found

    def _encoded(self, text: Mapping[str, Any]) -> Mapping[str, Any]:
        """What ComfyUI's model makes of a conditioning, once in a run."""
        if id(text) not in self._found:
            helpers = importlib.import_module("comfy.sampler_helpers")
            samplers = importlib.import_module("comfy.samplers")
            latents = self._latents
            conds = {"negative": helpers.convert_cond(text[_CONDITIONING])}
            zeros = torch.zeros_like(latents)
            held = samplers.process_conds(
                self._model, latents, conds, latents.device, zeros, None, 0
            )
            self._found[id(text)] = held["negative"][0]["model_conds"]
        return self._found[id(text)]
