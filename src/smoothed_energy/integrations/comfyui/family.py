"""The base class of families of networks in ComfyUI."""

from __future__ import annotations

__all__ = ["ComfyFamily", "network_of"]

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from ...denoisers.attention_layer import SelfAttentionLayer
from ...families import Arguments, Family
from ...intercept.module_call import ModuleCall, Rows
from .denoiser import ComfyDenoiser, Denoised

#: What ties a conditioning to the size of the latents.
_TIED = ("area", "mask", "control", "gligen")


class ComfyFamily(Family):
    """A kind of network in ComfyUI, which a `ComfyDenoiser` has inside.

    Attributes:
        networks: The names of ComfyUI's classes.
        tells_runs: Whether a network asks for those who wrap its runs (`diffusion_model`).
        texts: What of a conditioning is of its text, and the network's argument that it becomes.
        changes_text: Names of ComfyUI's patches that change what attention to the text alone gets.
        masks: The argument that tells which tokens count in another one, by the name of that.
    """

    networks: ClassVar[tuple[str, ...]]
    denoisers: ClassVar[tuple[str, ...]] = ()  # A denoiser of its own class brings it along.
    sample: ClassVar[str] = "sample"
    time: ClassVar[str] = "sigma"
    tells_timesteps: ClassVar[bool] = False
    unbatched: ClassVar[frozenset[str]] = frozenset({"sigma", "conds", "options", "x"})
    text_arguments: ClassVar[tuple[str, ...]] = ("conds",)
    cross_inputs: ClassVar[tuple[str, ...]] = ("context", "value", "mask")
    tells_runs: ClassVar[bool] = True
    texts: ClassVar[Mapping[str, str]] = {"c_crossattn": "context"}
    changes_text: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[Mapping[str, str]] = {}

    def refuse(self, network: nn.Module) -> str:
        """Why a network of these classes can't be guided; empty if it can."""
        return ""

    def filling(self, network: nn.Module) -> tuple[nn.Module, Tensor] | None:
        """What embeds the text, and the token by which a network fills up texts; None: none."""
        return None

    @abstractmethod
    def layers_in(self, network: nn.Module) -> Sequence[SelfAttentionLayer]:
        """The self-attention layers of a network, in the order in which they run."""

    @override
    def layers(self, denoiser: nn.Module) -> Sequence[SelfAttentionLayer]:
        network = denoiser.diffusion_model
        assert isinstance(network, nn.Module)
        return self.layers_in(network)

    @override
    def keeps_rows(self, denoiser: nn.Module) -> bool:
        return bool(network_of(denoiser).keeps_rows)

    @override
    def take_rows(self, arguments: dict[str, Any], rows: Rows) -> dict[str, Any]:
        """The rows of whole branches, with their conditionings."""
        if rows.is_all:
            return arguments
        conds = arguments["conds"]
        size = rows.batch // len(conds)
        taken = super().take_rows(arguments, rows)
        taken["conds"] = conds[rows.start // size : rows.stop // size]
        return taken

    @override
    def with_latents(self, call: ModuleCall, latents: Tensor) -> ModuleCall:
        return call.replace("sample", latents).replace("x", None)

    @override
    def prediction_of(self, output: Any) -> Tensor:
        assert isinstance(output, Denoised)
        return output.prediction

    @override
    def with_prediction(self, output: Any, prediction: Tensor) -> Denoised:
        return Denoised(prediction)

    @override
    def tied(self, argument: Arguments) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for _, cond in argument("conds"):
            for entry in cond:
                found |= dict.fromkeys([name for name in _TIED if entry.get(name) is not None])
                for name, value in entry.get("model_conds", {}).items():
                    # Pictures beside the latents: masks, sources, references.
                    held = getattr(value, "cond", None)
                    several = held if isinstance(held, (list, tuple)) else [held]
                    if any(isinstance(one, Tensor) and one.ndim >= 4 for one in several):
                        found[name] = None
        return tuple(found)


def network_of(denoiser: nn.Module) -> ComfyDenoiser:
    """The denoiser, as what it is."""
    assert isinstance(denoiser, ComfyDenoiser)
    return denoiser
