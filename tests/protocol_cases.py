"""Settings of guidance: by formulas, in the package's words, and by the passes that they cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from tiny_pipelines import MID, UP

from protocol_formulas import COUNT, G, Term, scheduler
from smoothed_energy import (
    EntropyRectifyingGuidance,
    GuidanceInterval,
    PerturbedAttentionGuidance,
    RunSummary,
    SelfAttentionGuidance,
    SkipLayerGuidance,
    SlidingWindowGuidance,
    SmoothedEnergyGuidance,
    TokenPerturbationGuidance,
)

# Passes of one step: in one batch, and in calls of their own for c and u.
PLAIN = ("4", "2|2")
ON_C = ("4+2", "2+2|2")
ON_U = ("4+2", "2|2+2")
ALONE = ("2", "2|-")
C_ALONE = ("2+2", "2+2|-")


def seg(**changes):
    return SmoothedEnergyGuidance(blur="gaussian:1", layers=MID, **changes)


def pag_up(**changes):
    return PerturbedAttentionGuidance(layers=list(UP), **changes)


def counts(calls, guided=0, reused=0, without_cfg=0, layers=(MID,)):
    return RunSummary(calls, guided, frozenset(layers), reused, without_cfg)


@dataclass(frozen=True)
class Case:
    """A setting.

    Args:
        terms: It by formulas.
        guidances: It in the package's words.
        passes: Of each step, in one batch and in calls of their own.
        guided: How many calls of each guidance have a second pass.
        reused: How many calls of each use the last difference again.
        layers: The layers that each perturbs.
        cfg: The steps with CFG.
        interval: The guidance that takes it away at the others.
        g: The scale of CFG.
        rescale: How far the result is rescaled.
    """

    terms: Sequence[Term]
    guidances: Sequence
    passes: Sequence[tuple[str, str]] = (ON_C,) * COUNT
    guided: Sequence[int] = (COUNT,)
    reused: Sequence[int] = (0,)
    layers: Sequence[Sequence[str]] = ((MID,),)
    cfg: Sequence[int] = tuple(range(COUNT))
    interval: GuidanceInterval | None = None
    g: float = G
    rescale: float = 0.0

    @property
    def settings(self):
        return {"g": self.g, "rescale": self.rescale}

    @property
    def attached(self):
        return [*self.guidances, *([self.interval] if self.interval else [])]


TWO_ON_C = (("4+2+2", "2+2+2|2"),) * COUNT
EVERY_SECOND = (ON_C, PLAIN) * 3
BEGIN = (ON_C,) * 2 + (PLAIN,) * 4

CASES = {
    # Methods.
    "seg": Case([Term("seg")], [seg()]),
    "pag": Case([Term("pag")], [PerturbedAttentionGuidance(layers=MID)]),
    "erg": Case([Term("erg")], [EntropyRectifyingGuidance(layers=MID, temperature=4.0)]),
    "slg": Case([Term("slg")], [SkipLayerGuidance(layers=MID)]),
    "tpg": Case([Term("tpg")], [TokenPerturbationGuidance(5, layers=MID)]),
    "sag": Case(
        [Term("sag", 0.75, "u")], [SelfAttentionGuidance(layers=MID)], passes=(ON_U,) * COUNT
    ),
    "swg": Case(
        [Term("swg", 1.0)],
        [SlidingWindowGuidance()],
        passes=(("4+2+2+2+2", "2+2+2+2+2|2"),) * COUNT,
        layers=((),),
    ),
    # Predictions.
    "seg, unconditional": Case(
        [Term("seg", branch="u")], [seg(formulation="unconditional")], passes=(ON_U,) * COUNT
    ),
    "sag, conditional": Case(
        [Term("sag", 0.75)], [SelfAttentionGuidance(layers=MID, formulation="conditional")]
    ),
    "seg, without CFG": Case([Term("seg")], [seg()], passes=(C_ALONE,) * COUNT, g=1.0),
    "seg, unconditional, without CFG": Case(
        [Term("seg", 2.0, "u")],
        [seg(scale=2, formulation="unconditional")],
        passes=(C_ALONE,) * COUNT,
        g=1.0,
    ),
    # Combinations.
    "project": Case([Term("seg", combine="project")], [seg(combine="project")]),
    "project, unconditional": Case(
        [Term("seg", branch="u", combine="project")],
        [seg(combine="project", formulation="unconditional")],
        passes=(ON_U,) * COUNT,
    ),
    "rescale": Case([Term("seg", combine="rescale")], [seg(combine="rescale:0.7")]),
    "rescale, unconditional": Case(
        [Term("seg", branch="u", combine="rescale")],
        [seg(combine="rescale:0.7", formulation="unconditional")],
        passes=(ON_U,) * COUNT,
    ),
    "rescale partial": Case(
        [Term("seg", combine="rescale partial")], [seg(combine="rescale:0.7:partial")]
    ),
    "fuse": Case([Term("seg", 9.0, combine="fuse")], [seg(scale=9, combine="fuse")]),
    "fuse in two guidances": Case(
        [Term("seg", 6.0, combine="fuse"), Term("pag up", 3.0, combine="fuse")],
        [seg(scale=6, combine="fuse"), pag_up(combine="fuse")],
        passes=TWO_ON_C,
        guided=(COUNT, COUNT),
        reused=(0, 0),
        layers=((MID,), UP),
    ),
    "fuse in one of two": Case(
        [Term("seg", 9.0, combine="fuse"), Term("pag up", 1.0)],
        [seg(scale=9, combine="fuse"), pag_up(scale=1)],
        passes=TWO_ON_C,
        guided=(COUNT, COUNT),
        reused=(0, 0),
        layers=((MID,), UP),
    ),
    "fuse, without CFG": Case(
        [Term("seg", 9.0, combine="fuse")],
        [seg(scale=9, combine="fuse")],
        passes=(C_ALONE,) * COUNT,
        g=1.0,
    ),
    "rescaled result": Case([Term("seg")], [seg()], rescale=0.7),
    "rescaled result, unconditional": Case(
        [Term("seg", branch="u")],
        [seg(formulation="unconditional")],
        passes=(ON_U,) * COUNT,
        rescale=0.7,
    ),
    # Several.
    "mid and up": Case(
        [Term("seg"), Term("pag up", 2.0)],
        [seg(), pag_up(scale=2)],
        passes=TWO_ON_C,
        guided=(COUNT, COUNT),
        reused=(0, 0),
        layers=((MID,), UP),
    ),
    "mid on c and up on u": Case(
        [Term("seg"), Term("pag up", 2.0, "u")],
        [seg(), pag_up(scale=2, formulation="unconditional")],
        passes=(("4+2+2", "2+2|2+2"),) * COUNT,
        guided=(COUNT, COUNT),
        reused=(0, 0),
        layers=((MID,), UP),
    ),
    "every second, and some steps": Case(
        [Term("seg", every=2), Term("pag up", 2.0, steps=(0, 1))],
        [seg(every=2), pag_up(scale=2, steps="begin")],
        passes=(TWO_ON_C[0], ON_C, ON_C, PLAIN, ON_C, PLAIN),
        guided=(3, 2),
        reused=(3, 0),
        layers=((MID,), UP),
    ),
    # Steps.
    "every=2": Case(
        [Term("seg", every=2)], [seg(every=2)], passes=EVERY_SECOND, guided=(3,), reused=(3,)
    ),
    "every=2, unconditional": Case(
        [Term("seg", branch="u", every=2)],
        [seg(every=2, formulation="unconditional")],
        passes=(ON_U, PLAIN) * 3,
        guided=(3,),
        reused=(3,),
    ),
    "every=4": Case(
        [Term("seg", every=4)],
        [seg(every=4)],
        passes=(ON_C, PLAIN, PLAIN, PLAIN, ON_C, PLAIN),
        guided=(2,),
        reused=(4,),
    ),
    "every=2, fuse, a scale that falls": Case(
        [Term("seg", lambda i: 9 - i, combine="fuse", every=2)],
        [seg(every=2, scale="linear:9:4", combine="fuse")],
        passes=EVERY_SECOND,
        guided=(3,),
        reused=(3,),
    ),
    "begin": Case([Term("seg", steps=(0, 1))], [seg(steps="begin")], passes=BEGIN, guided=(2,)),
    "every:2": Case(
        [Term("seg", steps=(0, 2, 4))], [seg(steps="every:2")], passes=EVERY_SECOND, guided=(3,)
    ),
    "every=2 of every second step": Case(
        [Term("seg", steps=(1, 3, 5), every=2)],
        [seg(steps="every:2,offset=1", every=2)],
        passes=(PLAIN, ON_C, PLAIN, PLAIN, PLAIN, ON_C),
        guided=(2,),
        reused=(1,),
    ),
    "noise levels": Case(
        [Term("seg", steps=(1, 2, 3))],
        [seg(steps="sigma:0.6:4")],
        passes=(PLAIN, ON_C, ON_C, ON_C, PLAIN, PLAIN),
        guided=(3,),
    ),
    "adaptive": Case(
        [Term("seg", until=0.99)],
        [seg(steps="adaptive:0.99")],
        passes=(ON_C,) * 4 + (PLAIN,) * 2,
        guided=(4,),
    ),
    "adaptive, unconditional": Case(
        [Term("pag up", branch="u", until=0.86)],
        [pag_up(steps="adaptive:0.86", formulation="unconditional")],
        passes=(ON_U,) * 2 + (PLAIN,) * 4,
        guided=(2,),
        layers=(UP,),
    ),
    # Scales.
    "a scale that falls": Case(
        [Term("seg", lambda i: 5 - i)],
        [seg(scale="linear:5:0")],
        passes=(ON_C,) * 5 + (PLAIN,),
        guided=(5,),
    ),
    "a table": Case(
        [Term("seg", lambda i: (2, 0, 6)[i // 2])],
        [seg(scale="table:2:0:6")],
        passes=(ON_C, ON_C, PLAIN, PLAIN, ON_C, ON_C),
        guided=(4,),
    ),
    "a scale that follows the timestep": Case(
        [Term("pag", lambda i: max(3 - 0.005 * (1000 - int(scheduler.timesteps[i])), 0))],
        [PerturbedAttentionGuidance(layers=MID, adaptive_scale=0.005)],
        passes=(ON_C,) * 3 + (PLAIN,) * 3,
        guided=(3,),
    ),
    # Steps without CFG.
    "an interval": Case(
        [],
        [],
        passes=(PLAIN,) * 3 + (ALONE,) * 3,
        guided=(),
        reused=(),
        layers=(),
        cfg=(0, 1, 2),
        interval=GuidanceInterval("0:0.5"),
    ),
    "an interval of noise levels, and seg": Case(
        [Term("seg")],
        [seg()],
        passes=(C_ALONE, ON_C, ON_C, C_ALONE, C_ALONE, C_ALONE),
        cfg=(1, 2),
        interval=GuidanceInterval("sigma:1:4"),
    ),
    "an interval, and seg on u": Case(
        [Term("seg", branch="u")],
        [seg(formulation="unconditional")],
        passes=(ON_U,) * 3 + (C_ALONE,) * 3,
        cfg=(0, 1, 2),
        interval=GuidanceInterval("0:0.5"),
    ),
    "an interval, and a difference of c": Case(
        [Term("seg", every=4)],
        [seg(every=4)],
        passes=(ON_C, PLAIN, PLAIN, ALONE, C_ALONE, ALONE),
        guided=(2,),
        reused=(4,),
        cfg=(0, 1, 2),
        interval=GuidanceInterval("0:0.5"),
    ),
    "an interval, and a difference of u, which is none of c": Case(
        [Term("seg", branch="u", every=4)],
        [seg(every=4, formulation="unconditional")],
        passes=(ON_U, PLAIN, PLAIN, C_ALONE, ALONE, ALONE),
        guided=(2,),
        reused=(4,),
        cfg=(0, 1, 2),
        interval=GuidanceInterval("0:0.5"),
    ),
    "an interval, and fusion": Case(
        [Term("seg", 9.0, combine="fuse")],
        [seg(scale=9, combine="fuse")],
        passes=(ON_C,) * 3 + (C_ALONE,) * 3,
        cfg=(0, 1, 2),
        interval=GuidanceInterval("0:0.5"),
    ),
    "an interval, and the rescaled sum": Case(
        [Term("seg", combine="rescale")],
        [seg(combine="rescale:0.7")],
        passes=(ON_C,) * 3 + (C_ALONE,) * 3,
        cfg=(0, 1, 2),
        interval=GuidanceInterval("0:0.5"),
    ),
    "an interval, seg at some of its steps, and a rescaled result": Case(
        [Term("seg", steps=(0, 1))],
        [seg(steps="begin")],
        passes=(ON_C,) * 2 + (PLAIN,) + (ALONE,) * 3,
        guided=(2,),
        cfg=(0, 1, 2),
        interval=GuidanceInterval("0:0.5"),
        rescale=0.7,
    ),
}
