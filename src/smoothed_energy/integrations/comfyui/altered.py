"""Alterations in the runs of a network of ComfyUI.

The engine knows the branches of a call; how many runs of the network they take, and in which of
their rows a branch is, ComfyUI decides. So alterations find their rows anew in each of these runs.
"""

from __future__ import annotations

__all__ = ["ComfyRunner"]

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ...denoisers.cfg_batch import Formulation, repeat_rows, take_rows
from ...denoisers.text_rows import pad_texts
from ...engine.altered import Acting, AlteredPass, told_by
from ...engine.one_pass import PassSite
from ...engine.passes import PASS, PassRunner
from ...guidance.perturbation import LayerSite
from ...intercept.attention import Attention, seeing
from ...intercept.module_call import ModuleCall, Rows
from .denoiser import CONDITIONAL, UNCONDITIONAL, ComfyDenoiser, InnerCall
from .family import ComfyFamily
from .negative import TextOfRun, check_attention

_OF_RUN = frozenset({"transformer_options"})
_BRANCHES: Mapping[Formulation, int] = {
    "conditional": CONDITIONAL,
    "unconditional": UNCONDITIONAL,
}


class ComfyRunner(PassRunner):
    """Runs the passes of a model of ComfyUI.

    Args:
        denoiser: The denoiser.
        texts: What other texts are in this run.
    """

    def __init__(self, denoiser: ComfyDenoiser, texts: TextOfRun) -> None:
        super().__init__(denoiser)
        self._network, self._texts = denoiser, texts

    @override
    def altered_pass(self, acting: Sequence[Acting], rows: Rows) -> AlteredPass:
        assert isinstance(self.family, ComfyFamily)
        return _ComfyAlteredPass(self._network, self.family, acting, rows, self._texts)

    @override
    def tell(self, one: Acting, call: ModuleCall) -> None:
        """Nothing: it is found out in a run of the network."""


