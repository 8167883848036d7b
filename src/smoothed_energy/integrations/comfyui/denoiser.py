"""A model of ComfyUI as the engine sees it: one call for the predictions of a step.

A call is ComfyUI's own `calc_cond_batch`, which makes of areas, masks, ControlNets, hooks, windows
over time and the free memory what it will: it may run the network several times, and their layers
are edited in each of them.
"""

from __future__ import annotations

__all__ = ["ComfyDenoiser", "Denoised", "InnerCall", "Through"]

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ...families import family_of
from ...intercept.module_call import ModuleCall
from ...intercept.patching import Routers, holding, patched
from .attention import natively_where_intercepted
from .units import Units

#: What ComfyUI calls the branches: the place of their conditioning in its lists.
CONDITIONAL, UNCONDITIONAL = 0, 1

#: A branch, and its conditioning.
Conditioning: TypeAlias = tuple[int, Sequence[Any]]

_KEY = "smoothed_energy"
_NETWORK = Routers("smoothed_energy_network")


@dataclass(frozen=True, eq=False)
class Denoised:
    """What a call gave.

    Args:
        prediction: `(G B, C, *)`, in the units of the model, the branches of the call in order.
        denoised: ComfyUI's estimates of the clean picture, as they came: one for each place of its
            lists of conditionings. Empty where the call was for several latents.
    """

    prediction: Tensor
    denoised: Sequence[Tensor] = ()


@dataclass(frozen=True, eq=False)
class InnerCall:
    """One run of the network inside of a call.

    Args:
        arguments: Its arguments by their names.
        branches: The branch of each of the equal parts of its batch.
        has_added: Whether more rows follow some of them, with another text.
    """

    arguments: Mapping[str, Any]
    branches: tuple[int, ...]
    has_added: bool = False


#: Makes a run of the network with other rows, or its layers changed; it notes what it runs.
Through: TypeAlias = Callable[[ModuleCall, tuple[int, ...]], Tensor]


class ComfyDenoiser(nn.Module):
    """The denoiser in a model of ComfyUI.

    Args:
        model: ComfyUI's model, which has the network as `diffusion_model`.

    Attributes:
        inner: The runs of the network in the call that is made or was made last.
        through: Who makes the runs of the network; None: they are made as they are.
        keeps_rows: Whether the first call since this was None was one run of the network, with the
            branches in the order of the call.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.diffusion_model: nn.Module = model.diffusion_model
        # Not as a module inside: it has this one's.
        self.__dict__["_model"] = model
        self.inner: list[InnerCall] = []
        self.through: Through | None = None
        self.keeps_rows: bool | None = None

    def forward(
        self,
        sample: Tensor,
        sigma: Tensor,
        conds: Sequence[Conditioning],
        options: Mapping[str, Any],
        x: Tensor | None = None,
    ) -> Denoised:
        """The predictions of some branches.

        Args:
            sample: `(G B, C, *)`, the latents as the network gets them, for each branch.
            sigma: ComfyUI's noise level, `(B,)`.
            conds: The branches.
            options: ComfyUI's `model_options`.
            x: The latents of the sampler that `sample` was made of, the same for all branches;
                None if it was made otherwise.
        """
        self.inner = []
        model = self.__dict__["_model"]
        units = Units(model.model_sampling, sigma)
        tells = family_of(self).tells_runs  # type: ignore[attr-defined]  # a ComfyFamily
        with_options = self._watched(options, note=tells)
        groups = sample.chunk(len(conds))
        parts = [[one] for one in conds] if x is None else [list(conds)]
        predictions: list[Tensor] = []
        denoised: Sequence[Tensor] = ()
        for place, part in enumerate(parts):
            latents = units.from_input(groups[place]) if x is None else x
            lists: list[Any] = [None] * max(2, *[branch + 1 for branch, _ in part])
            for branch, cond in part:
                lists[branch] = cond
            noted = patched(() if tells else [self.diffusion_model], _NETWORK)
            with noted, holding(_NETWORK.current, self._noted):
                denoised = _calc_cond_batch()(model, lists, latents, sigma, with_options)
            predictions.extend(
                [units.to_prediction(denoised[branch], latents) for branch, _ in part]
            )
        if self.keeps_rows is None:
            order = tuple([branch for branch, _ in conds])
            found = [inner.branches for inner in self.inner if not inner.has_added]
            self.keeps_rows = found == [order]
        return Denoised(torch.cat(predictions), () if x is None else denoised)

    def _watched(self, options: Mapping[str, Any], *, note: bool) -> dict[str, Any]:
        """The options of a call in which layers find attention, and runs of the network are noted.

        Nothing in the given ones is changed: they are everybody's.

        Args:
            options: The given ones.
            note: Whether the network asks them who wraps its runs.
        """
        given = dict(options.get("transformer_options", {}))
        previous = given.get("optimized_attention_override")
        given["optimized_attention_override"] = natively_where_intercepted(previous)
        if note:
            wrappers = dict(given.get("wrappers", {}))
            of_network = dict(wrappers.get("diffusion_model", {}))
            of_network[_KEY] = [self._note]
            given["wrappers"] = wrappers | {"diffusion_model": of_network}
        return {**options, "transformer_options": given}

    def _note(self, executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One run of the network, as it asks for who wraps it."""
        return self._noted(ModuleCall(self.diffusion_model, executor, args, kwargs))

    def _noted(self, call: ModuleCall) -> Any:
        """One run of the network, noted."""
        told = call.argument("transformer_options") or {}
        branches = tuple(told.get("cond_or_uncond", ()))
        if self.through is not None:
            return self.through(call, branches)
        self.inner.append(InnerCall(call.named(), branches))
        return call()


def _calc_cond_batch() -> Callable[..., Any]:
    """ComfyUI's function; this package is imported without it, too."""
    found: Callable[..., Any] = importlib.import_module("comfy.samplers").calc_cond_batch
    return found
