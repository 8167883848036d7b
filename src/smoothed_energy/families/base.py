r"""The base class of families: what guidance must know of a kind of denoiser.

A family answers four questions: which modules are self-attention over image tokens, where in a
sequence the image's tokens are and what grid they form, which rows of a batch (or which calls) are
conditional, and what the denoiser is told of time.
"""

from __future__ import annotations

__all__ = ["Arguments", "Family", "Setting", "Step"]

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar

from torch import Tensor, nn

from ..denoisers.attention_layer import PARTS, SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout, take_rows
from ..denoisers.image_tokens import ImageTokens
from ..denoisers.latent_layout import ChannelsFirst, LatentLayout
from ..denoisers.prediction import prediction_of, with_prediction
from ..intercept.module_call import ModuleCall, Rows, parameter_names
from ..schedule import StepPosition
from .advice import Advice
from .alterable import Alterable

#: The value of a setting of a running pipeline by its name, or a default: its attribute, or the
#: argument of its call.
Setting: TypeAlias = Callable[[str, Any], Any]
#: The position of a step, found when it is asked for.
Step: TypeAlias = Callable[[], StepPosition]

_Answer = TypeVar("_Answer")


class Arguments:
    """The arguments of one call of a denoiser.

    Args:
        find: The value of an argument by its name; None if it was not given.

    Attributes:
        features: The height and width of the feature maps that layers make tokens of, as they were
            seen in a pass: None of a layer that none was seen of. Empty where no pass is.
    """

    def __init__(self, find: Callable[[str], Any]) -> None:
        self._find = find
        self._answers: dict[Callable[..., Any], Any] = {}
        self.features: Mapping[str, tuple[int, int] | None] = {}

    def in_pass(self, features: Mapping[str, tuple[int, int] | None]) -> Arguments:
        """The same arguments in one of the passes of the call."""
        found = Arguments(self._find)
        found._answers, found.features = self._answers, features
        return found

    def __call__(self, name: str) -> Any:
        """The value of an argument by its name; None if it was not given."""
        return self._find(name)

    def once(
        self, question: Callable[[nn.Module, Arguments], _Answer], denoiser: nn.Module
    ) -> _Answer:
        """The answer to a question about this call, worked out once for all layers."""
        if question not in self._answers:
            self._answers[question] = question(denoiser, self)
        answer: _Answer = self._answers[question]
        return answer


