r"""A guider: CFG and guidance of this package, for pipelines of Modular Diffusers.

A denoise block asks its guider for batches, prepares the guider and calls the denoiser for each of
them, and lets the guider combine the predictions: $c$ with the prompt, $u$ without it, and one
perturbed prediction for each guidance. In this way a block may do with predictions what it likes
before they are combined (cut, negate), and does the same with all of them.
"""

from __future__ import annotations

__all__ = ["SmoothedEnergyGuider"]

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusers.configuration_utils import register_to_config
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput, rescale_noise_cfg
from torch import Tensor, nn
from typing_extensions import Self, override

from ...guidance import Guidance
from ...methods import as_guidances, guidance_to_text
from ..attach import warn_if_it_changes_nothing
from ..negative_text import refuse_to_encode
from ..refused import guider_slots
from .guider_session import GuiderSession
from .guider_step import GuiderStep
from .preparation import Preparation


class SmoothedEnergyGuider(BaseGuidance):  # type: ignore[misc]  # diffusers has no types
    r"""Classifier-free guidance and guidance of this package, in the guider slot of a pipeline.

    $$u + g\,(c - u) + \sum \gamma\,(s - \tilde s)$$

    where $s$ is $c$, or $u$ under `formulation="unconditional"`, and $\tilde s$ the same perturbed.
    Without CFG it is $c + \sum \gamma\,(c - \tilde c)$.

    Guiders of `diffusers` are told the number of a step and its timestep alone. Noise levels,
    estimates of the clean image (SAG), and fractions of the whole schedule in image-to-image need
    the scheduler: set `guider.scheduler = pipe.scheduler`.

    Args:
        guidance: What is perturbed, where and when: a text such as `"seg; scale=3; layers=mid"`, a
            dict, a guidance, or several of these.
        guidance_scale: CFG's $g$; 1 is no CFG (0 in the original formulation).
        guidance_rescale: How far the result is rescaled by the statistics of $c$, in $[0, 1]$.
        use_original_formulation: Whether CFG is $c + g\,(c - u)$. The guidance enters alike.
        start: The fraction of the steps before the first with CFG.
        stop: The fraction of the steps up to the last with CFG.
        enabled: Whether anything is guided.

    Attributes:
        guidances: The guidances.
        scheduler: The pipeline's scheduler, if it was set.
        session: Who looks at its steps.
        spatio_temporal_guidance_blocks: Of LTX-2, where its audio guider has such guidance.

    Raises:
        TypeError: If `guidance` is none.
        ValueError: If a setting is outside its set, or a text is not understood.
        RuntimeError: If a guidance has a prompt that has to be encoded.

    Example:
        >>> guider = SmoothedEnergyGuider("seg; scale=3; layers=mid", guidance_scale=5.0)
        >>> guider.put_into(pipe)
        >>> image = pipe(prompt="a lighthouse", output="images")[0]
    """

    spatio_temporal_guidance_blocks: list[int] | None = None
    _input_predictions = ["pred_cond", "pred_uncond"]  # noqa: RUF012 - diffusers wants a list

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(  # noqa: PLR0913 - the settings of a guider
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
        self._scheduler: Any = None
        self._pipeline: Callable[[], Any] = _nothing
        self._without_text = ""
        texts = []
        for item in self.guidances:
            refuse_to_encode(item, "blocks encode no other prompt for a guider")
            try:
                texts.append(guidance_to_text(item))
            except ValueError as error:  # It can be used, and not be saved.
                self._without_text = f"{item.method}: {error}"
                texts.append(f"{item.method} as it was given")
            warn_if_it_changes_nothing(item)
        # `new` forgets what is listed as a default, and positional arguments are.
        self.register_to_config(
            guidance=texts[0] if len(texts) == 1 else texts, _use_default_values=[]
        )
        self._preparation: Preparation | None = None
        self._beside_others = False
        self.session = GuiderSession()
        self._begin()

    @override
    def new(self, **settings: Any) -> Self:
        if self._without_text:
            settings.setdefault("guidance", list(self.guidances))
        made: Self = super().new(**settings)
        return made

    @override
    def save_config(self, *args: Any, **settings: Any) -> None:
        """Save the settings.

        Raises:
            ValueError: If a guidance has no text.
        """
        if self._without_text:
            raise ValueError(f"this guider can't be saved: {self._without_text}")
        super().save_config(*args, **settings)

    def put_into(self, pipeline: Any) -> Self:
        """Make it the guider of a pipeline, in all its slots, and tell it the scheduler.

        Wan 2.2 has two slots, one for each of its transformers. LTX-2 has another guider for the
        sound, which stays as it is.

        Args:
            pipeline: A pipeline of Modular Diffusers.

        Returns:
            The guider.

        Raises:
            TypeError: If it is no such pipeline.
            RuntimeError: If its blocks call no guider, or only parts of one.
            ValueError: If a guidance is of predictions, and its blocks combine something else.
        """
        slots = guider_slots(pipeline)
        if "audio_guider" in pipeline._component_specs:
            _refuse_zero_steps(self.guidances)
            self._beside_others = True
            name = "spatio_temporal_guidance_blocks"
            self.spatio_temporal_guidance_blocks = getattr(pipeline.guider, name, None)
        pipeline.update_components(**dict.fromkeys(slots, self))
        self._pipeline = weakref.ref(pipeline)
        return self

    @property
    def scheduler(self) -> Any:
        """The scheduler: one that was set, or the one that the pipeline has now; None if neither.

        A pipeline's may be replaced, or not be loaded yet, when the guider is put into it.
        """
        if self._scheduler is not None:
            return self._scheduler
        return getattr(self._pipeline(), "scheduler", None)

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        """Where the next batches are in the schedule; another run begins where `step` falls."""
        if self._step is None or step <= self._step:
            self._begin()
        super().set_state(step, num_inference_steps, timestep)

    @override
    def prepare_inputs(self, data: Mapping[str, Any]) -> list[Any]:
        return self._prepared(functools.partial(self._prepare_batch, data))

    @override
    def prepare_inputs_from_block_state(
        self, data: Any, input_fields: Mapping[str, Any]
    ) -> list[Any]:
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
        if self._beside_others and self._count_prepared >= len(self._run.batches):
            super().prepare_models(denoiser)
            return  # It is another guider's.
        batch = self._run.next(self._count_prepared)
        super().prepare_models(denoiser)
        if batch.perturbed_by is not None:
            handler = functools.partial(self._run.hand_out, batch)
        elif self._run.needs(batch):
            handler = functools.partial(self._run.predict, batch, GuiderStep(self, denoiser))
        else:
            return
        self._preparation = Preparation(denoiser, handler)
        self._preparation.close_with(self._state and self._state())

    @override
    def cleanup_models(self, denoiser: nn.Module) -> None:
        self._close()

    def __call__(self, data: list[Any]) -> Any:
        """The guided prediction of all batches of a step, which hold it as `noise_pred`.

        Raises:
            RuntimeError: If the denoiser was not called for a batch.
            ValueError: If these are not the batches of the step.
        """
        self._close()
        found = {getattr(item, self._identifier_key): item.noise_pred for item in data}
        self._run.check(tuple(found))
        return self.forward(**found)

    def forward(
        self, pred_cond: Tensor, pred_uncond: Tensor | None = None, **perturbed: Tensor
    ) -> Any:
        """The guided prediction of $c$, $u$ at steps with CFG, and perturbed ones, `(B, *)`."""
        prediction = pred_cond
        if pred_uncond is not None:
            base = pred_cond if self.use_original_formulation else pred_uncond
            prediction = base + self.guidance_scale * (pred_cond - pred_uncond)
        step = GuiderStep(self)
        combined = self._run.combined(pred_cond, pred_uncond, step, perturbed)
        if combined.guided is not None:
            prediction = combined.guided.to(prediction.dtype)
        elif combined.delta is not None:
            prediction = prediction + combined.delta
        if self.guidance_rescale > 0:
            prediction = rescale_noise_cfg(prediction, pred_cond, self.guidance_rescale)
        self._run.finish(prediction, step.cfg_scale, is_last=self._enabled and step.is_last)
        return GuiderOutput(pred=prediction, pred_cond=pred_cond, pred_uncond=pred_uncond)

    def active_predictions(self) -> list[str]:
        """The names of a step's predictions: LTX-2's blocks, which have two guiders, ask for it."""
        return [batch.name for batch in self._run.batches]

    @property
    def is_conditional(self) -> bool:
        """Whether the batch for which the denoiser is prepared has the prompt."""
        return self._count_prepared > 0 and self._run.next(self._count_prepared - 1).condition == 0

    @property
    def num_conditions(self) -> int:
        """How many prompts a run needs: 2 if it has a step with CFG, else 1.

        Blocks ask it before the first step of a run, when the state is that of the last run.
        """
        return 2 if self._enabled and GuiderStep(self).run_has_cfg else 1

    def _begin(self) -> None:
        """Forget what earlier steps were like: other images begin."""
        self._close()
        self._run = self.session.begin(self.guidances)
        self._state: weakref.ref[Any] | None = None

    def _prepared(self, batch_of: Callable[[int, str], Any]) -> list[Any]:
        """The batches that this step needs, made by a function of condition and name."""
        self._close()
        self._count_prepared = 0
        self._run.prepare(GuiderStep(self), enabled=self._enabled)
        prepared = [batch_of(batch.condition, batch.name) for batch in self._run.batches]
        self._state = weakref.ref(prepared[0])
        return prepared

    def _close(self) -> None:
        if self._preparation is not None:
            self._preparation.close()
            self._preparation = None


def _refuse_zero_steps(guidances: Sequence[Guidance]) -> None:
    for guidance in guidances:
        if getattr(guidance, "zero_steps", 0):
            raise ValueError(
                f"{guidance!r} predicts 0 at its first steps, and the blocks of this pipeline "
                "combine estimates of clean latents, of which 0 is another thing; expected "
                "zero_steps=0"
            )


def _nothing() -> None:
    return None
