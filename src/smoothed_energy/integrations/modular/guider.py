r"""A guider: CFG and guidance of this package, for pipelines of Modular Diffusers.

A denoise block asks its guider for batches, prepares the guider and calls the denoiser for each of
them, and lets the guider combine the predictions: $c$ with the prompt, $u$ without it, and one
perturbed prediction for each guidance. The perturbed one is computed while the denoiser is called
for the batch that it perturbs, where what comes before the first chosen layer can be taken over;
the call for the perturbed batch gets it handed out. In this way a block may do with predictions
what it likes before they are combined (cut, negate), and does the same with all of them.
"""

from __future__ import annotations

__all__ = ["SmoothedEnergyGuider"]

import functools
import math
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput, rescale_noise_cfg
from torch import Tensor, nn

from ...denoisers.cfg_batch import BatchLayout
from ...denoisers.latent_layout import ChannelsFirst, Places
from ...denoisers.prediction import OutputKind, Predictions, with_prediction
from ...engine.caches import CacheStates
from ...engine.history import Memory
from ...engine.passes import DenoiserCall, GuidedDenoiser
from ...engine.step import RunSummary
from ...engine.summary import warn_if_idle, warn_if_it_changes_nothing
from ...guidance.attachable import Attachable
from ...guidance.cfg_rules.interval import GuidanceInterval
from ...guidance.combine import Correction, as_combinations, need_places, total
from ...guidance.guidance import Guidance
from ...guidance.plan import Plan
from ...methods import guidance_from_dict, guidance_from_text, guidance_to_text
from ...schedule.steps import StepPosition, schedule_position
from ..pipeline_facts import has_learned_variance, prediction_type
from .preparation import Preparation

_WITH_PROMPT, _WITHOUT_PROMPT = 0, 1


@dataclass(frozen=True)
class _Batch:
    """A batch of a step.

    Args:
        name: The name of its prediction.
        condition: `_WITH_PROMPT` or `_WITHOUT_PROMPT`.
        guidance: The number of the guidance that perturbs it; None if none does.
    """

    name: str
    condition: int
    guidance: int | None = None


