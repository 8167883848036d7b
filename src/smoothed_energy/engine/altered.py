"""Alterations in the passes of a step: their rows in each pass, and those that they add."""

from __future__ import annotations

__all__ = ["Acting", "AlteredPass", "check_altered", "refuse_hidden", "told", "told_by"]

import functools
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..denoisers.text_rows import fit_texts
from ..families import Family
from ..guidance.alteration import Alteration, AlteredRows
from ..guidance.perturbation import LayerCall, LayerSite
from ..guidance.plan import Memory, Plan
from ..intercept.attention import AttentionBackendError, NativeForward
from ..intercept.module_call import ModuleCall, Rows
from ..intercept.patching import Routers, holding, patched


def _told_name(rows: Rows) -> str:
    """Under which name an alteration's memory has how modules are called with the other text."""
    return f"the call with the other text, {rows}"


@dataclass(frozen=True, eq=False)
class Acting:
    """An alteration that acts in one call of a denoiser.

    Args:
        plan: The plan with the alteration.
        rows: The rows of the call that it acts on.
        text: The other text, by the names of the denoiser's arguments; None: the same one.
        memory: What it keeps until other images begin.
    """

    plan: Plan
    rows: Rows
    text: Mapping[str, Any] | None
    memory: Memory

    @property
    def alteration(self) -> Alteration:
        """The alteration."""
        assert self.plan.alteration is not None
        return self.plan.alteration


