"""Runs that are traced for an experiment: numbers by step and layer, and trajectories."""

from __future__ import annotations

__all__ = ["Traced", "trace_rows"]

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..integrations.picture_call import batch_arguments
from ..methods import as_guidances
from ..models import load
from ..sweeps import PictureSettings
from ..sweeps.pipeline_call import settings_arguments
from ..trace import Trace, Trajectory
from .row import Row
from .study import Study, measuring_device

if TYPE_CHECKING:
    import pandas as pd

#: More runs would make no line smoother to the eye.
_RUNS_MOST = 8


@dataclass(frozen=True)
class Traced:
    """What was measured in the runs of a row, without a prompt.

    Args:
        layers: The table of layers.
        steps: The table of steps.
        trajectory: The noisy latents.
    """

    layers: pd.DataFrame
    steps: pd.DataFrame
    trajectory: Trajectory


def trace_rows(
    study: Study, rows: Sequence[Row], metrics: Sequence[str], *, dtype: torch.dtype | None = None
) -> dict[str, Traced]:
    """Runs of several rows on the same noise.

    Args:
        study: The study; it has at most 8 runs of a row, on seeds from 0.
        rows: The rows.
        metrics: Names of `TRACE_METRICS`, measured of latents and of the subject's layers.
        dtype: The dtype to compute in; by default the model's.

    Returns:
        What was measured, by the labels of the rows.
    """
    subject = study.subject
    study.close()  # one model at a time
    pipe = load(subject.name, device=measuring_device(study.scope.device), dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    count = min(max(study.samples, 2), _RUNS_MOST)
    own = pipe.scheduler
    found = {}
    for row in rows:
        name = row.scheduler or subject.scheduler
        pipe.scheduler = own if name is None else _scheduler(name, own)
        settings = PictureSettings(
            cfg=row.cfg, num_inference_steps=subject.num_inference_steps, size=subject.size
        )
        call = batch_arguments(
            pipe, settings_arguments(pipe, settings), [("", seed) for seed in range(count)]
        )
        with contextlib.ExitStack() as attached:
            trace = attached.enter_context(
                Trace(pipe, layers=subject.layers, metrics=metrics, trajectory=True)
            )
            for guidance in as_guidances(list(row.guidance)):
                attached.enter_context(guidance.attach(pipe))
            pipe(**call, output_type="latent")
        found[row.label] = Traced(trace.layers, trace.steps, trace.trajectories[0])
    return found


def _scheduler(name: str, own: Any) -> Any:
    import diffusers

    return getattr(diffusers, name).from_config(own.config)
