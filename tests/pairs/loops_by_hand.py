r"""A guided step by hand, from pieces: what each method does, and how pieces go together.

A step predicts $c$ with the prompt and $u$ without it, and comes to

$$D + \sum \delta, \qquad D = u + g\,(c - u), \qquad \delta = \gamma\,(s - \tilde s)$$

Changes of passes are made in all of them, the second ones too, where their rows are; `within`
changes $u$ alone. A rule puts another $D$ in its place, an interval takes $u$ away, so that $D$ is
$c$ and $s$ is $c$, and what acts on the result comes last, one after the other.

The input of every step is given, that of a plain loop, so that what was predicted once serves all
pairs. Everything is in double precision. Nothing of `smoothed_energy` is used here.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from brute_force_fusion import _mirrored, _weights
from brute_force_guidance import grid_blur_matrix
from cfg_rules_by_hand import cfg
from sparse_by_hand import sparse_weights
from tiny_pipelines import DOWN, MID, TEXT_WIDTH, UP, new_unet, noise

COUNT, ROWS, G = 3, 2, 4.0
GRID = (8, 6)
TIMES = (999, 666, 332)
LAYERS = (DOWN, MID, *UP)


@functools.cache
def new(seed):
    """A U-Net whose attention is far from uniform, to the text too."""
    found = new_unet(block_out_channels=(16, 32), norm_num_groups=8).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if seed:
                change = torch.randn(parameter.shape, generator=generator)
                parameter += 0.05 * change
            if "attn2" in name and name.endswith(("to_q.weight", "to_k.weight")):
                parameter *= 4
            if name.endswith(("to_v.weight", "to_out.0.weight")):
                parameter *= 2
    return found.requires_grad_(False)


def unet():
    return new(0)


def weak():
    return new(1)


def text(seed, tokens=5):
    return noise(ROWS, tokens, TEXT_WIDTH, seed=seed).double()


TEXTS = {"c": text(2), "u": text(3)}
NEGATIVE = text(4, tokens=7)


@functools.cache
def levels(step):
    """The part of the picture in the input of a step, and that of the noise."""
    if step == COUNT:
        return 1.0, 0.0
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = float((1 - betas).cumprod(0)[TIMES[step]])
    return math.sqrt(kept), math.sqrt(1 - kept)


def sigma(step):
    signal, part = levels(step)
    return part / signal


@functools.cache
def sample(step):
    """The input of a step: what a loop without guidance but CFG makes of noise."""
    if step == 0:
        return noise(ROWS, 4, *GRID, seed=5).double()
    before, x = step - 1, sample(step - 1)
    (signal, part), (later, left) = levels(before), levels(step)
    c, u = (predict(x, before, branch) for branch in "cu")
    epsilon = u + G * (c - u)
    return later * (x - part * epsilon) / signal + left * epsilon


# --- The denoiser, and what is changed in it.


def predict(x, step, branch, changes=(), *, time=None, denoiser=None):
    """One prediction, of one branch."""
    denoiser = denoiser or unet()
    with contextlib.ExitStack() as stack:
        for change in changes:
            stack.enter_context(change(step, tuple(x.shape[2:])))
        time = TIMES[step] if time is None else time
        return denoiser(x, time, encoder_hidden_states=TEXTS[branch][: len(x)]).sample


@contextlib.contextmanager
def replaced(names, forward_of, of=unet):
    """A block in which modules of the denoiser have other forward functions."""
    modules = {name: of().get_submodule(name) for name in names}
    for name, module in modules.items():
        module.forward = forward_of(name, module)
    try:
        yield
    finally:
        for module in modules.values():
            del module.forward


def heads(module, name, tokens):
    return getattr(module, f"to_{name}")(tokens).unflatten(2, (module.heads, -1)).transpose(1, 2)


def given(module, values):
    """What an attention module makes of the values of all heads."""
    output = values.transpose(1, 2).flatten(2)
    for layer in module.to_out:
        output = layer(output)
    return output


def self_attention(layers, *, blur=0.0, temperature=1.0, identity=False, watch=None):
    """Layers with blurred logits, of a temperature, or whose tokens attend to themselves."""

    def change(step, size):
        def forward_of(name, module):
            def forward(tokens, *args, **kwargs):
                query, key, value = (heads(module, one, tokens) for one in "qkv")
                if identity:
                    return given(module, value)
                half = tuple((side + 1) // 2 for side in size)
                grid = half if name == MID else size
                logits = grid_blur_matrix(grid, blur) @ (query @ key.mT)
                weights = (logits / temperature / math.sqrt(query.shape[-1])).softmax(-1)
                if watch is not None:
                    watch[name] = weights.mean(1).sum(1).reshape(-1, *grid)
                return given(module, weights @ value)

            return forward

        return replaced(layers, forward_of)

    return change


def text_attention(nag=None, pladis=None):
    """Attention to the text: PLADIS says what its weights are, NAG which texts are asked."""

    def change(step, size):
        def forward_of(name, module):
            def attended(query, words):
                logits = query @ heads(module, "k", words).mT / math.sqrt(query.shape[-1])
                weights = logits.softmax(-1)
                if pladis:
                    weights = pladis * sparse_weights(logits) + (1 - pladis) * weights
                return weights @ heads(module, "v", words)

            def forward(tokens, encoder_hidden_states, *args, **kwargs):
                query = heads(module, "q", tokens)
                plus = attended(query, encoder_hidden_states)
                if nag:
                    scale, tau, alpha = nag
                    away = plus + scale * (plus - attended(query, NEGATIVE[: len(tokens)]))
                    size, most = (one.abs().sum((1, 3), keepdim=True) for one in (away, plus))
                    away = away * (tau * most / size).clamp(max=1)
                    plus = alpha * away + (1 - alpha) * plus
                return given(module, plus)

            return forward

        names = [name.replace("attn1", "attn2") for name in LAYERS]
        return replaced(names, forward_of)

    return change


def blocks_of(layers):
    return [name.rpartition(".")[0] for name in layers]


def skipped(blocks_at):
    """Blocks that give their input; which ones, the step decides."""

    def change(step, size):
        def forward_of(name, module):
            return lambda tokens, *args, **kwargs: tokens

        return replaced(blocks_at(step), forward_of)

    return change


def skipped_feed_forward(layers):
    def change(step, size):
        names = [f"{name}.ff" for name in blocks_of(layers)]
        return replaced(names, lambda name, module: lambda tokens, *args, **kwargs: tokens)

    return change


def shuffled(layers, order):
    """Blocks whose tokens come in another order; `order` gives it by layer, step and number."""

    def change(step, size):
        def forward_of(name, module):
            forward = type(module).forward

            def other(tokens, *args, **kwargs):
                places = order(f"{name}.attn1", step, tokens.shape[1])
                return forward(module, tokens[:, places], *args, **kwargs)

            return other

        return replaced(blocks_of(layers), forward_of)

    return change


def noisy_time(added):
    """The embedding of the time with noise, of which `added` gives a step's."""

    def change(step, size):
        def forward_of(name, module):
            forward = type(module).forward

            def other(*args, **kwargs):
                found = forward(module, *args, **kwargs)
                spread = found.square().mean(-1, keepdim=True).sqrt()
                return found + spread * added(step, found.shape[-1]).double()

            return other

        return replaced(["time_embedding"], forward_of)

    return change


