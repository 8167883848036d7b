"""The observer of a trace: measures each step where it runs, and keeps the numbers."""

from __future__ import annotations

__all__ = ["LayerRecord", "StepRecord", "TraceRecorder"]

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import LayerError, SelfAttentionLayer
from ..denoisers.cfg_batch import Formulation
from ..engine.observer import Observer, SeenGuidance, SeenStep
from ..engine.participant import Participant
from ..engine.passes import PassRunner
from ..families.layer_selection import LayerSelection, select_layers
from ..guidance.attention_perturbation import AttentionPerturbation
from ..guidance.guidance import Guidance
from ..guidance.negative_guidance import NegativeGuidance
from ..guidance.plan import Plan
from ..intercept.attention import AttentionBackendError
from ..intercept.compiled import is_compiled
from .guidance_measures import guidance_measures
from .layer_probe import LayerProbe
from .metric import AttentionMetric, MapMetric, StepMetric, TraceMetric

#: Numbers of all samples by their names: `(B,)` each, float64.
Columns = dict[str, np.ndarray[Any, np.dtype[np.float64]]]


@dataclass
class LayerRecord:
    """What was measured of one layer in one prediction of a step.

    Args:
        layer: Its name.
        code: Its plain code, such as `m0`.
        branch: The prediction.
        columns: The numbers.
    """

    layer: str
    code: str
    branch: Formulation
    columns: Columns


@dataclass
class StepRecord:
    """What was measured of one step.

    Args:
        run: The number of its run.
        step: Its number in the run, counted as they came.
        facts: What is the same for all samples.
        columns: The numbers of the whole step.
        layers: Those of layers.
        latents: The noisy latents, `(B, C, *)` on the CPU, if they are kept.
    """

    run: int
    step: int
    facts: dict[str, float]
    columns: Columns
    layers: list[LayerRecord] = field(default_factory=list)
    latents: Tensor | None = None


