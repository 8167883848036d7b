"""What happens at the calls of the denoisers of a run, and is remembered from one to the next."""

from __future__ import annotations

__all__ = ["Run", "RunSummary"]

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ..denoisers.cfg_batch import BatchLayout, pair_layout
from ..denoisers.prediction import OutputKind, repeat_output, with_prediction
from ..guidance.plan import Plan
from ..schedule.steps import StepPosition
from .caches import CacheStates
from .history import Memory
from .passes import DenoiserCall, DenoiserResult, GuidedDenoiser, correct

if TYPE_CHECKING:
    from ..guidance.cfg_rules.interval import GuidanceInterval
    from ..guidance.guidance import Guidance
    from ..integrations.attachment import Attachment


@dataclass(frozen=True)
class RunSummary:
    """What one attached guidance did in one run.

    Args:
        calls: How often the denoiser was called while the guidance was attached.
        guided_calls: How many of these calls had a second pass of this guidance.
        layers: The names of the layers that were perturbed.
        reused_calls: How many of these calls used the difference of predictions of an earlier one.
        calls_without_cfg: In how many of these calls it took classifier-free guidance away.
    """

    calls: int = 0
    guided_calls: int = 0
    layers: frozenset[str] = frozenset()
    reused_calls: int = 0
    calls_without_cfg: int = 0


@dataclass(frozen=True)
class _ConditionalCall:
    """A call of the denoiser with the prompt, until the one without it comes."""

    scales: dict[Attachment, float]
    result: DenoiserResult


