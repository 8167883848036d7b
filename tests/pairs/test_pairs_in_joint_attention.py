"""NAG where text and image attend together, beside every guidance with a second pass.

The rows with the prompt run once more there, in second passes too, so that rows move. All is
written out for one step; nothing that is computed by hand is the package's.
"""

import contextlib
import copy
import functools
import math

import loops_by_hand
import pytest
import tiny_sd3
import torch
import torch.nn.functional as F
from brute_force_guidance import grid_blur_matrix
from tiny_pipelines import MARGIN, TOLERANCE, difference, noise

from smoothed_energy import NormalizedAttentionGuidance, guidance_from_text
from smoothed_energy.families import LayerError

ROWS, G, TIME, STEP, COUNT = 2, 4.0, 700, 1, 4
SIGMA = 7 / 3
NAG = 3.0, 2.5, 0.5
SIZE, GRID = (12, 8), (6, 4)
LAYERS = [f"transformer_blocks.{n}.attn" for n in range(4)]
TEXTS = {
    name: (noise(ROWS, 5, 16, seed=seed), noise(ROWS, 24, seed=seed + 10))
    for name, seed in (("c", 2), ("u", 3), ("negative", 4))
}
X = noise(ROWS, 4, *SIZE, seed=1)


@functools.cache
def transformer():
    return copy.deepcopy(tiny_sd3.transformer()).requires_grad_(False)


replaced = functools.partial(loops_by_hand.replaced, of=transformer)


def attention(nag, layers=(), how="", grid=GRID, seen=None):
    """Attention of all blocks, perturbed in some layers; with NAG the last half is negative."""

    def forward_of(name, module):
        def heads(tokens):
            return tokens.unflatten(2, (module.heads, -1)).transpose(1, 2)

        def forward(hidden_states, encoder_hidden_states=None, **more):
            image, half = hidden_states, len(hidden_states) // 2
            if nag:
                image = torch.cat([image[:half]] * 2)
            count = image.shape[1]
            query, key, value = (
                heads(
                    torch.cat(
                        [
                            getattr(module, f"to_{kind}")(image),
                            getattr(module, f"add_{kind}_proj")(encoder_hidden_states),
                        ],
                        dim=1,
                    )
                ).double()
                for kind in "qkv"
            )
            logits = query @ key.mT / math.sqrt(query.shape[-1])
            own = logits[:, :, :count]
            if name in layers and how == "blur":
                own[:] = grid_blur_matrix(grid, 1.0) @ own
            if name in layers and how == "temperature":
                own /= 4
            if name in layers and how == "itself":
                others = ~torch.eye(count, dtype=torch.bool)
                own[..., :count].masked_fill_(others, -math.inf)
            weights = logits.softmax(-1)
            if seen is not None:
                seen[name] = weights.mean(1).sum(1)[:ROWS, :count]
            found = weights @ value
            if nag:
                scale, tau, alpha = NAG
                plus, minus = found[:half, :, :count], found[half:, :, :count]
                away = plus + scale * (plus - minus)
                size, most = (one.abs().sum((1, 3), keepdim=True) for one in (away, plus))
                found[:half, :, :count] = (
                    alpha * away * (tau * most / size).clamp(max=1) + (1 - alpha) * plus
                )
            found = found.transpose(1, 2).flatten(2).to(image.dtype)
            words = found[:, count:]
            words = words if module.context_pre_only else module.to_add_out(words)
            return module.to_out[0](found[:, :count]), words

        return forward

    return replaced(LAYERS, forward_of)


