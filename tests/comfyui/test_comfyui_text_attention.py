"""NAG and PLADIS in ComfyUI: guided runs equal what is written out by hand."""

import functools

import pytest
import torch
from comfy_by_hand import OPTIONS, held, loop, softmax_attention
from test_comfyui_transformers import CASES, TEXT, of, parts
from tiny_comfy import (
    IS_REAL,
    levels,
    noise,
    of_this_version,
    prompt,
    sampled,
    transformer,
    unet,
)

from smoothed_energy.families import LayerError
from smoothed_energy.integrations.comfyui.guide import guide
from smoothed_energy.integrations.comfyui.negative import NegativeText

SCALE, TAU, ALPHA = 4.0, 1.2, 0.5
NEGATIVE = prompt(
    5, TEXT, pooled_output=torch.zeros(1, 16), conditioning_llama3=torch.randn(1, 2, TEXT, 16)
)


def nag(layers, negative=None):
    settings = {"scale": SCALE, "tau": TAU, "alpha": ALPHA, "layers": layers}
    text = NegativeText(NEGATIVE if negative is None else negative)
    return {"method": "nag", "negative_embeds": text, **settings}


def turned_away(plus, minus):
    """`(B, heads, T, d)` of attention with both texts."""
    guided = plus + SCALE * (plus - minus)
    sizes = [x.abs().sum((1, 3), keepdim=True) for x in (guided, plus)]
    guided = guided * (TAU * sizes[1] / sizes[0]).clamp(max=1)
    return ALPHA * guided + (1 - ALPHA) * plus


