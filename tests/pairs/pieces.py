"""Every method as a piece of the loop by hand and in the package's words, and what is refused."""

import functools

from cfg_rules_by_hand import apg, cfg_zero, fdg, mambo, tcfg
from loops_by_hand import (
    COUNT,
    NEGATIVE,
    Piece,
    blocks_of,
    by_weak_denoiser,
    degraded,
    history_guided,
    mean_of_pictures,
    mean_of_predictions,
    noisy_time,
    plus_plus,
    projected_and_rescaled,
    self_attention,
    shuffled,
    skipped,
    skipped_feed_forward,
    tangential,
    through_windows,
    told_later,
    unet,
    weak,
)
from tiny_pipelines import DOWN, MID, UP

from smoothed_energy import Autoguidance, NormalizedAttentionGuidance, guidance_from_text

NAG = (4.0, 2.5, 0.5)


def of(text):
    return functools.partial(guidance_from_text, text)


def nag():
    scale, tau, alpha = NAG
    return NormalizedAttentionGuidance(
        scale=scale, tau=tau, alpha=alpha, negative_embeds={"encoder_hidden_states": NEGATIVE}
    )


# Random numbers are the package's: each method tells them by what it perturbs with.


def order(seed):
    return guidance_from_text(f"tpg; seed={seed}").perturbation.permutation


def blocks_at(text):
    @functools.cache
    def found(step):
        guidance = guidance_from_text(text)
        return guidance.perturbation.on(guidance.select(unet())).skipped(step)

    return found


def added(text):
    @functools.cache
    def found(step, width):
        (perturbation,) = {guidance_from_text(text).plan(unet()).perturbation}
        return perturbation.added(step, COUNT, width)

    return found


S2 = "s2; share=0.5; seed=3; scale=1.5"
TSG = "tsg; noise=2; seed=3; scale=1.5; formulation=unconditional"
WINDOWS = ((0, 6), (2, 8)), ((0, 4), (2, 6))

#: The piece of each method, by its name.
METHODS = {
    "seg": Piece(
        of(f"seg; blur=gaussian:1; layers={MID},{UP[0]}"),
        change=self_attention([MID, UP[0]], blur=1.0),
        scale=3.0,
    ),
    "pag": Piece(
        of(f"pag; layers={MID},{DOWN}; scale=2"),
        change=self_attention([MID, DOWN], identity=True),
        scale=2.0,
    ),
    "sag": Piece(of(f"sag; layers={MID}"), negative=degraded, scale=0.75, branch="u"),
    "erg": Piece(
        of(f"erg; layers={UP[0]},{UP[1]}; temperature=3"),
        change=self_attention(UP, temperature=3.0),
        scale=3.0,
    ),
    "slg": Piece(
        of(f"slg; layers={DOWN}; skip=feed-forward"),
        change=skipped_feed_forward([DOWN]),
        scale=3.0,
    ),
    "s2": Piece(of(S2), change=skipped(blocks_at(S2)), scale=1.5),
    "tpg": Piece(
        of(f"tpg; layers={MID},{UP[1]}; seed=3"), change=shuffled([MID, UP[1]], order(3)), scale=3.0
    ),
    "swg": Piece(
        of("swg; scale=1.5; formulation=unconditional"),
        negative=through_windows(*WINDOWS),
        scale=1.5,
        branch="u",
    ),
    "tsg": Piece(of(TSG), change=noisy_time(added(TSG)), scale=1.5, branch="u"),
    "sg": Piece(of("sg; shift=150"), negative=told_later(150), scale=3.0),
    "autoguidance": Piece(
        lambda: Autoguidance(weak=weak(), scale=1.5), negative=by_weak_denoiser, scale=1.5
    ),
    "nag": Piece(nag, nag=NAG),
    "pladis": Piece(of("pladis; scale=2"), pladis=2.0),
    "momentum": Piece(of("momentum; scale=0.8"), history=mean_of_pictures(0.5), scale=0.8),
    "higs": Piece(
        of("higs; scale=1.5; eta=0.3; alpha=0.6; cutoff=0.1; least=0.2"),
        result=history_guided(1.5, 0.3, 0.6, 0.1, 0.2),
        remembers=True,
    ),
    "tag": Piece(of("tag; eta=1.4"), result=tangential(1.4)),
    "apg": Piece(of("apg; norm=2; eta=0.2"), rule=apg(0.2, -0.5, 2.0)),
    "cfg-zero": Piece(of("cfg-zero"), rule=cfg_zero(1), rests=lambda step: step < 1),
    "tcfg": Piece(of("tcfg"), rule=tcfg),
    "fdg": Piece(of("fdg; scales=8:3"), rule=fdg((8, 3))),
    "mambo-g": Piece(of("mambo-g; alpha=2"), rule=mambo(2.0)),
    "cfgpp": Piece(of("cfgpp; scale=0.7"), rule=plus_plus(0.7)),
    "interval": Piece(of("interval; steps=every:2"), cfg=(0, 2)),
}

#: Settings that matter beside others.
SETTINGS = {
    "within": Piece(
        of(f"tpg; layers={DOWN},{UP[0]}; seed=4; formulation=within"),
        within=shuffled([DOWN, UP[0]], order(4)),
    ),
    "blurred within": Piece(
        of(f"seg; blur=gaussian:1.5; layers={UP[1]}; formulation=within"),
        within=self_attention([UP[1]], blur=1.5),
    ),
    "fuse, unconditional, refreshed": Piece(
        of(
            f"erg; layers={MID}; temperature=5; scale=9; combine=fuse; formulation=unconditional; "
            "refresh=every:2"
        ),
        change=self_attention([MID], temperature=5.0),
        scale=9.0,
        branch="u",
        combine="fuse",
        every=2,
    ),
    "project+rescale": Piece(
        of(f"slg; layers={MID}; combine=project+rescale:0.7"),
        change=skipped(lambda step: blocks_of([MID])),
        scale=3.0,
        combine=projected_and_rescaled,
    ),
    "momentum, unconditional": Piece(
        of("momentum; of=prediction; scale=0.8; decay=0.3; formulation=unconditional"),
        history=mean_of_predictions(0.3),
        scale=0.8,
        branch="u",
    ),
}

PIECES = METHODS | SETTINGS

RULES = ("apg", "cfg-zero", "tcfg", "fdg", "mambo-g", "cfgpp")

#: Pairs that are refused, and what the refusal says.
REFUSED = {
    frozenset((one, other)): "each compute the sum of classifier-free guidance, and there is one"
    for one in RULES
    for other in RULES
    if one != other
} | {
    frozenset(("autoguidance", other)): f"{other} changes what this one predicts and not the other"
    for other in ("nag", "pladis")
}
