"""One pass of a denoiser: what may be asked in it, what is done at calls, and what comes of it."""

from __future__ import annotations

__all__ = [
    "CleanPass",
    "FeatureMaps",
    "Outcome",
    "Pass",
    "PassSite",
    "PerturbedPrediction",
    "check_reached",
]

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout, Formulation
from ..denoisers.image_tokens import ImageTokens
from ..denoisers.latent_layout import LatentLayout
from ..denoisers.prediction import PredictionKind
from ..families import Arguments, Family
from ..guidance.perturbation import LayerCall, LayerSite
from ..guidance.plan import Memory, NegativeContext, Plan
from ..intercept.module_call import ModuleCall, Rows
from ..intercept.patching import Router
from ..intercept.replay import Recorder, Stem
from ..schedule import StepPosition
from .altered import Acting, AlteredPass
from .context import StepContext


class FeatureMaps:
    """Height and width of the feature maps that a U-Net turns into tokens, seen as they enter.

    A layer sees a row of tokens. How many they are does not tell how they lie: other packages
    shrink feature maps inside of blocks, merge tokens, or attend in tiles.

    Args:
        entered: The modules that feature maps enter, and the names of the layers inside.

    Attributes:
        sizes: What was seen so far, by layer; None of a layer that no map entered.
    """

    def __init__(self, *entered: Mapping[nn.Module, Sequence[str]]) -> None:
        self._entered: dict[nn.Module, list[str]] = {}
        for modules in entered:
            for module, names in modules.items():
                self._entered.setdefault(module, []).extend(names)
        self.sizes: dict[str, tuple[int, int] | None] = {
            name: None for names in self._entered.values() for name in names
        }

    def note(self, call: ModuleCall) -> None:
        """Note what enters a module: `(B, C, H, W)`."""
        names = self._entered.get(call.module)
        if not names:
            return
        value = call.args[0] if call.args else call.argument(call.parameters[0])
        if isinstance(value, Tensor) and value.ndim == 4:
            self.sizes.update(dict.fromkeys(names, (value.shape[-2], value.shape[-1])))


class Pass:
    """One run of a denoiser.

    Args:
        site: What edits and probes may ask.
        features: Notes the sizes of feature maps.
        edited: The plan whose modules are edited; None in the clean pass.
        watched: Plans whose probes observe.
        otherwise: What is done with calls that are not edited: they are recorded, or replayed.
        altered: What changes calls before anything else is done with them.

    Attributes:
        reached: The names of the layers that were edited.
        called: The modules that were called, as far as calls of theirs are decided about.
        observed: What the probe of each plan kept of each layer.
    """

    def __init__(
        self,
        site: LayerSite,
        features: FeatureMaps,
        *,
        edited: Plan | None = None,
        watched: Sequence[Plan] = (),
        otherwise: Router = ModuleCall.__call__,
        altered: AlteredPass | None = None,
    ) -> None:
        self.site, self._features = site, features
        self.reached: set[str] = set()
        self.called: set[nn.Module] = set()
        self.observed: dict[Plan, dict[str, Tensor]] = {plan: {} for plan in watched}
        self._edits: Mapping[nn.Module, str] = {} if edited is None else edited.edits
        self._perturbation = None if edited is None else edited.perturbation
        self._watched = watched
        self._otherwise = otherwise
        self._altered = altered

    def handle(self, call: ModuleCall) -> Any:
        """One call of a module of the denoiser; see `intercept.patching.Router`."""
        self.called.add(call.module)
        self._features.note(call)
        if self._altered is not None:
            call = self._altered.altered(call, self.site)
        layer = self._edits.get(call.module)
        if layer is not None and self._perturbation is not None:
            self.reached.add(layer)
            return self._perturbation.run(LayerCall(layer, call, self.site))
        if self._watched:
            call = self._observed(call)
        return self._otherwise(call)

    def _observed(self, call: ModuleCall) -> ModuleCall:
        """The same call, observed by the probes of all plans that watch its module."""
        plans = [plan for plan in self._watched if call.module in plan.probed]
        for probe in dict.fromkeys([plan.probe for plan in plans]):
            alike = [plan for plan in plans if plan.probe == probe]
            call = call.with_forward(functools.partial(self._observe, alike, call))
        return call

    def _observe(self, plans: Sequence[Plan], call: ModuleCall, *args: Any, **kwargs: Any) -> Any:
        """What a module gives, observed by a probe that some plans share."""
        layer, probe = plans[0].probed[call.module], plans[0].probe
        assert probe is not None
        output, kept = probe.run(LayerCall(layer, call, self.site))
        if self._altered is not None:
            kept = self._altered.without_added(kept)
        for plan in plans:
            # A block that is perturbed within the pass runs once more, for these rows alone.
            self.observed[plan].setdefault(layer, kept)
        return output