class SmoothedEnergyGuider(BaseGuidance):  # type: ignore[misc]  # diffusers has no types
    r"""Classifier-free guidance and guidance of this package, in the guider slot of a pipeline.

    $$u + g\,(c - u) + \sum \gamma\,(s - \tilde s)$$

    where $s$ is $c$, or $u$ under `formulation="unconditional"`, and $\tilde s$ the same perturbed.
    Without CFG it is $c + \sum \gamma\,(c - \tilde c)$.

    Guiders of `diffusers` are told the number of a step and its timestep, and no more. Noise levels
    (`steps="sigma:0.5:5"`), estimates of the clean image (SAG), and fractions of the whole schedule
    in image-to-image need the scheduler: set `guider.scheduler = pipe.scheduler`. Without it,
    fractions are those of the steps that are run.

    A guided step costs what it costs elsewhere: the second pass takes over what comes before the
    first chosen layer.

    Args:
        guidance: What is perturbed, where and when: a text such as `"seg; scale=3; layers=mid"`, a
            dict, a guidance, or several of these.
        guidance_scale: CFG's $g$; 1 is no CFG (0 in the original formulation).
        guidance_rescale: How far the result is rescaled by the statistics of $c$, in $[0, 1]$ (Lin
            et al. 2023).
        use_original_formulation: Whether CFG is $c + g\,(c - u)$. The guidance enters alike.
        start: The fraction of the steps before the first with CFG.
        stop: The fraction of the steps up to the last with CFG.
        enabled: Whether anything is guided.

    Attributes:
        guidances: The guidances.
        scheduler: The pipeline's scheduler, if it was set.

    Raises:
        TypeError: If `guidance` is none.
        ValueError: If a setting is outside its set, or a text is not understood.
        LayerError: If the layers of a guidance are a predicate, which can't be saved.

    Example:
        >>> guider = SmoothedEnergyGuider("seg; scale=3; layers=mid", guidance_scale=5.0)
        >>> pipe.update_components(guider=guider)
        >>> image = pipe(prompt="a lighthouse", output="images")[0]
    """

    _input_predictions = ["pred_cond", "pred_uncond"]  # noqa: RUF012 - diffusers wants a list

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        guidance: str | Mapping[str, Any] | Attachable | Sequence[Any] = "seg",
        guidance_scale: float = 7.5,
        guidance_rescale: float = 0.0,
        use_original_formulation: bool = False,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
    ) -> None:
        super().__init__(start, stop, enabled)
        self.guidance_scale = guidance_scale
        self.guidance_rescale = guidance_rescale
        self.use_original_formulation = use_original_formulation
        self.guidances = _read(guidance)
        self.scheduler: Any = None
        for item in self.guidances:
            warn_if_it_changes_nothing(item)
        texts = [guidance_to_text(item) for item in self.guidances]
        # `new` forgets what is listed as a default, and positional arguments are.
        self.register_to_config(
            guidance=texts[0] if len(texts) == 1 else texts, _use_default_values=[]
        )
        self._preparation: Preparation | None = None
        self._begin()

    # What a block calls, in this order.

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        """Where the next batches are in the schedule.

        Args:
            step: The number of the step, from 0; another run begins where it does not rise.
            num_inference_steps: The number of steps.
            timestep: The scheduler's timestep.
        """
        if self._step is None or step <= self._step:
            self._begin()
        super().set_state(step, num_inference_steps, timestep)

    def prepare_inputs(self, data: Mapping[str, Any]) -> list[Any]:
        """The batches of a step; see `BaseGuidance.prepare_inputs`."""
        return self._prepared(lambda batch: self._prepare_batch(data, batch.condition, batch.name))

    def prepare_inputs_from_block_state(
        self, data: Any, input_fields: Mapping[str, Any]
    ) -> list[Any]:
        """The batches of a step; see `BaseGuidance.prepare_inputs_from_block_state`."""
        return self._prepared(
            lambda batch: self._prepare_batch_from_block_state(
                input_fields, data, batch.condition, batch.name
            )
        )

    def prepare_models(self, denoiser: nn.Module) -> None:
        """Prepare the call of the denoiser for the next batch.

        Raises:
            LayerError: If the denoiser has no such layers.
            RuntimeError: If there is no next batch, or guidance is attached to the denoiser.
        """
        self._close()
        if self._count_prepared >= len(self._batches):
            raise RuntimeError(
                f"the denoiser is prepared for batch {self._count_prepared + 1} of "
                f"{len(self._batches)}; expected prepare_inputs, then prepare_models for each of "
                "its batches"
            )
        super().prepare_models(denoiser)
        batch = self._batches[self._count_prepared - 1]
        if batch.guidance is not None:
            handler = functools.partial(self._perturbed, batch)
        elif numbers := self._guidances_of(batch.condition):
            handler = functools.partial(self._clean, denoiser, numbers)
        else:
            return
        self._preparation = Preparation(denoiser, handler)
        # If a block fails before it calls the denoiser, its batches are gone when it is.
        state = self._state() if self._state is not None else None
        if state is not None:
            weakref.finalize(state, self._preparation.close).atexit = False

    def cleanup_models(self, denoiser: nn.Module) -> None:
        """Leave the denoiser as it was."""
        self._close()

    def __call__(self, data: list[Any]) -> Any:
        """The guided prediction of all batches of a step, which hold it as `noise_pred`.

        Raises:
            RuntimeError: If the denoiser was not called for a batch.
            ValueError: If these are not the batches of the step.
        """
        self._close()
        names = [batch.name for batch in self._batches]
        if [getattr(item, self._identifier_key) for item in data] != names:
            raise ValueError(f"expected the predictions {', '.join(names)} of this step, in order")
        for batch in self._batches:
            if batch.guidance is not None and batch.name not in self._given:
                raise RuntimeError(
                    f"the denoiser's forward function was not called for {batch.name}, so the "
                    "result would be unguided; expected a block that calls the denoiser it prepares"
                )
        return self.forward(
            **{getattr(item, self._identifier_key): item.noise_pred for item in data}
        )

    def forward(
        self, pred_cond: Tensor, pred_uncond: Tensor | None = None, **perturbed: Tensor
    ) -> Any:
        """The guided prediction.

        Args:
            pred_cond: $c$, `(B, *)`.
            pred_uncond: $u$; None at steps without CFG.
            **perturbed: The perturbed predictions by the names of their batches.
        """
        prediction = pred_cond
        # c + g (c - u) is u + (g + 1) (c - u).
        scale = self.guidance_scale + (1 if self.use_original_formulation else 0)
        if pred_uncond is not None:
            base = pred_cond if self.use_original_formulation else pred_uncond
            prediction = base + self.guidance_scale * (pred_cond - pred_uncond)
        corrections = []
        for number, gamma in self._scales.items():
            guidance = self._correction(number)
            clean = pred_cond
            if pred_uncond is not None and guidance.formulation == "unconditional":
                clean = pred_uncond
            delta = gamma * self._difference(number, clean, perturbed)
            predictions = Predictions(clean, pred_cond, pred_uncond, scale)
            corrections.append(Correction(delta, as_combinations(guidance.combine), predictions))
        if corrections:
            prediction = prediction + total(corrections, lambda: self._places)
        if self.guidance_rescale > 0:
            prediction = rescale_noise_cfg(prediction, pred_cond, self.guidance_rescale)
        self._end_step()
        return GuiderOutput(pred=prediction, pred_cond=pred_cond, pred_uncond=pred_uncond)

    # What a block asks.

    @property
    def is_conditional(self) -> bool:
        """Whether the batch for which the denoiser is prepared has the prompt."""
        prepared = self._batches[: self._count_prepared]
        return bool(prepared) and prepared[-1].condition == _WITH_PROMPT

    @property
    def num_conditions(self) -> int:
        """How many prompts a run needs: 2 if it has a step with CFG, else 1.

        It is not the number of batches of a step, and does not depend on the step: blocks ask it
        before the first step of a run, when the state is that of the last run.
        """
        return 2 if self._enabled and not self._cfg_is_neutral else 1

    # Steps.

    def _begin(self) -> None:
        """Forget what earlier steps were like: other images begin."""
        self._close()
        self._batches: list[_Batch] = []
        self._state: weakref.ref[Any] | None = None
        self._scales: dict[int, float] = {}
        self._guided: GuidedDenoiser | None = None
        self._plans: dict[int, Plan] = {}
        self._places: Places = ChannelsFirst()
        self._memories = {
            number: Memory(cast(Guidance, guidance))
            for number, guidance in enumerate(self.guidances)
            if not guidance.limits_cfg
        }
        self._steps = 0
        self._guided_steps: Counter[int] = Counter()
        self._steps_without_cfg: Counter[int] = Counter()
        self._reached: defaultdict[int, set[str]] = defaultdict(set)
        self._warned = False
        # What the denoiser is to return for the perturbed batches.
        self._outputs: dict[int, Any] = {}
        self._given: set[str] = set()

    def _prepared(self, batch_of: Callable[[_Batch], Any]) -> list[Any]:
        """The batches that this step needs, made by a function."""
        self._close()
        self._outputs.clear()
        self._given.clear()
        self._count_prepared = 0
        limiting = self._limiting_cfg()
        self._steps_without_cfg.update(limiting)
        memories = self._memories if self._enabled else {}
        scales = {number: memory.scale(self._position) for number, memory in memories.items()}
        self._scales = {number: scale for number, scale in scales.items() if scale}
        self._batches = [_Batch("pred_cond", _WITH_PROMPT)]
        if self._cfg_is_on and not limiting:
            self._batches.append(_Batch("pred_uncond", _WITHOUT_PROMPT))
        for number in self._scales:
            condition = self._condition_of(number)
            if self._memories[number].holds(condition):
                continue  # The last difference is used again.
            self._batches.append(_Batch(f"pred_perturbed_{number}", condition, number))
        prepared = [batch_of(batch) for batch in self._batches]
        self._state = weakref.ref(prepared[0])
        return prepared

    def _condition_of(self, number: int) -> int:
        """The condition of the batch of this step that a guidance perturbs."""
        cfg = any(batch.condition == _WITHOUT_PROMPT for batch in self._batches)
        unconditional = cfg and self._correction(number).formulation == "unconditional"
        return _WITHOUT_PROMPT if unconditional else _WITH_PROMPT

    @property
    def _cfg_is_neutral(self) -> bool:
        return math.isclose(self.guidance_scale, 0.0 if self.use_original_formulation else 1.0)

    @property
    def _cfg_is_on(self) -> bool:
        """Whether this step has CFG if no interval turns it off."""
        if not self._enabled or self._cfg_is_neutral:
            return False
        if self._step is not None:
            if self._step < int(self._start * self._num_inference_steps):
                return False
            # Schedulers of second order have more steps than they are asked for.
            if self._stop < 1 and self._step >= int(self._stop * self._num_inference_steps):
                return False
        return True

    def _limiting_cfg(self) -> list[int]:
        """The numbers of the intervals that turn this step's CFG off."""
        if not self._cfg_is_on:
            return []
        return [
            number
            for number, item in enumerate(self.guidances)
            if item.limits_cfg
            and not item.is_off
            and not cast(GuidanceInterval, item).keeps_cfg(self._position())
        ]

    def _correction(self, number: int) -> Guidance:
        return cast(Guidance, self.guidances[number])

    def _position(self) -> StepPosition:
        """Where the step is in its schedule."""
        if self._step is None:
            raise RuntimeError(
                "a guidance that is not alike at all steps needs to know the step; "
                "expected set_state(step, num_inference_steps, timestep) before it"
            )
        if self.scheduler is not None:
            return schedule_position(self.scheduler, self._timestep)
        if self._step >= self._num_inference_steps:
            raise ValueError(
                f"step {self._step} of {self._num_inference_steps}: this scheduler has more "
                "timesteps than steps; expected guider.scheduler = pipe.scheduler, which knows them"
            )
        timestep = None if self._timestep is None else float(self._timestep)
        return StepPosition(self._step, self._num_inference_steps, None, timestep)

    def _difference(self, number: int, clean: Tensor, perturbed: Mapping[str, Tensor]) -> Tensor:
        """The difference of a clean and the perturbed prediction, or the last one again."""
        name = f"pred_perturbed_{number}"
        if name not in perturbed:
            return self._memories[number].use()
        difference = clean - perturbed[name]
        self._memories[number].keep(difference, self._condition_of(number))
        return difference

    def _is_last_step(self) -> bool:
        if self._step is None or self._step + 1 < self._num_inference_steps:
            return False
        # Schedulers of second order have more steps than they are asked for.
        if self.scheduler is not None and self._timestep is not None:
            return bool(float(self._timestep) == float(self.scheduler.timesteps[-1]))
        return bool(self._step + 1 == self._num_inference_steps)

    def _end_step(self) -> None:
        """Forget what this step alone needs; after the last step, warn if nothing was guided."""
        self._outputs.clear()
        self._steps += 1
        self._guided_steps.update(self._scales)
        if not self._enabled or not self._is_last_step() or self._warned:
            return
        self._warned = True
        for number, guidance in enumerate(self.guidances):
            without_cfg = self._steps_without_cfg[number]
            guided = self._guided_steps[number]
            if guidance.limits_cfg and not self._cfg_is_neutral:
                guided = self._steps - without_cfg
            layers = frozenset(self._reached[number])
            warn_if_idle(
                guidance, RunSummary(self._steps, guided, layers, calls_without_cfg=without_cfg)
            )

    # Calls of the denoiser.

    def _close(self) -> None:
        if self._preparation is not None:
            self._preparation.close()
            self._preparation = None

    def _guidances_of(self, condition: int) -> list[int]:
        """The guidances that perturb a condition at this step."""
        return [
            batch.guidance
            for batch in self._batches
            if batch.guidance is not None and batch.condition == condition
        ]

    def _clean(
        self,
        denoiser: nn.Module,
        numbers: list[int],
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The call for a batch that some guidances perturb, and their perturbed passes."""
        if any(number in self._outputs for number in numbers):
            raise RuntimeError(
                "the denoiser was called twice for one batch; expected a block that calls it once "
                "for each"
            )
        if kwargs.get("kv_cache") is not None:
            raise RuntimeError(
                "the denoiser is given a kv_cache, which a perturbed pass would change; "
                "expected a run without one"
            )
        if self._guided is None or self._guided.denoiser is not denoiser:
            self._guided = GuidedDenoiser(denoiser)
            self._plans.clear()
        plans = {number: self._plan(number, self._guided) for number in numbers}
        kind = OutputKind()
        if self.scheduler is not None:
            kind = OutputKind(has_learned_variance(self), prediction_type(self, denoiser))
        # All rows of a batch have one condition.
        call = DenoiserCall(tuple(plans.values()), BatchLayout(), self._position, kind=kind)
        with self._guided.patches(call.plans):
            result = self._guided.run(call, forward, args, kwargs)
        if need_places(one for plan in plans.values() for one in plan.combinations):
            # Steps without a second pass ask for it, too.
            self._places = result.places()
        for number, plan in plans.items():
            self._reached[number] |= result.reached[plan]
            self._memories[number].note(functools.partial(result.similarity, plan))
            perturbed = result.prediction[:, : result.channels] - result.differences[plan]
            variance = result.prediction[:, result.channels :]
            self._outputs[number] = with_prediction(
                result.output, torch.cat([perturbed, variance], dim=1)
            )
        return result.output

    def _perturbed(
        self,
        batch: _Batch,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The call for a perturbed batch, whose prediction is known by now."""
        assert batch.guidance is not None
        if batch.guidance not in self._outputs:
            raise RuntimeError(
                f"the denoiser was called for {batch.name}, but not before for the batch that it "
                "perturbs; expected a block that calls it once for each batch, in their order"
            )
        self._given.add(batch.name)
        return self._outputs.pop(batch.guidance)

    def _plan(self, number: int, guided: GuidedDenoiser) -> Plan:
        if number not in self._plans:
            plan = self._correction(number).plan(guided.denoiser)
            self._plans[number] = CacheStates(guided.model).apart(plan)
        return self._plans[number]


def _read(value: Any) -> tuple[Attachable, ...]:
    """Guidances from any of their forms."""
    if isinstance(value, Attachable):
        return (value,)
    if isinstance(value, str):
        return (guidance_from_text(value),)
    if isinstance(value, Mapping):
        return (guidance_from_dict(value),)
    if isinstance(value, Sequence):
        return tuple(found for item in value for found in _read(item))
    raise TypeError(
        f"guidance={value!r} is none; expected a text such as 'seg; scale=3; layers=mid', a dict, "
        "a guidance, or a list of these"
    )
