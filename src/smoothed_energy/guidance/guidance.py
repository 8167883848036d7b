"""The base class of guidance: a value with settings, which can be attached to a pipeline."""

from __future__ import annotations

__all__ = ["SECOND_PASS", "About", "Guidance"]

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.cfg_batch import RowChoice
from ..families import family_or_unknown
from ..families.layer_selection import normalise_selection
from ..intercept.module_call import unwrap
from .combine_text import combinations_text

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..integrations.attach import Attachment


@dataclass(frozen=True)
class About:
    """What a method's entry in a table says.

    Attributes:
        title: Its name in full.
        perturbs: What the prediction that it moves away from lacks.
        cost: What a guided step costs.
        source: The paper.
        caveat: What to know before using it.
    """

    title: str
    perturbs: str
    cost: str
    source: str
    caveat: str = ""


#: The cost of methods that perturb layers.
SECOND_PASS = "a second pass from the first chosen layer on"


@dataclass(frozen=True)
class Guidance(ABC):
    """An immutable, comparable value that acts on a pipeline while it is attached to it."""

    #: Its name in settings and texts.
    method: ClassVar[str]
    about: ClassVar[About]
    #: Whether it decides where the pipeline's own guidance acts; else it adds a correction.
    limits_cfg: ClassVar[bool] = False
    #: Whether the layers that it uses must compute softmax(QK^T)V.
    needs_softmax: ClassVar[bool] = True

    #: Whether it may have a prompt of its own; see `prompt_to_encode`.
    has_prompt: ClassVar[bool] = False

    @abstractmethod
    def select(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        """The layers of `denoiser` that it uses, in the order in which they run.

        Raises:
            LayerError: If `denoiser` has no such layers.
        """

    @property
    @abstractmethod
    def is_off(self) -> bool:
        """Whether it changes nothing, whatever the model."""

    @property
    def needs_similarity(self) -> bool:
        """Whether its steps depend on the predictions so far; see `StepPosition.similarity`."""
        return False

    @property
    def depends_on_batch(self) -> bool:
        """Whether what it does to a sample depends on the others that are drawn with it."""
        return self.needs_similarity

    @property
    def prompt_to_encode(self) -> str | None:
        """A prompt of its own that a pipeline has to encode for each run; None: there is none."""
        return None

    def attach(
        self,
        target: Any,
        *,
        replay: bool = True,
        rows: RowChoice = "needed",
        guide_unknown: bool = False,
        joined: bool = False,
    ) -> Attachment:
        """Guide a pipeline, or a bare denoiser, until the attachment is detached.

        Args:
            target: A `diffusers` pipeline, or its denoiser for use in your own loop.
            replay: Whether the perturbed pass takes over what was computed before the first
                perturbed layer. False computes it again, for comparison.
            rows: Which rows of the batch the perturbed pass has: `"needed"`, those of the
                prediction that is perturbed, or `"all"`, for attention processors that relate rows
                to each other. Known ones (cross-frame attention of Text2Video-Zero, shared
                attention of StyleAligned) get all of them without it.
            guide_unknown: Whether a denoiser that no family knows is guided by what a few calls of
                it show, with a warning: its first call is made some times more, with latents that
                are marked in one place. What does not show clearly is left out, or refused.
            joined: Whether the perturbed rows run in the same call of the denoiser as the others:
                the same picture, and faster where a GPU waits for its kernels to be started (one
                picture of SDXL on a fast one), for twice the memory of activations; slower where
                arithmetic is what takes the time. Of several guidances one is joined.

        Returns:
            A context manager that detaches when it closes; or call its `detach()`. If it is lost,
            `smoothed_energy.attachments` finds it.

        Raises:
            TypeError: If `target` is neither.
            LayerError: If it has no such layers.
            RuntimeError: If an equal guidance is attached to it already, guidance of such a
                pipeline can't come out right, or it is generating and nothing was attached then.
            ValueError: If `rows` is neither, or this guidance's rows can't be joined.
        """
        # The one import from above: integrations know guidance, and users know this method.
        from ..integrations.attach import attach  # noqa: PLC0415

        return attach(
            self, target, replay=replay, rows=rows, guide_unknown=guide_unknown, joined=joined
        )

    @classmethod
    def suited_to(cls, target: Any, **settings: Any) -> Self:
        """This guidance with what is published of layers, scale and steps for a model.

        Where nobody published anything, it is the guidance with its own defaults.

        Args:
            target: A `diffusers` pipeline, or its denoiser.
            **settings: Settings of the guidance, which count more.

        Returns:
            The guidance. It says all of its settings, so it stays the same when it is saved.

        Raises:
            TypeError: If `target` is neither.

        Example:
            >>> SkipLayerGuidance.suited_to(pipe)  # Stable Diffusion 3.5 medium
            SkipLayerGuidance(scale=2.8, layers='b7.*,b8.*,b9.*', steps=Steps(0.01, 0.2), ...)
        """
        from ..integrations.attach import denoisers_of  # noqa: PLC0415 - as in attach

        denoiser = unwrap(denoisers_of(target)[0])
        found = family_or_unknown(denoiser).advice(denoiser).get(cls.method)
        return cls(**{**({} if found is None else found.settings), **settings})

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values, with the method's name under `"method"`.

        Raises:
            LayerError: If `layers` is a predicate, which has no text.
        """
        settings: dict[str, Any] = {"method": self.method}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "layers":
                value = normalise_selection(value)
            elif field.name == "combine":
                value = combinations_text(value)
            elif not isinstance(value, (bool, int, float, str, type(None))):
                value = str(value)  # Blurs, steps, schedules: each reads its own text.
            settings[field.name] = value
        return settings

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """The guidance that `to_dict` described.

        Raises:
            ValueError: If a setting is unknown or of another method.
        """
        settings = dict(settings)
        method = settings.pop("method", cls.method)
        if method != cls.method:
            raise ValueError(f"method={method!r} is not {cls.__name__}; expected {cls.method!r}")
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise ValueError(
                    f"{name!r} is not a setting of {cls.__name__}; it has {', '.join(known)}"
                )
        return cls(**settings)

    def to_json(self) -> str:
        """The settings as JSON text."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The guidance that `to_json` wrote.

        Raises:
            ValueError: If the text is not a JSON object of this method's settings.
        """
        settings = json.loads(text)
        if not isinstance(settings, dict):
            raise ValueError(
                f"the settings of a guidance are a JSON object; got {type(settings).__name__}"
            )
        return cls.from_dict(settings)

    def save(self, path: str | Path) -> None:
        """Write the settings to a JSON file."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the settings from a JSON file that `save` wrote."""
        return cls.from_json(Path(path).read_text())