class Run:
    """The calls of the denoisers of a run, from first to last, and what happened in them.

    A plan belongs to one denoiser, and so does all that is remembered from one call to the next.
    """

    def __init__(self, *denoisers: nn.Module) -> None:
        self.guided = {denoiser: GuidedDenoiser(denoiser) for denoiser in denoisers}
        self._caches: dict[GuidedDenoiser, CacheStates] = {}
        self._plans: dict[tuple[GuidedDenoiser, Attachment], Plan] = {}
        self._modules: dict[tuple[GuidedDenoiser, Attachment], dict[str, nn.Module]] = {}
        self.calls = 0
        self._calls: Counter[Attachment] = Counter()
        self._guided_calls: Counter[Attachment] = Counter()
        self._reached: defaultdict[Attachment, set[str]] = defaultdict(set)
        self._memories: dict[tuple[GuidedDenoiser, Attachment], Memory] = {}
        self._reused_calls: Counter[Attachment] = Counter()
        # The call with the prompt, where the one without it is a call of its own.
        self._conditional: dict[GuidedDenoiser, _ConditionalCall] = {}
        self._without_cfg: dict[GuidedDenoiser, Any] = {}
        self._calls_without_cfg: Counter[Attachment] = Counter()
        # Denoisers whose next call is the one without the prompt, which the pipeline won't use.
        self._dropped: set[GuidedDenoiser] = set()
        # The number of the last step whose position mattered.
        self._index = 0

    def call(
        self,
        denoiser: nn.Module,
        attachments: Iterable[Attachment],
        position: Callable[[], StepPosition],
        layout: Callable[[int], BatchLayout],
        kind: OutputKind,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """One call of a denoiser, corrected by those attachments that are active.

        `position` and `layout` (of a number of rows) are asked only if the answer matters.
        """
        self.calls += 1
        guided = self.guided[denoiser]
        attachments = tuple(attachments)
        self._calls.update(attachments)
        limits = [item for item in attachments if item.guidance.limits_cfg]
        corrections = [item for item in attachments if item not in limits]
        if all(item.guidance.is_off or _interval(item).keeps_cfg(position()) for item in limits):
            self._guided_calls.update(limits)
            return self._corrected(
                guided, corrections, position, layout, kind, forward, args, kwargs
            )
        batch = len(guided.sample(args, kwargs))
        meaning = layout(batch)
        if meaning.has_cfg:
            self._calls_without_cfg.update(
                item for item in limits if not _interval(item).keeps_cfg(position())
            )
        alone = functools.partial(
            self._corrected, guided, corrections, position, lambda rows: BatchLayout(), kind
        )
        if meaning.separate:
            if guided in self._without_cfg:
                return self._without_cfg.pop(guided)
            self._without_cfg[guided] = alone(forward, args, kwargs)
            return self._without_cfg[guided]
        rows = meaning.rows("conditional", batch)
        with self._caches_of(guided).of("conditional rows"):
            output = alone(forward, *guided.take_rows(args, kwargs, rows, batch))
        return repeat_output(output, meaning.groups)

    def _corrected(
        self,
        guided: GuidedDenoiser,
        attachments: Iterable[Attachment],
        position: Callable[[], StepPosition],
        layout: Callable[[int], BatchLayout],
        kind: OutputKind,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """One call of a denoiser, with the corrections of those attachments that are active."""
        if guided in self._dropped:
            self._dropped.remove(guided)
            return forward(*args, **kwargs)
        earlier = self._conditional.pop(guided, None)
        if earlier is not None:
            scales = earlier.scales
        else:
            found = {item: self._scale(guided, item, position) for item in attachments}
            scales = {item: scale for item, scale in found.items() if scale}
        if not scales:
            return forward(*args, **kwargs)
        plans = {item: self._plan(guided, item) for item in scales}
        by_plan = {plan: scales[item] for item, plan in plans.items()}
        sample = guided.sample(args, kwargs)
        meaning = layout(len(sample))
        if not meaning.separate or meaning.drops_unconditional:
            if earlier is not None:
                raise RuntimeError(
                    f"the {type(guided.denoiser).__name__} was called with a prompt, and the call "
                    "without one, which was to be guided with it, did not come"
                )
            result = self._predicted(guided, plans, meaning, position, kind, forward, args, kwargs)
            corrected = correct(
                result.prediction,
                result.channels,
                by_plan,
                result.differences,
                meaning,
                result.places,
            )
            if meaning.drops_unconditional:
                self._dropped.add(guided)
            return with_prediction(result.output, corrected)

        branch = "conditional" if earlier is None else "unconditional"
        of_branch = {item: plan for item, plan in plans.items() if plan.formulation == branch}
        result = self._predicted(guided, of_branch, meaning, position, kind, forward, args, kwargs)
        if earlier is None:
            self._conditional[guided] = _ConditionalCall(scales, result)
            return result.output
        # What a batch [u, c] would give: only u is corrected, so this works once c is spent, too.
        predictions = torch.cat([result.prediction, earlier.result.prediction])
        differences = {**earlier.result.differences, **result.differences}
        pair = pair_layout(meaning.cfg_scale)
        corrected = correct(predictions, result.channels, by_plan, differences, pair, result.places)
        return with_prediction(result.output, corrected[: len(result.prediction)])

    def _plan(self, guided: GuidedDenoiser, item: Attachment) -> Plan:
        caches = self._caches_of(guided)
        if (guided, item) not in self._plans:
            plan = _correction(item).plan(guided.denoiser, replay=item.replay)
            self._plans[guided, item] = caches.apart(plan)
            self._modules[guided, item] = guided.named_modules_of(plan)
        return self._plans[guided, item]

    def find_layers_again(self) -> None:
        """Make anew the plans for modules that were replaced since the last call."""
        for (guided, item), modules in self._modules.items():
            if guided not in self._conditional and not guided.has_all(modules):
                self._plans.pop((guided, item), None)

    def _caches_of(self, guided: GuidedDenoiser) -> CacheStates:
        if guided not in self._caches:
            self._caches[guided] = CacheStates(guided.model)
        self._caches[guided].check()
        return self._caches[guided]

    def _predicted(
        self,
        guided: GuidedDenoiser,
        plans: Mapping[Attachment, Plan],
        meaning: BatchLayout,
        position: Callable[[], StepPosition],
        kind: OutputKind,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> DenoiserResult:
        """One call of a denoiser, and the second passes of these plans."""
        sample = guided.sample(args, kwargs)
        # Without CFG there is one prediction, and both formulations mean it.
        made_from = {
            plan: (
                sample[meaning.rows(plan.formulation, len(sample))].shape,
                plan.formulation if meaning.has_cfg else "conditional",
            )
            for plan in plans.values()
        }
        memories = {item: self._memory(guided, item) for item in plans}
        known = {
            plan: memories[item].use()
            for item, plan in plans.items()
            if memories[item].holds(made_from[plan])
        }
        call = DenoiserCall(tuple(plans.values()), meaning, position, known, kind)
        with guided.patches(plan for plan in call.plans if plan not in call.known):
            result = guided.run(call, forward, args, kwargs)
        for item, plan in plans.items():
            if plan in call.known:
                self._reused_calls[item] += 1
                continue
            self._guided_calls[item] += 1
            self._reached[item] |= result.reached[plan]
            memories[item].keep(result.differences[plan], made_from[plan])
            memories[item].note(functools.partial(result.similarity, plan))
        return result

    def _memory(self, guided: GuidedDenoiser, item: Attachment) -> Memory:
        if (guided, item) not in self._memories:
            self._memories[guided, item] = Memory(_correction(item))
        return self._memories[guided, item]

    def _scale(
        self, guided: GuidedDenoiser, item: Attachment, position: Callable[[], StepPosition]
    ) -> float:
        """The scale of this step, 0 if it is not guided."""

        def here() -> StepPosition:
            found = position()
            if found.index < self._index:
                self.begin()  # FreeInit goes through the schedule several times in a run
            self._index = found.index
            return found

        return self._memory(guided, item).scale(here)

    def waits_for_unconditional(self, denoiser: nn.Module) -> bool:
        """Whether the last call was with the prompt, and the one without it is to come."""
        guided = self.guided[denoiser]
        return guided in self._conditional or guided in self._without_cfg

    def guides(
        self,
        denoiser: nn.Module,
        attachments: Iterable[Attachment],
        position: Callable[[], StepPosition],
    ) -> bool:
        """Whether a call at this position would be corrected."""
        corrections = (item for item in attachments if not item.guidance.limits_cfg)
        return any(self._scale(self.guided[denoiser], item, position) for item in corrections)

    def skip_unconditional(self) -> None:
        """Expect no call without the prompt that nobody needs: the owner left it out."""
        self._without_cfg.clear()
        self._dropped.clear()

    def begin(self) -> None:
        """Forget what earlier steps of the same calls were like: other images begin."""
        for memory in self._memories.values():
            memory.forget()
        self._conditional.clear()
        self.skip_unconditional()
        for caches in self._caches.values():
            caches.forget()

    def summary(self, attachment: Attachment) -> RunSummary:
        """What `attachment` did so far."""
        return RunSummary(
            self._calls[attachment],
            self._guided_calls[attachment],
            frozenset(self._reached[attachment]),
            self._reused_calls[attachment],
            self._calls_without_cfg[attachment],
        )


def _correction(attachment: Attachment) -> Guidance:
    """The guidance of an attachment that adds a correction."""
    return cast("Guidance", attachment.guidance)


def _interval(attachment: Attachment) -> GuidanceInterval:
    """The interval of an attachment that limits CFG."""
    return cast("GuidanceInterval", attachment.guidance)