# --- Pieces.


@dataclass(frozen=True, eq=False)
class Piece:
    r"""What a method does in a loop; one of these, by its kind.

    Args:
        guidance: Makes the same in the package's words.
        change: Changes its second pass: the prediction $\tilde s$ is made with it.
        negative: Makes $\tilde s$ otherwise, of a step, a branch and the changes of all passes.
        history: Makes $\tilde s$ of $s$, the step, and what it keeps.
        scale: $\gamma$.
        branch: The prediction that it perturbs under CFG.
        combine: What is done to its correction: a function of it, $s$, $c$ and $D$, or `fuse`.
        every: In how many steps a difference is used.
        within: Changes $u$ in all passes.
        nag: Settings of NAG, which changes $c$ in all passes.
        pladis: Scale of PLADIS, which changes all.
        rule: Another $D$.
        result: What it makes of the result, of the input and the step, and what it keeps.
        remembers: Whether `result` leaves out steps at which latents rest.
        cfg: The steps with CFG.
    """

    guidance: Callable
    change: Callable | None = None
    negative: Callable | None = None
    history: Callable | None = None
    scale: float = 0.0
    branch: str = "c"
    combine: Callable | str | None = None
    every: int = 1
    within: Callable | None = None
    nag: tuple | None = None
    pladis: float | None = None
    rule: Callable | None = None
    rests: Callable = lambda step: False
    result: Callable | None = None
    remembers: bool = False
    cfg: tuple[int, ...] = tuple(range(COUNT))