@dataclass(frozen=True)
class Outcome:
    r"""What one call of a denoiser gave; nothing is corrected yet.

    Args:
        output: What the denoiser returned.
        prediction: All rows of the clean prediction, with a learned variance.
        channels: How many channels of it are a prediction; the rest is a learned variance.
        latent_layout: How the prediction lies; asked only if that matters.
        family: The denoiser's, which knows how it returns a prediction.
        clean: For each plan, $s$.
        differences: For each plan, $s - \tilde s$.
        reached: For each plan, the names of the layers that were edited or observed.
        runs: For each plan, how often the denoiser ran for its negative prediction, at least once.
        observed: For each plan, what its probe kept of each layer in the clean pass, all rows.
    """

    output: Any
    prediction: Tensor
    channels: int
    latent_layout: Callable[[], LatentLayout]
    family: Family
    clean: dict[Plan, Tensor] = field(default_factory=dict)
    differences: dict[Plan, Tensor] = field(default_factory=dict)
    reached: dict[Plan, set[str]] = field(default_factory=dict)
    runs: dict[Plan, int] = field(default_factory=dict)
    observed: dict[Plan, Mapping[str, Tensor]] = field(default_factory=dict)

    def with_prediction(self, prediction: Tensor) -> Any:
        """What the denoiser returned, with another prediction."""
        return self.family.with_prediction(self.output, prediction)

    def similarity(self, plan: Plan) -> float:
        """The cosine of the clean and the perturbed prediction, of the least similar sample."""
        clean = self.clean[plan].float().flatten(1)
        perturbed = clean - self.differences[plan].float().flatten(1)
        return float(torch.nn.functional.cosine_similarity(clean, perturbed).min())


class PassSite:
    """What an edited or observed layer may ask of its pass; see `LayerSite`.

    Args:
        denoiser: The denoiser, not compiled.
        family: Its family.
        layers: Gives its layers by their names.
        arguments: The arguments of the denoiser's call, all rows, in the pass.
        rows: The rows of the pass.
        context: The step.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        family: Family,
        layers: Callable[[], Mapping[str, SelfAttentionLayer]],
        arguments: Arguments,
        rows: Rows,
        context: StepContext,
    ) -> None:
        self.denoiser, self.family, self.layers = denoiser, family, layers
        self.arguments, self.rows, self.context = arguments, rows, context

    @property
    def attends_in_blocks(self) -> bool:
        """Whether a layer attends in blocks of queries."""
        return self.family.attends_in_blocks

    @property
    def returns_none(self) -> bool:
        """Whether a block returns what a call leaves out as None."""
        return self.family.returns_none

    def image_tokens(self, layer: str, count: int) -> ImageTokens:
        """Which of the `count` tokens of a layer are the image's, in the rows of the pass."""
        found = self.family.tokens(self.denoiser, self.arguments, layer, count)
        if isinstance(found.start, int):
            return found
        return replace(found, start=found.start[self.rows.start : self.rows.stop])

    def beside_text(self, layer: str, count: int) -> tuple[tuple[int, ...], int]:
        """Where the tokens begin that are not of the text, in each row, and how many there are."""
        start, length = self.family.beside_text(self.denoiser, self.arguments, layer, count)
        if isinstance(start, int):
            return (start,) * (self.rows.stop - self.rows.start), length
        return start[self.rows.start : self.rows.stop], length

    def modulates(self, layer: str) -> bool:
        """Whether a layer's module does more than attend, which follows from the text."""
        return self.family.modulates(self.layers()[layer])

    def position(self) -> StepPosition:
        """Where the step is in its schedule."""
        return self.context.position()

    def outputs(self, layer: str, module: nn.Module) -> tuple[str, ...]:
        """The names of the inputs that a module returns changed, in the order of its outputs."""
        return self.family.outputs(self.denoiser, self.layers()[layer], module)


