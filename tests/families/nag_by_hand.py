r"""Normalized attention guidance by hand, written again from the paper.

$Z = \alpha \hat Z + (1 - \alpha) Z^+$ with $\hat Z = \tilde Z \min(r, \tau) / r$,
$r = |\tilde Z|_1 / |Z^+|_1$ and $\tilde Z = Z^+ + s\,(Z^+ - Z^-)$, the norms over all heads.

Nothing of `smoothed_energy` is used here.
"""

import functools
import inspect
import math
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from brute_force_attention import operator


def softmax_attention(query, key, value, mask=None):
    logits = query.double() @ key.double().mT / math.sqrt(query.shape[-1])
    if mask is not None and mask.dtype == torch.bool:
        logits = logits.masked_fill(~mask, -math.inf)
    elif mask is not None:
        logits = logits + mask
    return logits.softmax(-1).nan_to_num() @ value.double()


def blended(positive, negative, scale, tau, alpha):
    """`(..., C)`, all heads side by side."""
    guided = positive + scale * (positive - negative)
    ratio = guided.abs().sum(-1, keepdim=True) / positive.abs().sum(-1, keepdim=True)
    guided = guided * ratio.clamp(max=tau) / ratio
    return alpha * guided + (1 - alpha) * positive


def for_all_heads(query, *shared):
    """Keys and values that heads of queries share, once for each of them."""
    return [tensor.repeat_interleave(query.shape[1] // tensor.shape[1], dim=1) for tensor in shared]


def merged(heads):
    return heads.transpose(1, 2).flatten(2)


@contextmanager
def cross(denoiser, texts, settings, *, conditional=lambda rows: slice(None), acts=lambda: True):
    """Cross attention of every `attn2` asked twice.

    Args:
        denoiser: The denoiser.
        texts: The negative text as cross attention gets it: `(B, L, C)`.
        settings: scale, tau, alpha.
        conditional: The rows with the prompt, for a number of rows.
        acts: Whether this call is one with the prompt.
    """
    modules = [
        module
        for name, module in denoiser.named_modules()
        if name.endswith("attn2") and "ctrl_" not in name  # a ControlNet keeps its own
    ]

    def replaced(module):
        def split(tokens):
            return tokens.unflatten(2, (module.heads, -1)).transpose(1, 2)

        def projected(name, tokens):
            tokens = getattr(module, f"to_{name}")(tokens)
            norm = getattr(module, f"norm_{name}", None)
            return split(tokens if norm is None else norm(tokens))

        native = module.forward

        def forward(hidden_states, encoder_hidden_states=None, attention_mask=None, *rest, **more):
            if encoder_hidden_states is None:  # Tokens of other frames.
                return native(hidden_states, None, attention_mask, *rest, **more)
            query = projected("q", hidden_states)

            def attended(query, text, mask):
                key, value = projected("k", text), split(module.to_v(text))
                mask = None if mask is None else mask[:, None]
                return merged(softmax_attention(query, key, value, mask))

            output = attended(query, encoder_hidden_states, attention_mask)
            if acts():
                rows = conditional(len(output))
                negative = attended(query[rows], texts, None)
                output[rows] = blended(output[rows], negative, *settings)
            output = output.to(hidden_states.dtype)
            for layer in module.to_out:
                output = layer(output)
            return output

        return forward

    try:
        for module in modules:
            module.forward = replaced(module)
        yield
    finally:
        for module in modules:
            del module.forward


@contextmanager
def keyed(denoiser, modules, text, settings, *, prompt=slice(None), separate=False):
    """Cross attention asked twice, by what it is asked in a run with the negative text.

    Keys and values follow from text and time, whatever the image is.

    Args:
        denoiser: The denoiser.
        modules: The names of the cross attentions.
        text: The negative text, by names of arguments, as many rows as there are prompts.
        settings: scale, tau, alpha.
        prompt: The rows of the batch that have the prompt.
        separate: Whether every second call is without the prompt.
    """
    native, forward, calls = F.scaled_dot_product_attention, denoiser.forward, []
    names = list(inspect.signature(forward).parameters)
    attentions = [denoiser.get_submodule(name) for name in modules]
    kept = {}

    def attending(module, attend):
        inner = type(module).forward.__get__(module)

        def call(*args, **kwargs):
            F.scaled_dot_product_attention = functools.partial(attend, module)
            try:
                return inner(*args, **kwargs)
            finally:
                F.scaled_dot_product_attention = native

        return call

    def note(module, query, key, value, attn_mask=None, *args, **more):
        key, value = for_all_heads(query, key, value)
        kept[module] = key, value, attn_mask
        return query @ key.mT[..., :1] * value[..., :1, :]

    def blend(module, query, key, value, attn_mask=None, *args, **more):
        key, value = for_all_heads(query, key, value)
        both = merged(softmax_attention(query, key, value, attn_mask))
        negative = merged(softmax_attention(query[prompt], *kept[module]))
        both[prompt] = blended(both[prompt], negative, *settings)
        return both.unflatten(2, (query.shape[1], -1)).transpose(1, 2).to(value.dtype)

    def run(attend, named):
        for module in attentions:
            module.forward = attending(module, attend)
        try:
            return forward(**named)
        finally:
            for module in attentions:
                del module.forward

    def call(*args, **named):
        named = dict(zip(names, args, strict=False)) | named
        calls.append(None)
        if separate and len(calls) % 2 == 0:
            return forward(**named)
        rows = len(named[names[0]])

        def taken(value):
            batched = isinstance(value, torch.Tensor) and value.ndim and len(value) == rows
            return value[prompt] if batched else value

        run(note, {name: taken(value) for name, value in named.items()} | text)
        return run(blend, named)

    try:
        denoiser.forward = call
        yield
    finally:
        del denoiser.forward


@contextmanager
def beside(
    denoiser,
    text,
    settings,
    length,
    *,
    start,
    prompt=slice(None),
    separate=False,
    seg=None,
    keys_from=None,
):
    """Joint attention with the rows of the prompt once more, with the negative text.

    Args:
        denoiser: The denoiser, called with keyword arguments.
        text: The negative text, by names of arguments, as many rows as there are prompts.
        settings: scale, tau, alpha.
        length: How many tokens are not of the text.
        start: How many tokens of text come before them.
        prompt: The rows of the batch that have the prompt.
        separate: Whether every second call is without the prompt.
        seg: Calls of attention with blurred queries in a second run, the image and the scale.
        keys_from: Where the image's keys begin if the text is among the keys alone.
    """
    native, forward, calls = F.scaled_dot_product_attention, denoiser.forward, []
    image = slice(start, start + length)
    of_keys = image if keys_from is None else slice(keys_from, keys_from + length)

    def run(rows, blurred, named):
        count = 0

        def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **more):
            nonlocal count
            count += 1
            key, value = for_all_heads(query, key, value)
            # The image alone, or the text.
            if query.shape[-2] <= length and (keys_from is None or key.shape[-2] <= length):
                return softmax_attention(query, key, value, attn_mask).to(value.dtype)
            query, key, value = query.clone(), key.clone(), value.clone()
            for tensor, where in ((query, image), (key, of_keys), (value, of_keys)):
                tensor[rows:, :, where] = tensor[:rows][prompt, :, where]
            if count - 1 in blurred:
                full = operator(seg[1], 0, query.shape[-2], 1.0, 0.0)
                query = (full @ query.double()).to(query.dtype)
            output = softmax_attention(query, key, value, attn_mask)
            both = merged(output)
            positive, negative = both[:rows][prompt, image], both[rows:, image]
            both[:rows][prompt, image] = blended(positive, negative, *settings)
            return both.unflatten(2, (query.shape[1], -1)).transpose(1, 2).to(value.dtype)

        F.scaled_dot_product_attention = attend
        try:
            return forward(**named)[0][:rows]
        finally:
            F.scaled_dot_product_attention = native

    names = list(inspect.signature(forward).parameters)

    def call(*args, **named):
        named = dict(zip(names, args, strict=False)) | named
        calls.append(None)
        if separate and len(calls) % 2 == 0:
            return forward(**named)
        rows = len(named.get("hidden_states", named.get("x")))

        def more(name, value):
            other = text.get(name)
            if isinstance(value, list) and name != "img_shapes":
                return [*value, *(value[prompt] if other is None else other)]
            if not isinstance(value, torch.Tensor) or name.endswith("_ids"):
                return value
            if name == "encoder_hidden_states_llama3":  # layers first
                return torch.cat([value, value[:, prompt] if other is None else other], dim=1)
            if value.ndim == 0 or len(value) != rows:
                return value
            other = value[prompt] if other is None else other
            return torch.cat([value, other.to(value.dtype)])

        named = {name: more(name, value) for name, value in named.items()} | {"return_dict": False}
        found = run(rows, (), named)
        if isinstance(found, list):
            return (found,)
        if seg is not None:
            weaker = run(rows, seg[0], named)
            found = found + seg[2] * (found - weaker)
        return (found,)

    try:
        denoiser.forward = call
        yield
    finally:
        del denoiser.forward