@dataclass
class StepByHand:
    """What rules are told of a step; `cfg_rules_by_hand` has them."""

    number: int
    x: torch.Tensor
    memory: dict


@functools.cache
def altered(pieces, branch):
    """The changes of a branch in all passes."""
    nag = next((one.nag for one in pieces if one.nag), None) if branch == "c" else None
    pladis = next((one.pladis for one in pieces if one.pladis), None)
    found = [one.within for one in pieces if one.within and branch == "u"]
    if nag or pladis:
        found.append(text_attention(nag, pladis))
    return tuple(found)


@functools.cache
def clean(step, branch, altering):
    return predict(sample(step), step, branch, altered(altering, branch))


@functools.cache
def weaker(piece, step, branch, altering):
    """What a second pass of a piece predicts."""
    changes = altered(altering, branch)
    if piece.negative is not None:
        return piece.negative(step, branch, changes)
    return predict(sample(step), step, branch, (*changes, piece.change))


def guided(pieces):
    """What all steps come to."""
    altering = tuple(one for one in pieces if one.within or one.nag or one.pladis)
    rule = next((one for one in pieces if one.rule), None)
    memories = [{} for _ in pieces]
    found = []
    for step in range(COUNT):
        has_cfg = all(step in one.cfg for one in pieces)
        c, x = clean(step, "c", altering), sample(step)
        u = clean(step, "u", altering) if has_cfg else None
        rests = False
        if u is None:
            plain = c
        elif rule is None:
            plain = u + G * (c - u)
        else:
            memory, rests = memories[pieces.index(rule)], rule.rests(step)
            plain = torch.stack(
                [
                    rule.rule(c[n], u[n], G, StepByHand(step, x[n], memory.setdefault(n, {})))
                    for n in range(ROWS)
                ]
            )
        total, to_fuse = plain, []
        for piece, memory in zip(pieces, memories, strict=True):
            if not piece.scale:
                continue
            branch = "c" if u is None else piece.branch
            s = c if branch == "c" else u
            delta = piece.scale * difference_of(piece, memory, step, branch, s, altering)
            if piece.combine == "fuse":
                to_fuse.append(delta)
            elif piece.combine is not None:
                total = total + piece.combine(delta, s, c, plain)
            else:
                total = total + delta
        if to_fuse:
            delta = sum(to_fuse)
            total = total + (delta if u is None else fused(delta, plain - u) - (plain - u))
        for piece, memory in zip(pieces, memories, strict=True):
            if piece.result is not None and not (rests and piece.remembers):
                total = piece.result(total, x, step, memory)
        found.append(total)
    return torch.stack(found)


def difference_of(piece, memory, step, branch, s, altering):
    """$s - \\tilde s$, made anew or kept."""
    if piece.history is not None:
        return s - piece.history(s, step, memory.setdefault(branch, {}))
    if memory.get("branch") == branch and memory["uses"] < piece.every:
        memory["uses"] += 1
        return memory["difference"]
    found = s - weaker(piece, step, branch, altering)
    memory.update(branch=branch, uses=1, difference=found)
    return found


# --- Negatives that are more than a change.


def told_later(shift):
    def negative(step, branch, changes):
        later = min(TIMES[step] + shift, 1000)
        return predict(sample(step), step, branch, changes, time=later)

    return negative


def by_weak_denoiser(step, branch, changes):
    assert not changes
    return predict(sample(step), step, branch, denoiser=weak())


