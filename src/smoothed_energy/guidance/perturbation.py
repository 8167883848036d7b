r"""Perturbations and probes: what a pass edits or observes inside the chosen layers.

A perturbation makes $\tilde s$, the prediction that guidance moves away from, out of the denoiser
that makes $s$. It is told what a layer is about to compute and says what is computed instead; it
knows nothing of methods or model families. A probe changes nothing, and keeps something small of
what it sees.
"""

from __future__ import annotations

__all__ = ["LayerCall", "LayerSite", "Perturbation", "Probe", "ValuesOnly", "enclosing_block"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import LayerError, SelfAttentionLayer
from ..denoisers.image_tokens import ImageTokens
from ..families import family_or_unknown
from ..intercept.module_call import ModuleCall
from ..schedule import StepPosition
from .softmax import require_softmax


class LayerSite(Protocol):
    """What an edited layer may ask of the pass that it runs in."""

    @property
    def attends_in_blocks(self) -> bool:
        """Whether a layer attends in blocks of queries; see `Family.attends_in_blocks`."""
        ...

    @property
    def returns_none(self) -> bool:
        """Whether a block returns what a call leaves out as None; see `Family.returns_none`."""
        ...

    def image_tokens(self, layer: str, count: int) -> ImageTokens:
        """Which of the `count` tokens of a layer are the image's."""
        ...

    def beside_text(self, layer: str, count: int) -> tuple[tuple[int, ...], int]:
        """Where the tokens begin that are not of the text, in each row, and how many there are."""
        ...

    def modulates(self, layer: str) -> bool:
        """Whether a layer's module does more than attend, which follows from the text."""
        ...

    def position(self) -> StepPosition:
        """Where the step is in its schedule."""
        ...

    def outputs(self, layer: str, module: nn.Module) -> tuple[str, ...]:
        """The names of the inputs that a module returns changed, in the order of its outputs."""
        ...


@dataclass(frozen=True)
class LayerCall:
    """One call of a chosen module.

    Args:
        name: The name of the layer that the module belongs to.
        call: The call of the module.
        site: The pass that it is a part of.
    """

    name: str
    call: ModuleCall
    site: LayerSite

    @property
    def module(self) -> nn.Module:
        """The module."""
        return self.call.module

    @property
    def forward(self) -> Callable[..., Any]:
        """Its own forward function."""
        return self.call.forward

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments of the call."""
        return self.call.args

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments of the call."""
        return self.call.kwargs

    def image_tokens(self, layer: str, count: int) -> ImageTokens:
        """Which of the `count` tokens of a layer are the image's."""
        return self.site.image_tokens(layer, count)

    def position(self) -> StepPosition:
        """Where the step is in its schedule."""
        return self.site.position()

    def input(self, name: str | None = None) -> Any:
        """One of the module's inputs, by default its tokens; None if it is not given.

        Raises:
            ValueError: If it has no input of this name.
        """
        return self.call.argument(self._known(name))

    def with_input(self, value: Any, name: str | None = None) -> LayerCall:
        """The same call with another value of one input, by default of its tokens.

        Raises:
            ValueError: If it has no input of this name.
        """
        return LayerCall(self.name, self.call.replace(self._known(name), value), self.site)

    def __call__(self) -> Any:
        """Make the call."""
        return self.call()

    def untouched(self) -> Any:
        """What the module gives if it does nothing: those of its inputs that it was given.

        Raises:
            ValueError: If it was given none of them.
        """
        names = self.site.outputs(self.name, self.module)
        inputs = [self.call.argument(name) for name in names]
        found = tuple([value for value in inputs if value is not None])
        if found and self.site.returns_none:
            found = tuple(inputs)
        if not found:
            raise ValueError(
                f"{type(self.module).__name__} of {self.name} was given none of its inputs "
                f"{', '.join(names)}; it has {', '.join(self.call.parameters)}"
            )
        return found if len(found) > 1 else found[0]

    def _known(self, name: str | None) -> str:
        if name is None:
            return self.call.tokens
        names = self.call.parameters
        if name not in names and name not in self.call.kwargs:
            raise ValueError(
                f"{type(self.module).__name__} of {self.name} has no input {name!r}; it has "
                + ", ".join(names)
            )
        return name


class Perturbation(ABC):
    """A change of what the chosen layers compute."""

    def modules(
        self, denoiser: nn.Module, layers: Sequence[SelfAttentionLayer]
    ) -> Mapping[nn.Module, str]:
        """The modules whose calls are changed, and the layer that each belongs to.

        Args:
            denoiser: The denoiser, not compiled.
            layers: The chosen layers. By default their attention modules are changed.
        """
        return {layer.module: layer.name for layer in layers}

    @abstractmethod
    def run(self, call: LayerCall) -> Any:
        """What the module gives in the perturbed pass."""

    def of_layer(self, name: str) -> Perturbation:
        """What is done in one of its layers."""
        return self

    @property
    def is_identity(self) -> bool:
        """Whether nothing is changed, so that there is nothing to guide away from."""
        return False

    @property
    def without_softmax(self) -> Perturbation | None:
        """What stands for it in layers that don't compute softmax(QK^T)V; None if nothing can."""
        return self

    def runs_in(self, layer: SelfAttentionLayer) -> bool:
        """Whether the layer's attention has the modules that it calls."""
        return True

    def on(self, layers: Sequence[SelfAttentionLayer]) -> Perturbation:
        """The perturbation of these layers: itself, or what stands for it in some of them.

        Raises:
            LayerError: If one of them has no softmax(QK^T), and it needs that.
        """
        if not [layer for layer in layers if not layer.softmax]:
            return self
        substitute = self.without_softmax
        if substitute is self:
            return self
        if substitute is None or not all(map(substitute.runs_in, layers)):
            require_softmax(layers)
            return self
        return _ByLayer({layer.name: self if layer.softmax else substitute for layer in layers})


@dataclass(frozen=True)
class _ByLayer(Perturbation):
    """A perturbation for each layer, of the same modules."""

    parts: Mapping[str, Perturbation]

    @override
    def run(self, call: LayerCall) -> Any:
        return self.parts[call.name].run(call)

    @override
    def of_layer(self, name: str) -> Perturbation:
        return self.parts[name]


@dataclass(frozen=True)
class ValuesOnly(Perturbation):
    """Attention whose map is the identity: the values pass through to the output projection.

    It is for attention of the image's tokens alone, of any kind.
    """

    @override
    def runs_in(self, layer: SelfAttentionLayer) -> bool:
        return layer.softmax or all(hasattr(layer.module, name) for name in ("to_v", "to_out"))

    @override
    def run(self, call: LayerCall) -> Any:
        module: Any = call.module
        tokens: Tensor = module.to_v(call.input())
        for layer in module.to_out:
            tokens = layer(tokens)
        # Linear attention clips what half precision can't hold, instead of giving infinity.
        limits = torch.finfo(tokens.dtype)
        return tokens.clamp(limits.min, limits.max)


class Probe(ABC):
    """Something that is observed in the chosen layers of the clean pass, and changes nothing."""

    @abstractmethod
    def run(self, call: LayerCall) -> tuple[Any, Tensor]:
        """What the module gives, unchanged, and what is kept of it: reduced here, to little."""


class BlockPerturbation(Perturbation):
    """A perturbation of the transformer blocks around the layers."""

    @override
    def modules(
        self, denoiser: nn.Module, layers: Sequence[SelfAttentionLayer]
    ) -> Mapping[nn.Module, str]:
        """These blocks.

        Raises:
            LayerError: If a layer is in no transformer block.
        """
        return {enclosing_block(denoiser, layer): layer.name for layer in layers}


def enclosing_block(denoiser: nn.Module, layer: SelfAttentionLayer) -> nn.Module:
    """The transformer block that a layer's self-attention is part of.

    Raises:
        LayerError: If it is in none.
    """
    block = denoiser.get_submodule(family_or_unknown(denoiser).block(layer.name))
    if isinstance(block, nn.ModuleList):
        raise LayerError(
            f"layers: {layer.name} is attention by itself and not part of a transformer block; "
            "expected layers of transformer blocks"
        )
    return block
