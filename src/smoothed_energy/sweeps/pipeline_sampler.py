"""The sampler that draws with a pipeline of diffusers.

A call of the pipeline always has as many pictures. Kernels of matrix products differ with the
number of rows, and with them a picture's last bits: on the CPU calls have two pictures, whatever
the batch size, and on a GPU they have the batch size. Places that are left over are filled with
copies.
"""

from __future__ import annotations

__all__ = ["PipelineSampler", "PipelineSource"]

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from ..integrations.attachment import Attachment
from ..integrations.picture_call import batch_arguments
from ..models import load
from .configuration import Configuration, PictureSettings
from .facts import observed, run_facts
from .identity import PIPELINE
from .pipeline_call import check_call, settings_arguments
from .sampler import ConfigurationError, Picture

_PAIR = 2


@dataclass(frozen=True)
class PipelineSource:
    """Opens a model in a worker.

    Args:
        model: What `smoothed_energy.models.load` takes.
        device: The type of the device, or a device.
        dtype: The name of a dtype of torch.
        controlnet: A ControlNet beside it.
        trace: Whether facts of a trace are kept.
        batch_size: How many pictures are drawn at once on a GPU.
    """

    model: str
    device: str
    dtype: str
    controlnet: str | None = None
    trace: bool = False
    batch_size: int = _PAIR

    @property
    def name(self) -> str:
        """What draws."""
        return PIPELINE

    def open(self, worker: int) -> PipelineSampler:
        """Load the model; workers of one machine take its GPUs in turn.

        Raises:
            ValueError: If it can't be loaded.
        """
        _quiet()
        device = torch.device(self.device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", worker % max(torch.cuda.device_count(), 1))
        pipe = load(
            self.model,
            dtype=getattr(torch, self.dtype),
            device=device,
            controlnet=self.controlnet,
        )
        pipe.set_progress_bar_config(disable=True)
        at_once = _PAIR if device.type == "cpu" else max(self.batch_size, _PAIR)
        return PipelineSampler(pipe, at_once, trace=self.trace)


def _quiet() -> None:
    """Keep the libraries' own progress bars and advice out of the sweep's."""
    # Both are slow to import, and here in a moment anyway.
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    for logging in (of_diffusers, of_transformers):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


class PipelineSampler:
    """A pipeline, to which the guidance of a configuration stays attached until the next one.

    Args:
        pipe: The pipeline.
        at_once: How many pictures every call has.
        trace: Whether facts of a trace are kept.
    """

    def __init__(self, pipe: Any, at_once: int = _PAIR, *, trace: bool = False) -> None:
        self._pipe = pipe
        self._at_once = at_once
        self._trace = trace
        self._scheduler = pipe.scheduler
        self._settings: PictureSettings | None = None
        self._attachments: list[Attachment] = []
        self._arguments: dict[str, Any] = {}
        self._attached = ExitStack()

    def draw(
        self, configuration: Configuration, pictures: Sequence[tuple[str, int]]
    ) -> list[Picture]:
        """Draw pictures; see `Sampler.draw`."""
        if configuration.settings != self._settings:
            self._prepare(configuration)
        # Such guidance looks at predictions of the whole batch.
        together = any(one.guidance.depends_on_batch for one in self._attachments)
        size = 1 if together else self._at_once
        drawn: list[Picture] = []
        try:
            for start in range(0, len(pictures), size):
                drawn += self._call(pictures[start : start + size])
        except BaseException:
            self.close()
            raise
        return drawn

    def close(self) -> None:
        """Take guidance off; the pipeline is as it was."""
        self._attached.close()
        self._attachments = []
        self._settings = None
        self._pipe.scheduler = self._scheduler

    def _prepare(self, configuration: Configuration) -> None:
        self.close()
        settings = configuration.settings
        if settings.scheduler is not None:
            import diffusers

            cls = getattr(diffusers, settings.scheduler)
            self._pipe.scheduler = cls.from_config(self._scheduler.config)
        try:
            self._arguments = settings_arguments(self._pipe, settings)
            if settings.guidance:
                check_call(self._pipe, self._arguments)
            for guidance in settings.guidance:
                attachment = guidance.attach(self._pipe)
                self._attachments.append(self._attached.enter_context(attachment))
        except ConfigurationError:
            self.close()
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            self.close()
            raise ConfigurationError(
                f"configuration {configuration.label!r} doesn't fit the model: {error}"
            ) from error
        self._settings = settings

    def _call(self, pictures: Sequence[tuple[str, int]]) -> list[Picture]:
        copies = [pictures[-1]] * (self._at_once - len(pictures))
        try:
            arguments = batch_arguments(self._pipe, self._arguments, [*pictures, *copies])
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        with observed(self._pipe, trace=self._trace) as facts_of:
            images = self._pipe(**arguments).images
        common = run_facts(self._attachments)
        count = len(pictures)
        facts = facts_of(count)
        return [
            (image, {**common, **one}) for image, one in zip(images[:count], facts, strict=True)
        ]
