"""Every pair of methods equals the loop by hand, or is refused with the reason."""

import contextlib
import functools
import itertools
import random
from dataclasses import replace

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from loops_by_hand import COUNT, TEXTS, TIMES, G, guided, sample, sigma, unet
from pieces import METHODS as BY_HAND
from pieces import PIECES, REFUSED
from tiny_pipelines import DOWN, MID, UP

from smoothed_energy import (
    Autoguidance,
    NormalizedAttentionGuidance,
    attachments,
    guidance_from_text,
)
from smoothed_energy.methods import METHODS
from smoothed_energy.modular import SmoothedEnergyGuider

# Greatest difference allowed, over the greatest absolute value: some statistics are in single
# precision.
TOLERANCE = 1e-6
# The two of a pair must both change the result by this much more.
MARGIN = 100


def difference(one, other):
    return float((one - other).abs().max() / other.abs().max())


@contextlib.contextmanager
def attached(names):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(PIECES[name].guidance().attach(unet())) for name in names]


def tell(attachment, step, **more):
    attachment.step(
        step,
        COUNT,
        sigma=sigma(step),
        next_sigma=sigma(step + 1),
        timestep=float(TIMES[step]),
        prediction_type="epsilon",
        cfg_scale=G,
        **more,
    )


def in_one_batch(names):
    """What the steps come to if the denoiser is called with `[u, c]`."""
    found = []
    with attached(names) as attachments, torch.no_grad():
        for step in range(COUNT):
            x, words = sample(step), torch.cat([TEXTS["u"], TEXTS["c"]])
            tell(attachments[0], step, conditional_rows=len(x))
            both = unet()(torch.cat([x, x]), TIMES[step], encoder_hidden_states=words).sample
            u, c = both.chunk(2)
            found.append(u + G * (c - u))
    return torch.stack(found)


def in_two_calls(names):
    """What they come to if it is called with the prompt first, and then without it."""
    found = []
    with attached(names) as attachments, torch.no_grad():
        for step in range(COUNT):
            x, predicted = sample(step), []
            for branch in ("conditional", "unconditional"):
                tell(attachments[0], step, branch=branch)
                words = TEXTS[branch[0]]
                predicted.append(unet()(x, TIMES[step], encoder_hidden_states=words).sample)
            c, u = predicted
            found.append(u + G * (c - u))
    return torch.stack(found)


@functools.cache
def scheduler():
    """One whose noise levels are those of the loop."""
    found = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
    )
    found.set_timesteps(COUNT)
    assert tuple(found.timesteps.tolist()) == TIMES
    return found


def in_a_guider(names):
    """What they come to if a guider asks for one batch after the other."""
    return in_a_guider_of([PIECES[name].guidance() for name in names])


def in_a_guider_of(guidances):
    guider, found = SmoothedEnergyGuider(guidances, guidance_scale=G), []
    guider.scheduler = scheduler()
    with torch.no_grad():
        for step, time in enumerate(scheduler().timesteps):
            guider.set_state(step, COUNT, time)
            batches = guider.prepare_inputs({"text": (TEXTS["c"], TEXTS["u"])})
            for batch in batches:
                guider.prepare_models(unet())
                x = sample(step)
                batch.noise_pred = unet()(x, time, encoder_hidden_states=batch.text).sample
                guider.cleanup_models(unet())
            found.append(guider(batches).pred)
    return torch.stack(found)


def by_hand(names):
    with torch.no_grad():
        return guided(tuple(PIECES[name] for name in names))


def wrong_with(names, loop):
    """How a loop with the package differs from that by hand; empty if it does not."""
    try:
        error = difference(loop(names), by_hand(names))
    except Exception as failure:  # all pairs are to be told at once
        return f"{' + '.join(names)}, {loop.__name__}: {type(failure).__name__}: {failure}"
    return f"{' + '.join(names)}, {loop.__name__}: {error:.1e}" if error > TOLERANCE else ""


def attach(names):
    """Attach these guidances, and detach them."""
    with attached(names):
        pass


def pairs_with(name):
    """The pairs of a piece and those after it that stand together."""
    later = list(PIECES)[list(PIECES).index(name) + 1 :]
    return [(name, other) for other in later if frozenset((name, other)) not in REFUSED]


def test_every_method_is_here():
    missing = sorted(set(METHODS) - set(BY_HAND))
    assert not missing, (
        f"{', '.join(missing)}: a method needs a Piece in METHODS of tests/pairs/pieces.py, which "
        "does by hand what it does, so that it is tried beside all others; pairs that can't stand "
        "together are in REFUSED there, and refused by guidance/beside.py"
    )