class PerturbedPrediction(NegativeContext):
    """What the negative prediction of a plan is made from, in one call of a denoiser.

    Args:
        plan: The plan.
        call: The call, with the rows of the pass.
        site: What the pass may be asked.
        run: Makes a call in which the modules of the plan are edited; it is told the number of the
            call in this step, from 1.
        branch: Which prediction it is a negative of: with the prompt where there is no CFG.
        altered: What else is changed in the pass.

    Attributes:
        passes: How many such calls there were.
    """

    def __init__(
        self,
        plan: Plan,
        call: ModuleCall,
        site: PassSite,
        run: Callable[[ModuleCall, int], Any],
        branch: Formulation = "conditional",
        altered: AlteredPass | None = None,
    ) -> None:
        self.call, self._branch, self._altered = call, branch, altered
        self.sample = site.family.latents(Arguments(call.argument))
        self.observed: Mapping[str, Tensor] = {}
        self._plan, self._site, self._run = plan, site, run
        self.passes = 0

    @property
    @override
    def prediction_type(self) -> PredictionKind:
        return self._site.context.output_kind().prediction_type

    @property
    @override
    def memory(self) -> Memory:
        if self._plan.memory is None:
            raise RuntimeError("this plan remembers nothing; expected one with remembers=True")
        found: Memory = self._plan.memory.setdefault(self._branch, {})
        return found

    @override
    def predict(self, call: ModuleCall) -> Tensor:
        self.passes += 1
        # Lists of arguments may be consumed, and there may be another pass.
        output = self._run(call.copied(), self.passes)
        return self._site.family.prediction_in(output, Arguments(call.argument))

    @override
    def of_sample(self, sample: Tensor) -> Tensor:
        site, call = self._site, self._site.family.with_latents(self.call, sample)
        if sample.shape == self.sample.shape:
            return self.predict(call)
        # What layers ask is answered by latents of another size, in the rows of this pass alone.
        before = site.arguments, site.rows
        whole = call if self._altered is None else self._altered.with_added(call)
        rows = before[1].stop - before[1].start
        site.arguments = Arguments(whole.argument).in_pass(before[0].features)
        site.rows = Rows(0, rows, rows)
        try:
            return self.predict(call)
        finally:
            site.arguments, site.rows = before

    @override
    def told_later(self, by: float) -> ModuleCall:
        family, position = self._site.family, self._site.context.position()
        known = position.timestep
        # No schedule that counts to 1000 is there before its last step, unless it has a thousand.
        if known is not None and known <= 2 and position.index + 1 < position.count < 250:
            raise ValueError(
                f"step {position.index} of {position.count} is at the timestep {known:g}: this "
                "schedule does not count to 1000, so what a later time is is not known"
            )
        time = family.later(self._site.denoiser, self.call.argument(family.time), by)
        return self.call.replace(family.time, time)

    @override
    def image_tokens(self, layer: str, count: int) -> ImageTokens:
        return self._site.image_tokens(layer, count)

    @override
    def position(self) -> StepPosition:
        return self._site.position()

    @property
    @override
    def tied_to_size(self) -> tuple[str, ...]:
        return self._site.family.tied(self._site.arguments)

    @property
    @override
    def multiple(self) -> int:
        return self._site.family.multiple(self._site.denoiser)


@dataclass(frozen=True, eq=False)
class CleanPass:
    """The clean pass of a step, and what its perturbed passes take from it.

    Args:
        call: The call of the denoiser, as it was before it was made.
        layout: The meaning of its rows.
        site: The pass.
        called: The modules that were called in it.
        outcome: What it gave.
        recorder: What is replayed, if anything.
        stems: The stem of each plan that replays.
        acting: The alterations of all passes.
    """

    call: ModuleCall
    layout: BatchLayout
    site: PassSite
    called: set[nn.Module]
    outcome: Outcome
    recorder: Recorder | None
    stems: Mapping[Plan, Stem]
    acting: Sequence[Acting]


def check_reached(
    plan: Plan, reachable: set[str], called: Collection[nn.Module], reached: set[str]
) -> None:
    """Check that a perturbed pass reached what the clean pass, or an earlier one, reached.

    Args:
        plan: The plan.
        reachable: The layers that earlier passes of it reached; those of this one are added.
        called: The modules that were called in the clean pass.
        reached: The layers that the perturbed pass reached.

    Raises:
        RuntimeError: If it did not.
    """
    reachable |= reached
    if len(reachable) < len(plan.edits):
        reachable.update(name for module, name in plan.edits.items() if module in called)
    missing = sorted(reachable - reached)
    if missing:
        raise RuntimeError(
            f"{', '.join(missing)} was not reached in the second pass, but in a pass before: "
            "something gives the results of one pass to another, a cache for instance; expected a "
            "denoiser without it"
        )