def predict(branch, *, x=X, time=TIME, change=contextlib.nullcontext, perturbed=((), ""), **more):
    """A prediction with NAG, where there is the prompt."""
    words, pooled = TEXTS[branch]
    with_nag = branch == "c"
    if with_nag:
        words, pooled = (
            torch.cat([a, b]) for a, b in zip(TEXTS["c"], TEXTS["negative"], strict=True)
        )
    grid = tuple(side // 2 for side in x.shape[2:])
    with change(), attention(with_nag, *perturbed, grid, **more), torch.no_grad():
        x = torch.cat([x, x]) if with_nag else x
        return call(x, time, words, pooled)[:ROWS]


def call(x, time, words, pooled):
    return transformer()(
        x,
        timestep=torch.full((len(x),), time),
        encoder_hidden_states=words,
        pooled_projections=pooled,
    ).sample


def within(how, *numbers):
    layers = [LAYERS[n] for n in numbers]
    return lambda branch: predict(branch, perturbed=(layers, how))


def through_blocks(change_of, *numbers):
    names = [f"transformer_blocks.{n}" for n in numbers]
    return lambda branch: predict(branch, change=lambda: replaced(names, change_of))


def skipped(name, module):
    return lambda hidden_states, encoder_hidden_states, **more: (
        encoder_hidden_states,
        hidden_states,
    )


def shuffled(name, module):
    forward = type(module).forward
    order = guidance_from_text("tpg; seed=3").perturbation.permutation

    def other(hidden_states, **more):
        places = order(f"{name}.attn", STEP, hidden_states.shape[1])
        return forward(module, hidden_states=hidden_states[:, places], **more)

    return other


def noisy_time(branch):
    plan = guidance_from_text("tsg; noise=2").plan(transformer())
    name = "time_text_embed.timestep_embedder"
    assert list(plan.edits.values()) == [name]

    def forward_of(name, module):
        def forward(*args):
            found = type(module).forward(module, *args)
            added = plan.perturbation.added(STEP, COUNT, found.shape[-1])
            return found + found.square().mean(-1, keepdim=True).sqrt() * added

        return forward

    return predict(branch, change=lambda: replaced([name], forward_of))


def through_windows(branch, **how):
    plain = predict(branch, **how)
    total, seen = torch.zeros_like(plain), torch.zeros_like(plain)
    for top in (0, 4):
        for left in (0, 2):
            window = (..., slice(top, top + 8), slice(left, left + 6))
            total[window] += predict(branch, x=X[window], **how)
            seen[window] += 1
    return torch.where(seen > 1, total / seen, plain)


def degraded(branch):
    """For a clean picture that is blurred where the image's tokens look, the text left out."""
    seen, part = {}, SIGMA / (1 + SIGMA)
    velocity = predict(branch, seen=seen)
    picture, made_of = X - part * velocity, X + (1 - part) * velocity
    weights = torch.exp(-0.5 * torch.arange(-4.0, 5.0) ** 2)
    kernel = (torch.outer(weights, weights) / weights.sum() ** 2).expand(4, 1, 9, 9)
    blurred = F.conv2d(F.pad(picture, (4, 4, 4, 4), mode="reflect"), kernel, groups=4)
    looked = seen[LAYERS[1]]
    mask = (looked > looked.mean(1, keepdim=True)).float().reshape(-1, 1, *GRID)
    picture = torch.lerp(picture, blurred, F.interpolate(mask, SIZE))
    return predict(branch, x=(1 - part) * picture + part * made_of)


@functools.cache
def at_random():
    guidance = guidance_from_text("s2; share=0.5")
    blocks = guidance.perturbation.on(guidance.select(transformer())).skipped(STEP)
    return [int(name.rpartition(".")[2]) for name in blocks]


SECOND_PASSES = {
    "seg; blur=gaussian:1; layers=b1,b2": within("blur", 1, 2),
    "pag; layers=b2": within("itself", 2),
    "erg; layers=b1; temperature=4": within("temperature", 1),
    "slg; layers=b1-b2": through_blocks(skipped, 1, 2),
    "s2; share=0.5": lambda branch: through_blocks(skipped, *at_random())(branch),
    "tpg; layers=b1; seed=3": through_blocks(shuffled, 1),
    "swg": through_windows,
    "sag; layers=b1": degraded,
    "tsg; noise=2": noisy_time,
    "sg; shift=150": lambda branch: predict(branch, time=TIME + 150),
}


def nag(**more):
    words, pooled = TEXTS["negative"]
    text = {"encoder_hidden_states": words, "pooled_projections": pooled}
    scale, tau, alpha = NAG
    return NormalizedAttentionGuidance(
        scale=scale, tau=tau, alpha=alpha, negative_embeds=text, **more
    )


@contextlib.contextmanager
def attached(guidances):
    """A block in which guidances act, and a function that says what the next call is."""
    facts = {"sigma": SIGMA, "timestep": float(TIME), "prediction_type": "flow", "cfg_scale": G}
    with contextlib.ExitStack() as stack, torch.no_grad():
        one, *_ = [stack.enter_context(one.attach(transformer())) for one in guidances]
        yield functools.partial(one.step, STEP, COUNT, **facts)


def in_two_calls(*guidances):
    """What a step comes to if the denoiser is called with the prompt, and then without."""
    with attached(guidances) as tell:
        tell(branch="conditional")
        c = call(X, TIME, *TEXTS["c"])
        tell(branch="unconditional")
        u = call(X, TIME, *TEXTS["u"])
        return u + G * (c - u)


def in_one_batch(*guidances):
    """What a step comes to."""
    with attached(guidances) as tell:
        tell(conditional_rows=ROWS)
        words, pooled = (torch.cat([u, c]) for u, c in zip(TEXTS["u"], TEXTS["c"], strict=True))
        u, c = call(torch.cat([X, X]), TIME, words, pooled).chunk(2)
        return u + G * (c - u)


@pytest.mark.parametrize("text", SECOND_PASSES)
def test_second_passes_have_the_negative_text_too(text):
    clean = {branch: predict(branch) for branch in "cu"}
    plain = clean["u"] + G * (clean["c"] - clean["u"])
    assert difference(in_one_batch(nag()), plain) < TOLERANCE
    for branch, formulation in (("c", "conditional"), ("u", "unconditional")):
        guidance = guidance_from_text(f"{text}; scale=3; formulation={formulation}")
        expected = plain + 3 * (clean[branch] - SECOND_PASSES[text](branch))
        assert difference(expected, plain) > MARGIN * TOLERANCE
        assert difference(in_one_batch(nag(), guidance), expected) < TOLERANCE
        assert difference(in_two_calls(guidance, nag()), expected) < TOLERANCE


def test_rows_without_the_prompt_may_be_perturbed_within():
    guidance = guidance_from_text("slg; layers=b1; formulation=within")
    c, u = predict("c"), through_blocks(skipped, 1)("u")
    for guidances in ((nag(), guidance), (guidance, nag())):
        assert difference(in_one_batch(*guidances), u + G * (c - u)) < TOLERANCE


def test_sparse_weights_are_of_attention_to_the_text_alone():
    with nag().attach(transformer()), pytest.raises(LayerError, match="text alone"):
        guidance_from_text("pladis").attach(transformer())


def test_two_negative_texts_are_refused():
    with pytest.raises(RuntimeError, match="can be added to a batch once"):
        in_one_batch(nag(), nag(layers="b1"))


def test_windows_know_their_own_size_where_rows_are_perturbed_within():
    within = guidance_from_text("seg; blur=gaussian:1; layers=b1; formulation=within")
    windows = guidance_from_text("swg; formulation=unconditional; scale=2")
    perturbed = ([LAYERS[1]], "blur")
    c, u = predict("c"), predict("u", perturbed=perturbed)
    expected = u + G * (c - u) + 2 * (u - through_windows("u", perturbed=perturbed))
    assert difference(in_one_batch(nag(), within, windows), expected) < TOLERANCE


def test_where_an_interval_takes_cfg_away():
    interval = guidance_from_text("interval; steps=0:0.2")
    text = "seg; blur=gaussian:1; layers=b1,b2"
    seg = guidance_from_text(f"{text}; formulation=unconditional; scale=3")
    c = predict("c")
    expected = c + 3 * (c - SECOND_PASSES[text]("c"))
    for loop in (in_one_batch, in_two_calls):
        assert difference(loop(nag(), seg, interval), expected) < TOLERANCE