def entmax15(logits):
    """By bisection."""
    z = logits.double() / 2
    low, high = z.amax(-1, keepdim=True) - 1, z.amax(-1, keepdim=True)
    for _ in range(60):
        middle = (low + high) / 2
        above = (z - middle).clamp(min=0).square().sum(-1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (z - low).clamp(min=0).square().float()


def text_attention(model, prefix="middle_block"):
    modules = model.model.diffusion_model.named_modules()
    return [m for name, m in modules if name.startswith(prefix) and name.endswith("attn2")]


class attending:  # noqa: N801 - a block
    """Cross attention that is `attend(q, k, v, module)` in a block."""

    def __init__(self, modules, attend):
        self.modules, self.attend = modules, attend

    def __enter__(self):
        def forward(module, x, context=None, **others):
            q, k, v = (
                layer(value).unflatten(-1, (module.heads, -1)).transpose(1, 2)
                for layer, value in (
                    (module.to_q, x),
                    (module.to_k, context),
                    (module.to_v, context),
                )
            )
            return module.to_out(self.attend(q, k, v, module).transpose(1, 2).flatten(2))

        for module in self.modules:
            module.forward = functools.partial(forward, module)

    def __exit__(self, *error):
        for module in self.modules:
            del module.forward


def assert_as_by_hand(model, guidance, expected, cfg=1.0, **settings):
    plain = sampled(model, cfg, **settings)
    guided = sampled(guide(model, guidance), cfg, **settings)
    effect = (guided - plain).norm() / plain.norm()
    error = (guided - expected).norm() / plain.norm()
    assert effect > 1e-3, effect
    assert error < 1e-2 * effect, (error, effect)


@pytest.mark.parametrize("tokens", [5, 3])
def test_nag_in_the_cross_attention_of_a_u_net(tokens):
    """Of the prompt's rows alone, whether both prompts are run together or apart."""
    model = unet()
    conds = {"positive": prompt(1), "negative": prompt(2, tokens)}
    (other,) = [text for text, _ in NEGATIVE]

    def attend(q, k, v, module):
        minus = (
            layer(other).unflatten(-1, (module.heads, -1)).transpose(1, 2)
            for layer in (module.to_k, module.to_v)
        )
        return turned_away(softmax_attention(q, k, v), softmax_attention(q, *minus))

    def step(predict, x, sigma):
        u = predict("negative", x)
        with attending(text_attention(model), attend):
            c = predict("positive", x)
        return u + 3 * (c - u)

    expected = loop(model, conds, noise(), levels(), step)
    assert_as_by_hand(model, nag("mid"), expected, 3.0, **conds)


def test_pladis_in_the_cross_attention_of_a_u_net():
    model = unet()
    conds = {"positive": prompt(1), "negative": prompt(2)}

    def attend(q, k, v, module):
        weights = q @ k.mT / q.shape[-1] ** 0.5
        return (2 * entmax15(weights) - weights.softmax(-1)) @ v

    def step(predict, x, sigma):
        with attending(text_attention(model), attend):
            c, u = predict("positive", x), predict("negative", x)
        return u + 3 * (c - u)

    expected = loop(model, conds, noise(), levels(), step)
    assert_as_by_hand(model, "pladis; scale=2; layers=mid", expected, 3.0, **conds)


@pytest.mark.skipif(not IS_REAL, reason="the stand-in's Wan has no attention to its text")
def test_nag_in_the_cross_attention_of_wan():
    model, latents, conds, _ = of("WAN21")
    block = model.model.diffusion_model.blocks[1]
    network, (other,) = model.model.diffusion_model, [text for text, _ in NEGATIVE]

    def attend(x, context, **others):
        module = block.cross_attn

        def heads(value):
            return value.unflatten(-1, (module.num_heads, -1)).transpose(1, 2)

        q = heads(module.norm_q(module.q(x)))
        both = [
            softmax_attention(q, heads(module.norm_k(module.k(text))), heads(module.v(text)))
            for text in (context, network.text_embedding(other))
        ]
        return module.o(turned_away(*both).transpose(1, 2).flatten(2))

    def step(predict, x, sigma):
        block.cross_attn.forward = attend
        c = predict("positive", x)
        del block.cross_attn.forward
        return c

    expected = loop(model, conds, latents, levels("CONST"), step)
    settings = {"sigmas": levels("CONST"), "latents": latents, **conds}
    assert_as_by_hand(model, nag("b1"), expected, **settings)
    with_pladis = sampled(guide(model, "pladis; layers=b1"), 1.0, **settings)
    assert not torch.allclose(with_pladis, sampled(model, 1.0, **settings))


@pytest.mark.parametrize(
    "name", ["Flux", "QwenImage", *of_this_version("SD3", "HiDream", "Chroma", "Flux2", "ZImage")]
)
def test_nag_where_text_and_picture_attend_together(name):
    """By hand both texts are run in one batch, and the second looks with the eyes of the first."""
    from comfy import samplers

    model, latents, conds, blocks = of(name)
    chosen = []

    def override(
        function, q, k, v, heads, *args, skip_reshape=False, transformer_options, **others
    ):
        if not skip_reshape:
            q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
        start, stop = parts(name, q.shape[-2])
        stop = q.shape[-2] if start else stop  # with what fills up the picture
        if start < 0:  # the text alone
            return softmax_attention(q, k, v).transpose(1, 2).flatten(2)
        order = transformer_options["cond_or_uncond"]
        plus, minus = (slice(order.index(i) * 2, order.index(i) * 2 + 2) for i in (0, 1))
        q, k, v = (x.clone() for x in (q, k, v))
        for x in (q, k, v):
            x[minus, :, start:stop] = x[plus, :, start:stop]
        found = softmax_attention(q, k, v)
        if chosen and q.shape[-2] > stop - start:
            both = turned_away(found[plus, :, start:stop], found[minus, :, start:stop])
            found[plus, :, start:stop] = both
        return found.transpose(1, 2).flatten(2)

    def noted(forward, *args, **kwargs):
        chosen.append(forward)
        try:
            return forward(*args, **kwargs)
        finally:
            chosen.pop()

    def step(predict, x, sigma):
        pair = held(model.model, {"positive": conds["positive"], "negative": NEGATIVE}, x)
        for block in blocks:
            block.forward = functools.partial(noted, block.forward)
        options = {"transformer_options": {"optimized_attention_override": override}}
        both = [pair["positive"], pair["negative"]]
        c, _ = samplers.calc_cond_batch(model.model, both, x, sigma, options)
        for block in blocks:
            del block.forward
        u = predict("negative", x)
        return u + 3 * (c - u)

    assert not OPTIONS
    expected = loop(model, conds, latents, levels("CONST"), step)
    layers = ",".join(CASES[name][3])
    settings = {"sigmas": levels("CONST"), "latents": latents, **conds}
    assert_as_by_hand(model, nag(layers), expected, 3.0, **settings)


@pytest.mark.skipif(not IS_REAL, reason="the stand-in masks no text")
def test_a_shorter_negative_text_is_masked_where_a_model_masks():
    model, latents, conds, _ = of("QwenImage")
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    short, long = prompt(5, 3), prompt(5, 5)
    long[0][0][:, :3] = short[0][0]
    long[0][1]["attention_mask"] = mask
    settings = {"sigmas": levels("CONST"), "latents": latents, **conds}
    guided = [guide(model, nag("b1", text)) for text in (short, long)]
    if not of_this_version("ZImage"):  # which came when masks were heeded
        with pytest.raises(RuntimeError, match="masks no text of this model"):
            sampled(guided[0], 1.0, **settings)
        return
    found = [sampled(one, 1.0, **settings) for one in guided]
    assert torch.allclose(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not of_this_version("ZImage"), reason="needs a ComfyUI with Z-Image")
def test_a_shorter_negative_text_is_filled_up_as_z_image_does():
    """By hand: a text of as many tokens, whose last are embedded as what fills up."""
    model, latents, conds, _ = of("ZImage")
    network = model.model.diffusion_model
    settings = {"sigmas": levels("CONST"), "latents": latents, **conds}
    short, long = prompt(5, 3), prompt(5, TEXT)
    long[0][0][:, :3], long[0][0][:, 3:] = short[0][0], 99.0
    found = sampled(guide(model, nag("b1", short)), 1.0, **settings)

    def fill(module, given, output):
        is_mark = (given[0] == 99).all(-1, keepdim=True)
        return torch.where(is_mark, network.cap_pad_token[0], output)

    handle = network.cap_embedder.register_forward_hook(fill)
    expected = sampled(guide(model, nag("b1", long)), 1.0, **settings)
    handle.remove()
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, sampled(model, 1.0, **settings))
    with pytest.raises(ValueError, match="the negative text has 7 tokens"):
        sampled(guide(model, nag("b1", prompt(5, 7))), 1.0, **settings)