class TraceRecorder(Observer):
    """Measures the steps of runs.

    Args:
        layers: The layers that are measured; empty for none.
        metrics: What is measured.
        keeps_latents: Whether the latents of every step are kept.

    Attributes:
        records: The steps so far.
        names: The names of the guidances that acted, in the order in which they first did.
    """

    def __init__(
        self, layers: LayerSelection, metrics: Sequence[TraceMetric], *, keeps_latents: bool
    ) -> None:
        self._selection = layers
        self._maps = [metric for metric in metrics if isinstance(metric, MapMetric)]
        self._attention = [metric for metric in metrics if isinstance(metric, AttentionMetric)]
        self._steps = [metric for metric in metrics if isinstance(metric, StepMetric)]
        self._keeps_latents = keeps_latents
        self._found: WeakKeyDictionary[nn.Module, tuple[SelfAttentionLayer, ...]]
        self._found = WeakKeyDictionary()
        self.records: list[StepRecord] = []
        self.names: dict[str, Guidance] = {}
        self._codes: dict[str, str] = {}
        self._run, self._step = 0, 0

    @property
    def _looks_at_layers(self) -> bool:
        chosen = callable(self._selection) or bool(self._selection)
        return chosen and bool(self._maps or self._attention)

    def layers_of(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        """The layers of a denoiser that are measured.

        Args:
            denoiser: The denoiser.

        Raises:
            LayerError: If there are no such layers, or one has no softmax and its energy is asked.
            AttentionBackendError: If the denoiser is compiled.
        """
        if not self._looks_at_layers:
            return ()
        layers = self._found.get(denoiser)
        if layers is not None and _are_there(denoiser, layers):
            return layers
        layers = select_layers(denoiser, self._selection)
        if is_compiled(denoiser):
            raise AttentionBackendError(
                f"layers={self._selection!r}: this {type(denoiser).__name__} is compiled, and what "
                "its layers compute can't be seen; expected one that is not compiled, or layers=()"
            )
        linear = [layer.name for layer in layers if not layer.softmax]
        if linear and self._attention:
            names = ", ".join([metric.name for metric in self._attention])
            raise LayerError(
                f"layers: {linear[0]} is linear attention, without softmax(QK^T), which the "
                f"metrics {names} measure; expected other layers, or other metrics"
            )
        self._found[denoiser] = layers
        self._codes.update({layer.name: layer.code for layer in layers})
        return layers

    @override
    def begin(self) -> None:
        if self._step:
            self._run, self._step = self._run + 1, 0

    @override
    def plan(self, runner: PassRunner, perturbing: Mapping[Participant, Plan]) -> Plan:
        layers = self.layers_of(runner.denoiser)
        if not layers:
            return Plan()
        if runner.caches is not None:
            raise RuntimeError(
                f"layers={self._selection!r}: the denoiser has a cache that may skip them; "
                "expected a denoiser after disable_cache(), or layers=()"
            )
        perturbations: dict[str, dict[str, AttentionPerturbation]] = {}
        for participant, plan in perturbing.items():
            for layer in layers if plan.perturbation is not None else ():
                if plan.edits.get(layer.module) != layer.name or plan.perturbation is None:
                    continue
                found = plan.perturbation.of_layer(layer.name)
                if isinstance(found, AttentionPerturbation):
                    by_name = perturbations.setdefault(layer.name, {})
                    by_name[self._name(participant)] = found
        probe = LayerProbe(self._maps, self._attention, perturbations)
        return Plan(probe=probe, probed={layer.module: layer.name for layer in layers})

    def _name(self, participant: Participant) -> str:
        """The name of a guidance in this trace: its method's, numbered from the second on."""
        guidance = participant.guidance
        for name, known in self.names.items():
            if known == guidance:
                return name
        alike = [known for known in self.names.values() if known.method == guidance.method]
        name = f"{guidance.method}{len(alike) + 1}" if alike else guidance.method
        self.names[name] = guidance
        return name

    @override
    @torch.no_grad()
    def see(self, step: SeenStep) -> None:
        guidances = {self._name(seen.participant): seen for seen in step.guidances}
        measured = dict(guidance_measures(step, guidances))
        if self._maps:
            maps = _latent_maps(step)
            for metric in self._maps:
                measured[f"latents.{metric.name}"] = metric.measure(maps)
        for one in self._steps:
            measured.update(one.measure(step))
        layers: list[tuple[str, Formulation, list[str]]] = []
        blocks = [torch.stack([column.reshape(-1) for column in measured.values()])]
        for branch, (plan, kept) in step.kept.items():
            if not isinstance(plan.probe, LayerProbe):
                continue
            for layer, values in kept.items():
                layers.append((layer, branch, plan.probe.columns[layer]))
                blocks.append(values.mT)
        numbers = _on_cpu(blocks)
        record = StepRecord(
            self._run, self._step, _facts(step), dict(zip(measured, numbers[0], strict=True))
        )
        for (layer, branch, names), columns in zip(layers, numbers[1:], strict=True):
            own = dict(zip(names, columns, strict=True))
            own = _of_branch(own, branch, step, guidances)
            record.layers.append(LayerRecord(layer, self._codes[layer], branch, own))
        if self._keeps_latents:
            dtype = torch.promote_types(step.sample.dtype, torch.float32)
            record.latents = step.sample.to("cpu", dtype, copy=True)
        record.facts["seconds"] = time.perf_counter() - step.started
        self.records.append(record)
        self._step += 1


def _are_there(denoiser: nn.Module, layers: Sequence[SelfAttentionLayer]) -> bool:
    """Whether modules are where they were: adapters may have replaced them."""
    try:
        return all(denoiser.get_submodule(layer.name) is layer.module for layer in layers)
    except AttributeError:
        return False


def _facts(step: SeenStep) -> dict[str, float]:
    """Where the step is in its schedule, as far as that is known, and what it cost."""
    facts = {
        "index": math.nan,
        "count": math.nan,
        "sigma": math.nan,
        "timestep": math.nan,
        "cfg_scale": math.nan if step.cfg_scale is None else step.cfg_scale,
        "evaluations": step.evaluations,
    }
    try:
        position = step.context.position()
    except (RuntimeError, ValueError):  # A loop that has not told, a schedule that can't be read.
        return facts
    for name in ("index", "count", "sigma", "timestep"):
        value = getattr(position, name)
        facts[name] = math.nan if value is None else float(value)
    return facts


def _latent_maps(step: SeenStep) -> Tensor:
    """The latents of a step as maps `(B, C F, H, W)`."""
    sample = step.sample.to(torch.promote_types(step.sample.dtype, torch.float32))
    unpacked = step.latent_layout().unpack(sample)
    if unpacked.ndim < 4:
        raise ValueError(
            f"metrics of maps need latents with places, and these are {tuple(unpacked.shape)}; "
            "expected (B, C, H, W) or (B, C, F, H, W), or metrics=()"
        )
    return unpacked.flatten(1, -3)


def _on_cpu(blocks: Sequence[Tensor]) -> list[Any]:
    """Blocks `(K, B)` as float64 arrays, all in one transfer."""
    device = blocks[0].device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    flat = torch.cat([block.reshape(-1).to(device, dtype) for block in blocks]).cpu().double()
    parts = torch.split(flat, [block.numel() for block in blocks])
    return [part.reshape(block.shape).numpy() for part, block in zip(parts, blocks, strict=True)]


def _of_branch(
    columns: Columns, branch: Formulation, step: SeenStep, guidances: Mapping[str, SeenGuidance]
) -> Columns:
    """The columns of a layer, without those of guidances that perturb the other prediction."""
    other = []
    for name, seen in guidances.items():
        guidance = seen.participant.guidance
        perturbs = guidance.formulation if isinstance(guidance, NegativeGuidance) else branch
        if step.unconditional is not None and perturbs != branch:
            other.append(f"{name}.")
    return {name: column for name, column in columns.items() if not name.startswith(tuple(other))}
