"""Traces: what happens in the runs of a pipeline, step by step, measured while they run."""

from __future__ import annotations

__all__ = ["DEFAULT_METRICS", "Trace"]

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from ..engine.summary import GuidanceWarning
from ..families.layer_selection import LayerSelection
from ..guidance.guidance import Guidance
from ..integrations.attach import observe, observed_denoisers
from ..integrations.attachment import Observation
from ..settings.warning_place import warn_caller
from .builtin_metrics import DEFAULT_METRICS
from .measurements import Measurements
from .metric import TraceMetric, as_trace_metrics
from .recorder import TraceRecorder
from .tables import layer_table, step_table
from .trajectory import Trajectory, trajectories

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Self


class Trace(Measurements):
    r"""Measures the runs of a pipeline, or of a denoiser in one's own loop, inside a `with` block.

    It looks into the passes that run anyway, guided or not, and changes no bit of what they give.
    Numbers are made where the tensors are; one small transfer to the CPU a step is all that is
    added. After the block nothing of it is left in the pipeline, and the numbers stay here.

    Each number is kept for every picture of a batch by itself. Guidance is always measured (see
    `guidance_measures`); what else is, `metrics` says: of the noisy latents of every step, and of
    the chosen layers.

    Args:
        target: A `diffusers` pipeline, its denoiser, or a `SmoothedEnergyGuider` (or the pipeline
            of Modular Diffusers that has it, when the block is entered).
        layers: The self-attention layers that are measured, in the forms of
            `families.layer_selection`; `()` for none.
        metrics: Names of `TRACE_METRICS`, or metrics; `()` for those of guidance alone.
        trajectory: Whether the noisy latents of every step are kept; see `trajectories`.

    Raises:
        TypeError: If `target` is neither, or a metric is none.
        ValueError: If the name of a metric is not known.
        LayerError: From entering the block, if there are no such layers, or attention is measured
            in one without softmax.
        AttentionBackendError: From entering the block, if layers of a compiled denoiser are chosen;
            from a run, if one computes attention in a way that can't be looked into.

    Example:
        >>> with Trace(pipe, layers="mid") as trace, guidance.attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=5.0).images[0]
        >>> trace.steps["effective_cfg_scale"]
    """

    def __init__(
        self,
        target: Any,
        layers: LayerSelection = "mid",
        metrics: Iterable[str | TraceMetric] = DEFAULT_METRICS,
        *,
        trajectory: bool = False,
    ) -> None:
        self._target = target
        self._recorder = TraceRecorder(layers, as_trace_metrics(metrics), keeps_latents=trajectory)
        self._observation: Observation | None = None
        self._before = 0
        self._made: dict[str, tuple[int, pd.DataFrame]] = {}

    def __enter__(self) -> Self:
        """Begin to look.

        Raises:
            RuntimeError: If it looks already.
        """
        if self._observation is not None:
            raise RuntimeError("this trace is recording already")
        for denoiser in observed_denoisers(self._target):
            self._recorder.layers_of(denoiser)
        self._recorder.begin()
        self._before = len(self._recorder.records)
        self._observation = observe(self._recorder, self._target)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Look no more."""
        if self._observation is None:
            return
        self._observation.detach()
        self._observation = None
        if kind is None and len(self._recorder.records) == self._before:
            warn_caller(
                f"no step was traced: no call of a denoiser of this {type(self._target).__name__} "
                "was seen in the block",
                GuidanceWarning,
            )

    def step(self, index: int, count: int, **facts: Any) -> None:
        """Tell of the next calls of a bare denoiser, as `Attachment.step` does.

        It is not needed where guidance is attached to the denoiser, too, and told.

        Args:
            index: The number of the step.
            count: The number of steps.
            facts: The other arguments of `Attachment.step`.

        Raises:
            RuntimeError: If the trace is not recording.
        """
        if self._observation is None:
            raise RuntimeError("this trace is not recording; expected step() in its with block")
        self._observation.step(index, count, **facts)

    @property
    def guidances(self) -> Mapping[str, Guidance]:
        """The guidances that acted, by their names in the columns."""
        return dict(self._recorder.names)

    @property
    @override
    def steps(self) -> pd.DataFrame:
        return self._table("steps", step_table)

    @property
    @override
    def layers(self) -> pd.DataFrame:
        return self._table("layers", layer_table)

    def _table(self, name: str, make: Any) -> pd.DataFrame:
        records = self._recorder.records
        count, table = self._made.get(name, (-1, None))
        if table is None or count != len(records):
            table = make(records)
            self._made[name] = len(records), table
        return table

    @property
    def trajectories(self) -> list[Trajectory]:
        """The noisy latents of each run, step by step.

        Raises:
            ValueError: If they were not kept.
        """
        return trajectories(self._recorder.records)

    def __repr__(self) -> str:
        state = "recording" if self._observation is not None else "closed"
        steps = len(self._recorder.records)
        return f"<Trace of {type(self._target).__name__}: {steps} steps, {state}>"