def degraded(step, branch, changes):
    """For an input whose estimate of the clean picture is blurred where attention looks."""
    maps, x = {}, sample(step)
    watched = self_attention([MID], watch=maps)
    epsilon = predict(x, step, branch, (*changes, watched))
    signal, part = levels(step)
    estimate = (x - part * epsilon) / signal
    weights = torch.exp(-0.5 * torch.arange(-4.0, 5.0, dtype=torch.float64) ** 2)
    # Not wider than the picture, and mirrored at its edges.
    sides = []
    for side in GRID:
        size = min(9, side + 1 - side % 2)
        sides.append(weights[4 - size // 2 : 5 + size // 2])
    kernel = torch.outer(*[one / one.sum() for one in sides])
    high, wide = (len(one) // 2 for one in sides)
    padded = F.pad(estimate, (wide, wide, high, high), mode="reflect")
    blurred = F.conv2d(padded, kernel.expand(4, 1, *kernel.shape), groups=4)
    mask = F.interpolate((maps[MID] > 1).double()[:, None], GRID)
    estimate = mask * blurred + (1 - mask) * estimate
    return predict(signal * estimate + part * epsilon, step, branch, changes)


def through_windows(rows, columns):
    """The mean over four windows where several of them see, else the clean prediction."""

    def negative(step, branch, changes):
        x = sample(step)
        plain = predict(x, step, branch, changes)
        total, seen = torch.zeros_like(plain), torch.zeros_like(plain)
        for row in rows:
            for column in columns:
                window = (..., slice(*row), slice(*column))
                total[window] += predict(x[window], step, branch, changes)
                seen[window] += 1
        return torch.where(seen > 1, total / seen, plain)

    return negative


def mean_of_pictures(decay):
    """The prediction whose clean picture is the mean of those of earlier steps."""

    def history(s, step, memory):
        signal, part = levels(step)
        picture = (sample(step) - part * s) / signal
        mean = memory.get("mean")
        memory["mean"] = picture if mean is None else decay * mean + (1 - decay) * picture
        return s if mean is None else (sample(step) - signal * mean) / part

    return history


def mean_of_predictions(decay):
    def history(s, step, memory):
        mean = memory.get("mean")
        memory["mean"] = s if mean is None else decay * mean + (1 - decay) * s
        return s if mean is None else mean

    return history


# --- Combinations, rules, and what acts on the result.


def dot(one, other):
    return (one * other).sum((1, 2, 3), keepdim=True)


def spread(x):
    return x.std((1, 2, 3), keepdim=True)


def projected_and_rescaled(delta, s, c, plain):
    across = delta - dot(delta, s) / dot(s, s) * s
    return (0.7 * spread(c) / spread(plain + across) + 0.3) * across


def fused(one, other):
    """Everywhere the one of two guidances that is the more salient."""

    def saliency(guidance):
        blurs = []
        for side in GRID:
            matrix = torch.zeros(side, side, dtype=torch.float64)
            for place in range(side):
                for offset, weight in _weights(side, 1.0).items():
                    matrix[place, _mirrored(place + offset, side)] += weight
            blurs.append(matrix)
        blurred = blurs[0] @ guidance.abs() @ blurs[1].mT
        return blurred.flatten(2).softmax(-1).reshape(guidance.shape)

    return torch.where(saliency(one) > saliency(other), one, other)


def plus_plus(scale):
    def rule(c, u, g, step):
        share = sigma(step.number + 1) / sigma(step.number)
        return cfg(c, u, scale / (1 - share), step)

    return rule


def tangential(eta):
    def result(total, x, step, memory):
        along = dot(total, x) / dot(x, x) * x
        return along + eta * (total - along)

    return result


def cosines(count):
    places = torch.arange(count, dtype=torch.float64)
    matrix = torch.cos(math.pi * places[:, None] * (2 * places + 1) / (2 * count))
    return matrix / matrix.norm(dim=1, keepdim=True)


def history_guided(scale, eta, alpha, cutoff, least):
    def result(total, x, step, memory):
        signal, part = levels(step)
        picture = (x - part * total) / signal
        history = memory.get("history")
        memory["history"] = alpha * picture + (0 if history is None else (1 - alpha) * history)
        share = sigma(step) / (1 + sigma(step))
        if history is None or share <= least:
            return total
        d = picture - history
        along = dot(d, picture) / dot(picture, picture) * picture
        d = d - along + eta * along
        rows, columns = map(cosines, GRID)
        v, h = torch.meshgrid(*[torch.arange(n) / n for n in GRID], indexing="ij")
        kept = torch.sigmoid(50 * ((v**2 + h**2).sqrt() - cutoff))
        details = rows.T @ (kept * (rows @ d @ columns.T)) @ columns
        picture = picture + scale * math.sqrt((share - least) / (1 - least)) * details
        return (x - signal * picture) / part

    return result