@pytest.mark.skipif(not IS_REAL, reason="the stand-in has no LTX-Video")
def test_nag_and_pladis_in_the_masked_cross_attention_of_ltx():
    model, latents, conds, _ = of("LTXV")
    network, mask = model.model.diffusion_model, torch.tensor([[1, 1, 1, 0, 0]])
    conds["positive"][0][1]["attention_mask"] = mask
    settings = {"sigmas": levels("CONST"), "latents": latents, **conds}
    attention = network.transformer_blocks[1].attn2

    def by_hand(weighted):
        def attend(x, context, **others):
            def heads(value):
                return value.unflatten(-1, (attention.heads, -1)).transpose(1, 2)

            q = heads(attention.q_norm(attention.to_q(x)))
            return attention.to_out(weighted(q, heads, context).transpose(1, 2).flatten(2))

        def step(predict, x, sigma):
            attention.forward = attend
            c = predict("positive", x)
            del attention.forward
            return c

        return loop(model, conds, latents, levels("CONST"), step)

    def attended(q, heads, text):
        k, v = heads(attention.k_norm(attention.to_k(text))), heads(attention.to_v(text))
        return softmax_attention(q, k, v)

    def both(q, heads, context):
        negative = network.caption_projection(NEGATIVE[0][0]).view(1, TEXT, -1)
        return turned_away(attended(q, heads, context[:, :3]), attended(q, heads, negative))

    def sparse(q, heads, context):
        text = context[:, :3]
        k, v = heads(attention.k_norm(attention.to_k(text))), heads(attention.to_v(text))
        weights = q @ k.mT / q.shape[-1] ** 0.5
        return (2 * entmax15(weights) - weights.softmax(-1)) @ v

    assert_as_by_hand(model, nag("b1"), by_hand(both), **settings)
    assert_as_by_hand(model, "pladis; layers=b1", by_hand(sparse), **settings)


def test_texts_of_two_lengths_where_a_model_masks_none():
    model, latents, conds, _ = of("Flux")
    settings = {"sigmas": levels("CONST"), "latents": latents, **conds}
    guided = guide(model, nag("b1", prompt(5, 3, pooled_output=torch.zeros(1, 16))))
    with pytest.raises(ValueError, match="the negative text has 3 tokens"):
        sampled(guided, 1.0, **settings)


def test_nag_beside_a_perturbed_pass():
    """The perturbed pass is changed, too, and no stem with more rows is replayed."""
    model, latents, conds, _ = of("Flux")
    settings = {"sigmas": levels("CONST"), "latents": latents, **conds}
    both = guide(guide(model, nag("b1")), "slg; scale=2; layers=s0")
    found = sampled(both, 1.0, **settings)
    network = model.model.diffusion_model
    block = network.single_blocks[0]
    forward = block.forward
    with_nag = sampled(guide(model, nag("b1")), 1.0, **settings)
    # In one step: s + 2 (s - s~).
    once = {**settings, "sigmas": levels("CONST")[2:]}
    s = sampled(guide(model, nag("b1")), 1.0, **once)
    block.forward = lambda x, *args, **kwargs: (x, forward(x.clone(), *args, **kwargs))[0]
    skipped = sampled(guide(model, nag("b1")), 1.0, **once)
    del block.forward
    expected = s + 2 * (s - skipped)
    assert torch.allclose(sampled(both, 1.0, **once), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(found, with_nag)


def test_what_nag_can_not_be_given():
    with pytest.raises(RuntimeError, match="nag needs a CONDITIONING"):
        guide(unet(), "nag")
    with pytest.raises(ValueError, match="has 2 prompts; expected one"):
        NegativeText([*prompt(1), *prompt(2)])
    with pytest.raises(ValueError, match="has area, which attention can't be given"):
        NegativeText(prompt(1, area=(12, 4, 0, 0)))
    with pytest.raises(LayerError, match="no attention of a FluxDenoiser to its text alone"):
        guide(transformer("Flux"), "pladis")