@pytest.mark.parametrize("name", PIECES)
def test_alone_and_beside_all_others(name):
    wrong = [wrong_with([name], in_one_batch)]
    alone = {one: by_hand([one]) for one in PIECES}
    for number, pair in enumerate(pairs_with(name)):
        # One after the other in both orders, and as one batch and as two calls.
        one_batch = number % 2 == 0
        names = pair if number % 4 < 2 else pair[::-1]
        wrong.append(wrong_with(names, in_one_batch if one_batch else in_two_calls))
        expected = by_hand(names)
        for one in pair:
            if difference(expected, alone[one]) < MARGIN * TOLERANCE:
                wrong.append(f"{names} by hand is as {one} alone")
    assert not any(wrong), "\n".join(filter(None, wrong))


@pytest.mark.parametrize("reason", sorted(set(REFUSED.values())))
def test_what_cant_stand_together_is_refused_with_the_reason(reason):
    for pair in [pair for pair, why in REFUSED.items() if why == reason]:
        for names in itertools.permutations(pair):
            with pytest.raises(RuntimeError, match=reason):
                attach(names)
            assert not attachments(unet())


def test_three_of_them():
    """Some, drawn at random, in every protocol and any order."""
    draw, wrong, tried = random.Random(1), [], 0
    while tried < 20:
        names = draw.sample(list(PIECES), 3)
        if any(frozenset(pair) in REFUSED for pair in itertools.combinations(names, 2)):
            continue
        loop = (in_one_batch, in_two_calls, in_a_guider)[tried % 3]
        if loop is in_a_guider and {"nag", "autoguidance"} & {*names}:
            loop = in_one_batch  # A guider has settings that can be written down.
        wrong.append(wrong_with(names, loop))
        tried += 1
    assert not any(wrong), "\n".join(filter(None, wrong))


def test_what_acts_on_the_result_acts_in_the_order_of_attaching():
    one, other = ("tag", "higs"), ("higs", "tag")
    for names in (one, other):
        assert not wrong_with(names, in_one_batch)
    assert difference(by_hand(one), by_hand(other)) > MARGIN * TOLERANCE


def unconditional(text, layers):
    return guidance_from_text(f"{text}; formulation=unconditional; layers={layers}")


@pytest.mark.parametrize(
    ("within", "other"),
    [
        # Attention that is not computed there, or of tokens in another order.
        (f"pag; layers={MID}", unconditional("seg", MID)),
        (f"slg; layers={UP[0]}", unconditional("erg", UP[0])),
        (f"tpg; layers={DOWN}", unconditional("seg", DOWN)),
        (f"seg; layers={MID}", guidance_from_text(f"sag; layers={MID}; formulation=conditional")),
        (f"tpg; layers={MID}", guidance_from_text(f"sag; layers={MID}")),
    ],
)
def test_a_layer_is_perturbed_or_looked_at_once_in_the_rows_without_the_prompt(within, other):
    within = guidance_from_text(f"{within}; formulation=within")
    for first, second in ((within, other), (other, within)):
        with first.attach(unet()), pytest.raises(RuntimeError, match="formulation=within of anoth"):
            second.attach(unet())
    with within.attach(unet()), replace(other, steps="0:0.5").attach(unet()):
        pass  # It depends on the step.
    if other.formulation == "unconditional":  # A guider has a call for each.
        with pytest.raises(RuntimeError, match="formulation=within of another"):
            in_a_guider_of([within, other])


def test_a_weaker_denoiser_is_not_compared_with_what_is_perturbed_within():
    within = PIECES["within"].guidance()
    weaker = Autoguidance(weak=unet(), formulation="unconditional")
    refused = pytest.raises(RuntimeError, match=r"tpg \(formulation=within\).*=conditional")
    with within.attach(unet()), refused:
        weaker.attach(unet())
    # What is off, or in other rows, changes nothing that is compared.
    for one in (replace(weaker, scale=0), replace(weaker, formulation="conditional")):
        with within.attach(unet()), one.attach(unet()):
            pass


def test_two_negative_prompts_turn_other_attention_away():
    texts = {"negative_embeds": {"encoder_hidden_states": TEXTS["u"]}, "alpha": 0.5, "tau": 9}
    everywhere, middle, up = (
        NormalizedAttentionGuidance(layers=layers, **texts) for layers in ("all", "mid", "up")
    )
    with everywhere.attach(unet()) as attachment, middle.attach(unet()):
        tell(attachment, 0)
        with pytest.raises(RuntimeError, match="two guidances turn the same attention away"):
            unet()(sample(0), TIMES[0], encoder_hidden_states=TEXTS["c"])
    found = []
    for guidances in ((middle, up), (NormalizedAttentionGuidance(layers="mid,up", **texts),)):
        with contextlib.ExitStack() as stack, torch.no_grad():
            for one in guidances:
                tell(stack.enter_context(one.attach(unet())), 0)
            found.append(unet()(sample(0), TIMES[0], encoder_hidden_states=TEXTS["c"]).sample)
    assert difference(*found) < TOLERANCE