class AlteredPass:
    """What alterations do in one pass of a denoiser.

    Args:
        family: The family of the denoiser.
        acting: The alterations of the step.
        rows: The rows of the pass, of the batch as it is without rows that are added.

    Attributes:
        rows: The same rows with those that are added, of the batch with these.
        reached: The names of the layers that each plan altered.
        added: What was predicted for the rows that are added.
    """

    added: Tensor | None = None

    def __init__(self, family: Family, acting: Sequence[Acting], rows: Rows) -> None:
        self._family = family
        self.reached: dict[Plan, set[str]] = {one.plan: set() for one in acting}
        self._adds: Acting | None = None
        self.rows = rows
        for one in acting:
            if one.alteration.adds_rows:
                self._adds = one
                self.rows = _with_added(rows, one.rows)
        # Of the pass itself.
        adding = None if self._adds is None else _inside(self._adds.rows, rows)
        self._twice = adding
        self._by_module: dict[nn.Module, list[tuple[Acting, AlteredRows]]] = {}
        # What acts later changes what is there by then, so its function lies inside of the others.
        # An attention is seen by the innermost first, who asks those around it: what one attention
        # is comes before what is made of several.
        outward = list(reversed(acting))
        outward.sort(key=lambda one: one.alteration.is_one_attention)
        for one in outward:
            own = _inside(one.rows, rows)
            if own is None:
                continue
            added = None
            if adding is not None and self._adds is not None:
                added = self._added
                # An alteration of all rows changes those that are added, too.
                of_branch = one.alteration.branch is not None and self._adds.text is not None
                is_same = of_branch and (own.start, own.stop) == (adding.start, adding.stop)
                own = (
                    Rows(own.start, own.stop, added.batch) if is_same else _with_added(own, adding)
                )
            told_call = one.memory.get(_told_name(one.rows))
            part = AlteredRows(own, added if one is self._adds else None, told_call, one.memory)
            for module in one.plan.edits:
                self._by_module.setdefault(module, []).append((one, part))

    def altered(self, call: ModuleCall, site: LayerSite) -> ModuleCall:
        """The same call of a module, changed by all that alter it."""
        for one, part in self._by_module.get(call.module, ()):
            forward = functools.partial(self._run, one, part, site, call)
            call = call.with_forward(NativeForward(forward))
        return call

    def _run(
        self,
        one: Acting,
        part: AlteredRows,
        site: LayerSite,
        call: ModuleCall,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        layer = one.plan.edits[call.module]
        self.reached[one.plan].add(layer)
        made = ModuleCall(call.module, call.forward, args, kwargs)
        return one.alteration.run(LayerCall(layer, made, site), part)

    def around(self, call: ModuleCall) -> ModuleCall:
        """The same call of the denoiser, made with the rows that are added."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self.made(ModuleCall(call.module, call.forward, args, kwargs))

        return call.with_forward(forward)

    def made(self, call: ModuleCall) -> Any:
        """What the denoiser gives for a call of the rows of the pass, made with those added."""
        if self._twice is None:
            return call()
        output = self.with_added(call)()
        self.added = self._added.of(self._family.prediction_of(output))
        return self._family.without_rows(output, self._added)

    def with_added(self, call: ModuleCall) -> ModuleCall:
        """A call of the rows of the pass with those that are added."""
        rows, adds = self._twice, self._adds
        if rows is None or adds is None:
            return call
        named = call.named()
        text = {} if adds.text is None else _fitted(self._family, adds, named, rows)
        return call.with_named(self._family.repeat_rows(named, rows, text))

    def without_added(self, value: Tensor) -> Tensor:
        """A tensor of the pass `(rows n, *)` without the rows that are added."""
        return value if self._twice is None else self._added.left_out(value)

    @property
    def _added(self) -> Rows:
        """The rows that are added, in the batch with these."""
        assert self._twice is not None
        count = self._twice.stop - self._twice.start
        return Rows(self._twice.stop, self._twice.stop + count, self._twice.batch + count)


def check_altered(
    acting: Sequence[Acting], *, hidden: bool, cached: bool, related: bool, keeps: bool
) -> None:
    """Check that a call of a denoiser may be altered.

    Args:
        acting: The alterations.
        hidden: Whether what is to be changed is compiled.
        cached: Whether there are caches.
        related: Whether its rows depend on each other.
        keeps: Whether later calls attend to keys that this one computes, or earlier ones did.

    Raises:
        AttentionBackendError, RuntimeError: If one of these is so.
    """
    if hidden:
        raise AttentionBackendError(
            "a guidance that changes the first pass can't change compiled code; use a denoiser "
            "that is not compiled, or another guidance"
        )
    if cached:
        raise RuntimeError(
            "a guidance that changes the first pass can't act beside a cache that skips parts of "
            "it; expected a denoiser after disable_cache()"
        )
    if keeps:
        raise RuntimeError(
            "a guidance that changes passes in place can't act here, since the denoiser keeps keys "
            "from call to call, which might be changed for good; expected a second pass "
            "(formulation=conditional or unconditional, joined=False), or a pipeline without such "
            "a cache"
        )
    adding = [one for one in acting if one.alteration.adds_rows]
    reading = [module for one in acting if one.alteration.reads_text for module in one.plan.edits]
    if len({*reading}) < len(reading):
        raise RuntimeError(
            "two guidances turn the same attention away from a negative prompt, and what it would "
            "be then is not known; expected one of them, or other layers or steps in each"
        )
    if len(adding) > 1 or (adding and related):
        raise RuntimeError(
            "rows can be added to a batch once, where rows don't depend on each other; expected "
            "one guidance that adds some, and processors that treat each row by itself"
        )


def refuse_hidden(*, by_guidance: bool) -> None:
    """Say that what is to be looked at is compiled.

    Args:
        by_guidance: Whether a guidance looks at it, and no observer alone.

    Raises:
        AttentionBackendError: Always.
    """
    if by_guidance:
        raise AttentionBackendError(
            "a guidance that looks at the attention of the first pass can't see into a "
            "compiled denoiser; use one that is not compiled, or another guidance"
        )
    raise AttentionBackendError(
        "the layers of a compiled denoiser can't be looked into; use one that is not compiled, "
        "or look at no layers"
    )


def told(family: Family, one: Acting, call: ModuleCall, routers: Routers) -> None:
    """Find out how the first module of an alteration is called with the other text.

    The denoiser runs that far with the alteration's rows and the other text, and no further.

    Args:
        family: The family of the denoiser.
        one: The alteration, in whose memory the call is kept.
        call: The call of the denoiser, all rows.
        routers: Who decides about the calls of the denoiser's modules.

    Raises:
        RuntimeError: If it calls none of its modules.
    """

    def made() -> ModuleCall:
        named = call.named()
        text = _fitted(family, one, named, one.rows)
        return call.with_named({**family.take_rows(named, one.rows), **text})

    told_by(one, made, routers)


def told_by(one: Acting, made: Callable[[], ModuleCall], routers: Routers) -> None:
    """Find out how the first module of an alteration is called, once.

    Args:
        one: The alteration, in whose memory the call is kept.
        made: The call of the denoiser for its rows, with the other text.
        routers: Who decides about the calls of the denoiser's modules.

    Raises:
        RuntimeError: If the denoiser calls none of its modules.
    """
    key = _told_name(one.rows)
    if not one.alteration.reads_text or key in one.memory:
        return
    taken = made().copied()
    stop = functools.partial(_stop, one.plan.edits)
    try:
        with patched(one.plan.edits, routers), holding(routers.current, stop):
            taken()
    except _FoundError as found:
        one.memory[key] = found.call
        return
    raise RuntimeError(
        f"the {type(taken.module).__name__} called none of {', '.join(one.plan.edits.values())}, "
        "which are to be changed"
    )


class _FoundError(Exception):
    """The call of a module that somebody looked for."""

    def __init__(self, call: ModuleCall) -> None:
        super().__init__("this call was looked for, and is to be caught")
        self.call = call


def _stop(modules: Container[nn.Module], call: ModuleCall) -> Any:
    if call.module not in modules:
        return call()  # Somebody else is asked about it.
    raise _FoundError(call)


def _fitted(family: Family, one: Acting, named: dict[str, Any], rows: Rows) -> dict[str, Any]:
    """The other text for some rows of a call, for the arguments that it has.

    Raises:
        ValueError: If it is not of these arguments, or has other rows.
    """
    names = family.text_arguments
    there = {name: named[name] for name in names if named.get(name) is not None}
    taken = family.take_rows(there, rows)
    return fit_texts(names, family.text_masks, one.text or {}, taken)


def _inside(rows: Rows, outer: Rows) -> Rows | None:
    """Rows of a batch as rows of some that lie in it; None if they are not among these."""
    if rows.start < outer.start or rows.stop > outer.stop:
        if rows.start <= outer.start and outer.stop <= rows.stop:
            return Rows(0, outer.stop - outer.start, outer.stop - outer.start)
        return None
    start = outer.start
    return Rows(rows.start - start, rows.stop - start, outer.stop - start)


def _with_added(rows: Rows, twice: Rows) -> Rows:
    """Rows in a batch in which others come once more after themselves, with these."""
    count = twice.stop - twice.start
    start = rows.start + (count if rows.start >= twice.stop else 0)
    stop = rows.stop + (count if rows.stop >= twice.stop else 0)
    return Rows(start, stop, rows.batch + count)
