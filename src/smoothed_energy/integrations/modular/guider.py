r"""A guider: CFG and guidance of this package, for pipelines of Modular Diffusers.

A denoise block asks its guider for batches, prepares the guider and calls the denoiser for each of
them, and lets the guider combine the predictions: $c$ with the prompt, $u$ without it, and one
perturbed prediction for each guidance. In this way a block may do with predictions what it likes
before they are combined (cut, negate), and does the same with all of them.
"""

from __future__ import annotations

__all__ = ["SmoothedEnergyGuider"]

import functools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusers.configuration_utils import register_to_config
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput, rescale_noise_cfg
from torch import Tensor, nn

from ...engine.participant import Participant
from ...engine.summary import warn_if_idle, warn_if_it_changes_nothing
from ...guidance import Guidance
from ...methods import as_guidances, guidance_to_text
from .guider_step import GuiderStep
from .preparation import Preparation
from .step_batches import StepBatches


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
        guidance: str | Mapping[str, Any] | Guidance | Sequence[Any] = "seg",
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
        self.guidances = as_guidances(guidance)
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
        return self._prepared(functools.partial(self._prepare_batch, data))

    def prepare_inputs_from_block_state(
        self, data: Any, input_fields: Mapping[str, Any]
    ) -> list[Any]:
        """The batches of a step; see `BaseGuidance.prepare_inputs_from_block_state`."""
        return self._prepared(
            functools.partial(self._prepare_batch_from_block_state, input_fields, data)
        )

    def prepare_models(self, denoiser: nn.Module) -> None:
        """Prepare the call of the denoiser for the next batch.

        Raises:
            LayerError: If the denoiser has no such layers.
            RuntimeError: If there is no next batch, or guidance is attached to the denoiser.
        """
        self._close()
        batches = self._run.batches
        if self._count_prepared >= len(batches):
            raise RuntimeError(
                f"the denoiser is prepared for batch {self._count_prepared + 1} of "
                f"{len(batches)}; expected prepare_inputs, then prepare_models for each of "
                "its batches"
            )
        super().prepare_models(denoiser)
        batch = batches[self._count_prepared - 1]
        if batch.perturbed_by is not None:
            handler = functools.partial(self._run.hand_out, batch)
        elif self._run.is_perturbed(batch):
            handler = functools.partial(
                self._run.predict, batch, GuiderStep(self, denoiser), self._cfg_scale
            )
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
        names = [batch.name for batch in self._run.batches]
        if [getattr(item, self._identifier_key) for item in data] != names:
            raise ValueError(f"expected the predictions {', '.join(names)} of this step, in order")
        self._run.check_given()
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
        if pred_uncond is not None:
            base = pred_cond if self.use_original_formulation else pred_uncond
            prediction = base + self.guidance_scale * (pred_cond - pred_uncond)
        delta = self._run.correction(pred_cond, pred_uncond, self._cfg_scale, perturbed)
        if delta is not None:
            prediction = prediction + delta
        if self.guidance_rescale > 0:
            prediction = rescale_noise_cfg(prediction, pred_cond, self.guidance_rescale)
        self._end_step()
        return GuiderOutput(pred=prediction, pred_cond=pred_cond, pred_uncond=pred_uncond)

    # What a block asks.

    @property
    def is_conditional(self) -> bool:
        """Whether the batch for which the denoiser is prepared has the prompt."""
        prepared = self._run.batches[: self._count_prepared]
        return bool(prepared) and prepared[-1].branch == "conditional"

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
        self._run = StepBatches([Participant(guidance) for guidance in self.guidances])
        self._state: weakref.ref[Any] | None = None
        self._warned = False

    def _prepared(self, batch_of: Callable[[int, str], Any]) -> list[Any]:
        """The batches that this step needs, made by a function of condition and name."""
        self._close()
        self._run.clear()
        self._count_prepared = 0
        self._run.prepare(
            GuiderStep(self),
            enabled=self._enabled,
            cfg=self._cfg_is_on,
            cfg_in_run=not self._cfg_is_neutral,
        )
        prepared = [
            batch_of(0 if batch.branch == "conditional" else 1, batch.name)
            for batch in self._run.batches
        ]
        self._state = weakref.ref(prepared[0])
        return prepared

    @property
    def _cfg_scale(self) -> float:
        # c + g (c - u) is u + (g + 1) (c - u).
        return self.guidance_scale + (1 if self.use_original_formulation else 0)

    @property
    def _cfg_is_neutral(self) -> bool:
        return math.isclose(self.guidance_scale, 0.0 if self.use_original_formulation else 1.0)

    @property
    def _cfg_is_on(self) -> bool:
        """Whether this step has CFG if no rule turns it off."""
        if not self._enabled or self._cfg_is_neutral:
            return False
        if self._step is None:
            return True
        # Schedulers of second order have more steps than they are asked for.
        begun = self._step >= int(self._start * self._num_inference_steps)
        return begun and (
            self._stop == 1 or self._step < int(self._stop * self._num_inference_steps)
        )

    def _end_step(self) -> None:
        """Forget what this step alone needs; after the last step, warn if nothing was guided."""
        self._run.clear()
        if self._enabled and not self._warned and GuiderStep(self).is_last:
            self._warned = True
            for guidance, done in zip(self.guidances, self._run.summaries(), strict=True):
                warn_if_idle(guidance, done)

    def _close(self) -> None:
        if self._preparation is not None:
            self._preparation.close()
            self._preparation = None