class Family(Alterable):
    """A kind of denoiser.

    Attributes:
        name: Its name, for lists and messages.
        denoisers: The names of the `diffusers` classes. Names, so that no class must be imported,
            and a subclass counts too.
        sample: The name of the argument that holds the noisy latents.
        time: The name of the argument that tells the time.
        parts: The words that select layers, in the order in which they run.
        unconditional: The name of another denoiser of the pipeline, which makes the calls without
            the prompt; empty if there is none.
        tied_to_size: Arguments that, when given, hold for one size of the latents: methods that cut
            the latents into windows can't be used with them.
        module_lists: Names of classes that are lists of modules, though they could be called.
        learned_variance: Whether the second half of a prediction with twice the channels of the
            latents is a variance, whatever the scheduler makes of it.
        keeps_time: Whether what pipelines keep as `_current_timestep` is in their schedule.
        cfg_of_call: Whether the argument of the pipeline's call says if there is CFG, whatever a
            callback makes of the scale.
        scale_of_call: Whether CFG's scale is that argument, whatever a callback makes of it.
        time_factor: From the denoiser's timestep to the scheduler's.
        reversed_flow: Whether a flow is predicted from noise to image, and not from image to noise.
        rows_first: Whether blocks have the rows of a batch in the first dimension of their tokens;
            attention has in any case.
        has_rows: Whether a call has a row for each sample, and not one sample alone.
        returns_none: Whether a block returns what a call leaves out as None.
        attends_in_blocks: Whether a layer may attend in several blocks of queries, of which one
            sees all tokens, and has the image's.
        is_unknown: Whether it stands for denoisers of which next to nothing is known.
        advised: What is published of settings for methods; not that of families derived from it.
    """

    name: ClassVar[str]
    denoisers: ClassVar[tuple[str, ...]]
    sample: ClassVar[str] = "hidden_states"
    time: ClassVar[str] = "timestep"
    parts: ClassVar[tuple[str, ...]] = PARTS
    unconditional: ClassVar[str] = ""
    tied_to_size: ClassVar[tuple[str, ...]] = ()
    module_lists: ClassVar[tuple[str, ...]] = ()
    learned_variance: ClassVar[bool] = False
    keeps_time: ClassVar[bool] = True
    cfg_of_call: ClassVar[bool] = False
    scale_of_call: ClassVar[bool] = False
    time_factor: ClassVar[float] = 1
    reversed_flow: ClassVar[bool] = False
    rows_first: ClassVar[bool] = True
    has_rows: ClassVar[bool] = True
    returns_none: ClassVar[bool] = False
    attends_in_blocks: ClassVar[bool] = False
    is_unknown: ClassVar[bool] = False
    advised: ClassVar[tuple[Advice, ...]] = ()

    def advice(self, denoiser: nn.Module) -> dict[str, Advice]:
        """What is published of settings for a denoiser, by the names of methods."""
        known: tuple[Advice, ...] = vars(type(self)).get("advised", ())
        config = getattr(denoiser, "config", None)
        return {found.method: found for found in known if found.fits(config)}

    @abstractmethod
    def layers(self, denoiser: nn.Module) -> Sequence[SelfAttentionLayer]:
        """Its self-attention layers in the order in which they run; there may be none."""

    def why_no_layers(self, denoiser: nn.Module) -> str:
        """What kind of attention a denoiser has whose `layers` are none; empty: none is known."""
        return ""

    @abstractmethod
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        """Which of the tokens of a layer are the image's.

        Args:
            denoiser: The denoiser.
            argument: The arguments of the call of the denoiser.
            layer: The layer's name.
            count: How many tokens the layer, or the block around it, has.

        Raises:
            GridError: If this is not a number of tokens that the layer can have.
        """

    def feature_modules(
        self, denoiser: nn.Module, layers: Sequence[SelfAttentionLayer]
    ) -> dict[nn.Module, list[str]]:
        """The modules that make tokens of a feature map, with the names of the layers inside.

        Their first input is the map, `(B, C, H, W)`; its size is in the `features` of the arguments
        that `tokens` gets. None, the default, if grids follow from the arguments alone.
        """
        return {}

    @abstractmethod
    def layer_grid(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, latents: tuple[int, ...]
    ) -> tuple[int, ...]:
        """The grid of a layer's tokens for latents of a size `(H, W)` or `(F, H, W)`.

        Raises:
            GridError: If latents of this denoiser can't have this size.
        """

    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        r"""The meaning of the rows of a batch in a pipeline of this family.

        By default the pipeline stacks `[u, c]` and computes $u + g\,(c - u)$, rescaled by the
        statistics of $c$ if its `guidance_rescale` is not 0.

        Args:
            denoiser: The denoiser that is called.
            setting: The settings of the running pipeline.
            step: Where in its schedule the pipeline is, for those that change it on the way.
        """
        scale = setting("guidance_scale", 1.0)
        called = setting("arguments", {}).get("guidance_scale", scale)
        if self.cfg_of_call:
            has_cfg = called > 1.0
        else:
            has_cfg = setting("do_classifier_free_guidance", scale is not None and scale > 1.0)
        if not has_cfg:
            return BatchLayout()
        scale = called if self.scale_of_call else scale
        rescaled = (setting("guidance_rescale", 0.0) or 0.0) > 0.0
        return BatchLayout(
            2,
            conditional=1,
            unconditional=0,
            rescale_scale=float(scale) if rescaled else None,
            cfg_scale=float(scale),
        )

    def latent_layout(self, denoiser: nn.Module, argument: Arguments) -> LatentLayout:
        """How the predictions of a call lie: by default `(B, C, H, W)`, or with frames.

        Raises:
            GridError: If that can't be known.
        """
        return ChannelsFirst()

    def places(self, denoiser: nn.Module, argument: Arguments) -> LatentLayout:
        """What `latent_layout` was called before."""
        return ChannelsFirst()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = vars(cls)
        # Families of other people may have either name, and call the other of their base class.
        if "latent_layout" in own:
            cls.places = cls.latent_layout  # type: ignore[method-assign]
        elif "places" in own:
            cls.latent_layout = cls.places  # type: ignore[method-assign]
        if "take_rows" in own and "batch" in inspect.signature(cls.take_rows).parameters:
            raise TypeError(
                f"{cls.__name__}.take_rows takes a slice and the number of rows of a batch; "
                "expected take_rows(self, arguments, rows), whose rows are both; see "
                "smoothed_energy.intercept.module_call.Rows"
            )

    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        """The scheduler's timestep for the one that the denoiser gets."""
        return value * self.time_factor

    def take_rows(self, arguments: dict[str, Any], rows: Rows) -> dict[str, Any]:
        """Some rows of the named arguments of a call; see `denoisers.cfg_batch.take_rows`."""
        if rows.is_all:
            return arguments
        taken: dict[str, Any] = take_rows(
            arguments, rows, self.unbatched | self.listed, self.folded
        )
        for name in self.listed & taken.keys():
            value = taken[name]
            taken[name] = None if value is None else value[rows.start : rows.stop]
        return taken

    def beside_text(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> tuple[int | tuple[int, ...], int]:
        """Where the tokens begin that are not of the text, in each row, and how many there are.

        Args:
            denoiser: The denoiser.
            argument: The arguments of the call of the denoiser.
            layer: The layer's name.
            count: How many tokens the layer has.
        """
        found = self.tokens(denoiser, argument, layer, count)
        return found.start, found.count

    def latents(self, argument: Arguments) -> Any:
        """The noisy latents of a call as one tensor `(B, *)`; anything else: they are not known."""
        return argument(self.sample)

    def with_latents(self, call: ModuleCall, latents: Tensor) -> ModuleCall:
        """The same call for other latents, which `latents` would give."""
        return call.replace(self.sample, latents)

    def prediction_of(self, output: Any) -> Tensor:
        """The prediction in what the denoiser returns, as one tensor `(B, *)`.

        Raises:
            TypeError: If there is none.
        """
        return prediction_of(output)

    def prediction_in(self, output: Any, argument: Arguments) -> Tensor:
        """The prediction in what a call returned; by default `prediction_of`, for all arguments."""
        return self.prediction_of(output)

    def with_prediction(self, output: Any, prediction: Tensor) -> Any:
        """What the denoiser returned, with another prediction, which may have other rows."""
        return with_prediction(output, prediction)

    def without_rows(self, output: Any, rows: Rows) -> Any:
        """What the denoiser returned, without some rows."""
        return self.with_prediction(output, rows.left_out(self.prediction_of(output)))

    def channels(self, denoiser: nn.Module, latents: int, predicted: int, learned: bool) -> int:
        """How many channels of a prediction are no learned variance, which follows them.

        Args:
            denoiser: The denoiser.
            latents: The channels of its input.
            predicted: Those of the prediction.
            learned: Whether the scheduler reads a variance.
        """
        has_variance = predicted == 2 * latents and (self.learned_variance or learned)
        return latents if has_variance else predicted

    def shared(self, output: Any, argument: Arguments) -> Any:
        """What one call returned, as another call of the same step with these arguments would."""
        return output

    def isolated(self, call: ModuleCall) -> ModuleCall:
        """The same call, such that nothing it computes gets into later calls of the pipeline.

        Raises:
            RuntimeError: If that can't be had.
        """
        if call.kwargs.get("kv_cache") is not None:
            raise RuntimeError(
                "the denoiser is given a kv_cache, which a perturbed pass would change; "
                "expected a run without one"
            )
        return call

    def keeps_keys(self, argument: Arguments) -> bool:
        """Whether a call attends to keys that the denoiser computed in calls before."""
        return argument("kv_cache") is not None

    def is_needed_later(self, argument: Arguments) -> bool:
        """Whether later calls need what this one computes besides a prediction (a cache)."""
        return False

    def is_of_own_guidance(self, argument: Arguments) -> bool:
        """Whether a call is one more of a step, for guidance of the pipeline's own.

        It stays as it is, and nothing is made of what it gives.
        """
        return False

    def keeps_rows(self, denoiser: nn.Module) -> bool:
        """Whether modules got the rows of a call as they are: all at once, in their order.

        Asked after a clean pass, before what was recorded in it is replayed.
        """
        return True

    def tied(self, argument: Arguments) -> tuple[str, ...]:
        """Those given arguments of a call that hold for one size of the latents."""
        return tuple(name for name in self.tied_to_size if argument(name) is not None)

    def multiple(self, denoiser: nn.Module) -> int:
        """What height and width of latents must be multiples of to come out in the same size."""
        return 1

    def outputs(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, module: nn.Module
    ) -> tuple[str, ...]:
        """The names of the inputs that a module returns changed, in the order of its outputs.

        An input that a call leaves out is not returned, either.

        Args:
            denoiser: The denoiser.
            layer: A layer.
            module: The layer's attention, the block around it, or a feed-forward network there.
        """
        return (parameter_names(module)[0],)

    def block(self, layer: str) -> str:
        """The name of the module that calls the parts of a layer's block, by the layer's name."""
        return layer.rpartition(".")[0]

    def feed_forward(self, block: nn.Module) -> nn.Module | None:
        """The feed-forward network of a block for the image's tokens, if there is one."""
        for name in ("ff", "ffn", "feed_forward", "img_mlp"):
            found = getattr(block, name, None)
            if isinstance(found, nn.Module):
                return found
        return None

    def __repr__(self) -> str:
        return f"<{self.name}: {', '.join(self.denoisers)}>"
