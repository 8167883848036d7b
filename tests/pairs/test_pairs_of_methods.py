"""Every pair of methods equals the loop by hand, or is refused with the reason."""

import contextlib
import itertools

import pytest
import torch
from loops_by_hand import COUNT, TEXTS, TIMES, G, guided, levels, sample, sigma, unet
from pieces import METHODS as BY_HAND
from pieces import PIECES, REFUSED

from smoothed_energy.methods import METHODS
from smoothed_energy.methods.registry import METHODS as REGISTERED

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