class _ComfyAlteredPass(AlteredPass):
    """What alterations do in one pass, which may be several runs of the network."""

    def __init__(
        self,
        denoiser: ComfyDenoiser,
        family: ComfyFamily,
        acting: Sequence[Acting],
        rows: Rows,
        texts: TextOfRun,
    ) -> None:
        super().__init__(family, (), rows)
        self.reached = {one.plan: set() for one in acting}
        self._denoiser, self._comfy, self._texts = denoiser, family, texts
        self._acting = acting
        self._inner: AlteredPass | None = None
        self._keeps_keys = True

    @override
    def altered(self, call: ModuleCall, site: LayerSite) -> ModuleCall:
        if self._inner is None:
            return call
        assert isinstance(site, PassSite)
        rows = self._inner.rows
        own = PassSite(site.denoiser, site.family, site.layers, site.arguments, rows, site.context)
        return self._inner.altered(call, own)

    @override
    def without_added(self, value: Tensor) -> Tensor:
        return value if self._inner is None else self._inner.without_added(value)

    @override
    def made(self, call: ModuleCall) -> Any:
        # Hooks change weights, and so the keys of a text.
        conds = call.argument("conds")
        self._keeps_keys = not any(entry.get("hooks") for _, cond in conds for entry in cond)
        self._denoiser.through = self._network_run
        try:
            return call()
        finally:
            self._denoiser.through, self._inner = None, None

    def _network_run(self, call: ModuleCall, branches: tuple[int, ...]) -> Tensor:
        """One run of the network."""
        batch = len(call.argument("x"))
        acting = list(self._in(branches, batch))
        self._inner, adding = None, [one for one in acting if one.alteration.adds_rows]
        if len(adding) > 1:
            raise RuntimeError(
                "ComfyUI runs prompts of one branch apart from each other in one batch (a default "
                "conditioning beside regional ones), where no rows with another text can be added; "
                "expected prompts without a default"
            )
        for one in acting:
            if one.alteration.reads_text:
                check_attention(self._comfy, call.argument("transformer_options"))
                told_by(one, lambda one=one: self._with_text(call, one), PASS)  # type: ignore[misc]
        inner = AlteredPass(self._comfy, acting, Rows(0, batch, batch))
        inner.reached = self.reached
        looking: AbstractContextManager[Any] = nullcontext()
        if adding:
            call, looking = self._with_added(call, adding[0], branches)
        self._denoiser.inner.append(InnerCall(call.named(), branches, has_added=bool(adding)))
        self._inner = inner
        with looking:
            output: Tensor = call()
        return inner.without_added(output)

    def _in(self, branches: tuple[int, ...], batch: int) -> Iterator[Acting]:
        """The alterations, each with its rows in a run of these branches."""
        size = batch // max(1, len(branches))
        for one in self._acting:
            memory = one.memory if self._keeps_keys else {}
            for start, stop in _stretches(one.alteration.branch, branches):
                rows = Rows(start * size, stop * size, batch)
                yield replace(one, rows=rows, memory=memory)

    def _text(self, one: Acting, named: Mapping[str, Any]) -> dict[str, Any]:
        return self._texts.arguments(self._comfy, one.text or {}, named, one.rows)

    def _with_text(self, call: ModuleCall, one: Acting) -> ModuleCall:
        """The rows of an alteration, with its text."""
        named = call.named()
        taken: dict[str, Any] = take_rows(named, one.rows, _OF_RUN)
        return call.with_named({**taken, **self._text(one, named)})

    def _with_added(
        self, call: ModuleCall, one: Acting, branches: tuple[int, ...]
    ) -> tuple[ModuleCall, AbstractContextManager[Any]]:
        """The run with the rows of an alteration once more after themselves, with its text.

        Returns:
            The run, and the block in which it is to be made.
        """
        named, rows = call.named(), one.rows
        tokens, text = int(named["context"].shape[1]), self._text(one, named)
        block: AbstractContextManager[Any] = nullcontext()
        filling = self._comfy.filling(self._denoiser.diffusion_model)
        if filling is not None and (length := text["context"].shape[1]) < tokens:
            text["context"] = nn.functional.pad(text["context"], (0, 0, 0, tokens - length))
            block = _filled(*filling, rows, length)
        named, text = pad_texts(self._comfy.masks, named, text)
        if any(named.get(mask) is not None for mask in self._comfy.masks.values()):
            block = seeing(functools.partial(_check_masked, tokens))
        for mask in self._comfy.masks.values():
            for found in (named, text):
                if isinstance(found.get(mask), Tensor) and found[mask].dtype == torch.bool:
                    found[mask] = found[mask].to(torch.int64)
        count = rows.stop - rows.start
        twice = Rows(rows.stop, rows.stop + count, rows.batch + count)
        found = repeat_rows(named, rows, _OF_RUN)
        found |= {name: twice.put(found[name], value) for name, value in text.items()}
        # What other nodes do to parts of the batch they do to as many.
        options = dict(named["transformer_options"])
        size = rows.batch // len(branches)
        parts = slice(rows.start // size, rows.stop // size)
        for name in ("cond_or_uncond", "uuids"):
            told = list(options.get(name, ()))
            if told:
                options[name] = [*told[: parts.stop], *told[parts], *told[parts.stop :]]
        return call.with_named(found | {"transformer_options": options}), block


@contextmanager
def _filled(embedder: nn.Module, token: Tensor, rows: Rows, length: int) -> Iterator[None]:
    """A block in which rows that are added have a token of the network's own past their text.

    Args:
        embedder: What embeds texts, `(B, L, C)`.
        token: The token, `(C,)`.
        rows: The rows that others were added for, which follow them.
        length: The tokens of their text.
    """
    count = rows.stop - rows.start

    def fill(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        filled = output.clone()
        filled[rows.stop : rows.stop + count, length:] = token.to(output)
        return filled

    handle = embedder.register_forward_hook(fill)
    try:
        yield
    finally:
        handle.remove()


def _check_masked(tokens: int, attention: Attention) -> None:
    """Check that attention masks texts that are filled up.

    Raises:
        RuntimeError: If it does not.
    """
    if attention.options.get("attn_mask") is None:
        raise RuntimeError(
            f"this version of ComfyUI masks no text of this model, and the prompt has {tokens} "
            "tokens; expected a negative of NAG with as many, or a newer ComfyUI"
        )


def _stretches(branch: Formulation | None, branches: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Where parts of a batch that follow each other are of a branch: the first, and past the last.

    Args:
        branch: The branch; None: all are.
        branches: That of each part.
    """
    wanted = None if branch is None else _BRANCHES[branch]
    start = None
    for place, found in enumerate((*branches, -1)):
        is_wanted = found != -1 and wanted in (None, found)
        if is_wanted and start is None:
            start = place
        elif not is_wanted and start is not None:
            yield start, place
            start = None
