"""Guided runs of ComfyUI's samplers equal what is written out by hand."""

import pytest
import torch
from comfy_by_hand import attention_modules, blurred_2d, loop, softmax_attention, with_attention
from tiny_comfy import IS_REAL, levels, noise, prompt, sampled, unet, video_unet

from smoothed_energy.families import LayerError
from smoothed_energy.integrations.comfyui.guide import guidances_of, guide
from smoothed_energy.integrations.comfyui.negative import NegativeText

CONDS = {"positive": prompt(1), "negative": prompt(2)}
# Of the middle: latents are 12 x 8, and halved once.
GRID = (6, 4)


def middle(model):
    return [m for part, m in attention_modules(model.model.diffusion_model) if part[0] == "m"]


def blurred(sigma):
    return lambda q, k, v: softmax_attention(blurred_2d(q, GRID, sigma), k, v)


def identity(q, k, v):
    return v


def by_hand(attend, scale, cfg, *, kind="EPS", branch="positive"):
    model = unet(kind)

    def step(predict, x, sigma):
        c, u = predict("positive", x), predict("negative", x)
        with with_attention(middle(model), attend):
            perturbed = predict(branch, x)
        clean = c if branch == "positive" else u
        return (u + cfg * (c - u) if cfg != 1 else c) + scale * (clean - perturbed)

    return loop(model, CONDS, noise(), levels(kind), step)


def assert_guided(text, expected, cfg=4.0, kind="EPS"):
    plain = sampled(unet(kind), cfg, sigmas=levels(kind))
    guided = sampled(guide(unet(kind), text), cfg, sigmas=levels(kind))
    effect = (guided - plain).norm() / plain.norm()
    error = (guided - expected).norm() / plain.norm()
    assert effect > 1e-2, effect
    assert error < 3e-3 * effect, (error, effect)


@pytest.mark.parametrize("kind", ["EPS", "V_PREDICTION", "CONST"])
def test_seg_is_as_by_hand_whatever_the_model_predicts(kind):
    expected = by_hand(blurred(1.0), 3.0, 4.0, kind=kind)
    assert_guided("seg; scale=3; blur=gaussian:1; layers=mid", expected, kind=kind)


def test_seg_with_one_query_for_all_tokens():
    assert_guided("seg; scale=3; layers=mid", by_hand(blurred(float("inf")), 3.0, 4.0))


def test_pag_of_the_negative_prompt_s_prediction():
    expected = by_hand(identity, 2.0, 4.0, branch="negative")
    assert_guided("pag; scale=2; layers=mid; formulation=unconditional", expected)


def test_pag_without_cfg():
    assert_guided("pag; scale=2; layers=mid", by_hand(identity, 2.0, 1.0), cfg=1.0)


def test_erg_heats_attention():
    def heated(q, k, v):
        return softmax_attention(q / 4, k, v)

    assert_guided("erg; scale=3; temperature=4; layers=mid", by_hand(heated, 3.0, 4.0))


def test_a_skipped_block_gives_its_input():
    model = unet()
    (block,) = [
        module
        for name, module in model.model.diffusion_model.named_modules()
        if name.startswith("middle_block") and name.endswith("transformer_blocks.0")
    ]

    def step(predict, x, sigma):
        c, u = predict("positive", x), predict("negative", x)
        block.forward = lambda x, *args, **kwargs: x
        skipped = predict("positive", x)
        del block.forward
        return u + 4 * (c - u) + 2 * (c - skipped)

    expected = loop(model, CONDS, noise(), levels(), step)
    assert_guided("slg; scale=2; layers=mid", expected)


def test_sag_blurs_the_picture_where_attention_looks():
    """Of the negative prompt's prediction, as in the paper, from the second step on."""
    model = unet()
    maps = []

    def looked_at(q, k, v):
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        maps.append(weights.mean(1).sum(-2))
        return weights @ v

    def step(predict, x, sigma):
        c, u = predict("positive", x), predict("negative", x)
        result = u + 4 * (c - u)
        if sigma[0] > 5:
            return result
        with with_attention(middle(model), looked_at):
            predict("negative", x)
        mask = (maps.pop() > 1).float().reshape(-1, 1, *GRID)
        mask = torch.nn.functional.interpolate(mask, (12, 8))
        tokens = u.flatten(2).mT
        blur = blurred_2d(tokens[:, None], (12, 8), 1.0, reach=4)[:, 0].mT.view_as(u)
        degraded = mask * blur + (1 - mask) * u
        # A difference of noise predictions, for two inputs.
        return result + 0.75 * (degraded - predict("negative", degraded + (x - u)))

    expected = loop(model, CONDS, noise(), levels(), step)
    assert_guided("sag; scale=0.75; steps=sigma:0:5; threshold=1", expected)


def test_swg_predicts_in_windows():
    model = unet()

    def step(predict, x, sigma):
        c, u = predict("positive", x), predict("negative", x)
        total, seen = torch.zeros_like(c), torch.zeros_like(c)
        for top in (0, 4):
            for left in (0, 2):
                window = (..., slice(top, top + 8), slice(left, left + 6))
                total[window] += predict("positive", x[window])
                seen[window] += 1
        mean = torch.where(seen > 1, total / seen, c)
        return u + 4 * (c - u) + (c - mean)

    expected = loop(model, CONDS, noise(), levels(), step)
    assert_guided("swg; scale=1; window=0.65", expected)


def test_two_nodes_on_one_model_add_up():
    def step(predict, x, sigma):
        c, u = predict("positive", x), predict("negative", x)
        result = u + 4 * (c - u)
        for attend, scale in ((blurred(1.0), 3.0), (identity, 0.5)):
            with with_attention(middle(model), attend):
                result = result + scale * (c - predict("positive", x))
        return result

    model = unet()
    expected = loop(model, CONDS, noise(), levels(), step)
    both = guide(guide(model, "seg; scale=3; blur=gaussian:1; layers=mid"), "pag; scale=0.5")
    assert torch.allclose(sampled(both), expected, rtol=1e-3, atol=1e-3)


def test_copies_of_a_model_share_nothing():
    model = unet()
    plain = sampled(model)
    first, second = guide(model, "pag; scale=2"), guide(model, "pag; scale=4")
    both = guide(first, "slg; scale=1; layers=mid")
    alone = sampled(first)
    sampled(second)
    sampled(both)
    assert [len(guidances_of(one)) for one in (model, first, second, both)] == [0, 1, 1, 2]
    assert torch.equal(sampled(first), alone)
    assert torch.equal(sampled(first.clone()), alone)
    assert torch.equal(sampled(model), plain)


def test_a_scale_of_zero_changes_no_bit():
    assert torch.equal(sampled(guide(unet(), "seg; scale=0")), sampled(unet()))


def _one_byte(device=None, torch_free_too=False):
    return (2**30, 2**30) if torch_free_too else 1


def test_rows_may_be_split_and_areas_predicted_by_themselves(monkeypatch):
    text = "seg; scale=3; blur=gaussian:1; layers=mid"
    guided = sampled(guide(unet(), text))
    from comfy import samplers

    if hasattr(samplers, "MOST_ROWS"):
        monkeypatch.setattr(samplers, "MOST_ROWS", 2)
    else:
        from comfy import model_management

        monkeypatch.setattr(model_management, "get_free_memory", _one_byte)
    assert torch.allclose(sampled(guide(unet(), text)), guided, rtol=1e-4, atol=1e-4)


def test_areas_have_grids_of_their_own():
    """Two areas side by side: each is blurred over its own grid."""
    model = unet()
    left, right = ((12, 4, 0, 0), (12, 4, 0, 4))
    prompts = [*prompt(1, area=left), *prompt(3, area=right)]
    conds = {"positive": prompts, "negative": prompt(2)}

    def attend(q, k, v):
        grid = {24: (6, 4), 12: (6, 2)}[q.shape[-2]]
        return softmax_attention(blurred_2d(q, grid, 1.0), k, v)

    def step(predict, x, sigma):
        c, u = predict("positive", x), predict("negative", x)
        with with_attention(middle(model), attend):
            perturbed = predict("positive", x)
        return u + 4 * (c - u) + 3 * (c - perturbed)

    expected = loop(model, conds, noise(), levels(), step)
    guided = guide(model, "seg; scale=3; blur=gaussian:1; layers=mid")
    assert torch.allclose(sampled(guided, positive=prompts), expected, rtol=1e-3, atol=1e-3)


def test_steps_and_refreshes_are_those_of_the_run():
    """Of three steps the first has no guidance, and the last uses the difference of the second."""
    model, kept = unet(), []

    def step(predict, x, sigma):
        c, u = predict("positive", x), predict("negative", x)
        result = u + 4 * (c - u)
        if sigma[0] > 5:
            return result
        if not kept:
            with with_attention(middle(model), identity):
                kept.append((c - predict("positive", x)) / sigma[0])
        return result + 2 * kept[0] * sigma[0]

    expected = loop(model, CONDS, noise(), levels(), step)
    guided = guide(model, "pag; scale=2; layers=mid; steps=sigma:0:5; every=2")
    assert torch.allclose(sampled(guided), expected, rtol=1e-3, atol=1e-3)


def test_cfg_is_off_outside_of_an_interval():
    model = unet()

    def step(predict, x, sigma):
        c, u = predict("positive", x), predict("negative", x)
        return u + 4 * (c - u) if sigma[0] < 5 else c

    expected = loop(model, CONDS, noise(), levels(), step)
    found = sampled(guide(model, "interval; steps=sigma:0:5"))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def in_units(function):
    """A rule of noise predictions, as one of estimates of the clean picture."""

    def step(predict, x, sigma):
        level = sigma[0]
        c, u = ((x - predict(name, x)) / level for name in ("positive", "negative"))
        return x - level * function(c, u)

    return step


def _zero_star(c, u):
    share = (c * u).sum((1, 2, 3)) / u.square().sum((1, 2, 3))
    v = share[:, None, None, None] * u
    return v + 4 * (c - v)


def _tangential(c, u):
    pair = torch.stack([c.flatten(1), u.flatten(1)], 1)
    _, _, rows = torch.linalg.svd(pair, full_matrices=False)
    first = rows[:, 0]
    kept = ((u.flatten(1) * first).sum(1, keepdim=True) * first).view_as(u)
    return kept + 4 * (c - kept)


@pytest.mark.parametrize(
    ("text", "rule"), [("cfg-zero; zero_steps=0", _zero_star), ("tcfg", _tangential)]
)
def test_rules_take_the_place_of_comfyui_s_sum(text, rule):
    expected = loop(unet(), CONDS, noise(), levels(), in_units(rule))
    assert_guided(text, expected)


def test_cfg_plus_plus_renoises_with_the_negative_prompt():
    model = unet()
    sigmas = levels()

    def step(predict, x, sigma):
        c, u = predict("positive", x), predict("negative", x)
        now = sigma[0]
        later = sigmas[sigmas.tolist().index(float(now)) + 1]
        picture = u + 0.6 * (c - u)
        target = picture + later * (x - u) / now
        # What Euler must be told to come out there.
        return x - (x - target) * now / (now - later)

    assert_guided("cfgpp; scale=0.6", loop(model, CONDS, noise(), sigmas, step))


def test_every_sampler_s_calls_are_guided():
    plain = sampled(unet(), sampler="heun")
    assert not torch.allclose(sampled(guide(unet(), "pag; scale=2"), sampler="heun"), plain)
    with pytest.raises(ValueError, match="heun takes other steps; expected euler or ddim"):
        sampled(guide(unet(), "cfgpp"), sampler="heun")


def test_within_is_right_where_comfyui_runs_branches_apart():
    """Prompts of other lengths are not run together."""
    given = {"positive": prompt(1, tokens=10), "negative": prompt(2, tokens=7)}
    plain = sampled(unet(), 4.0, **given)
    within = sampled(guide(unet(), "tpg; layers=mid; formulation=within"), 4.0, **given)
    text = "tpg; layers=mid; formulation=unconditional; scale=3"
    expected = sampled(guide(unet(), text), 4.0, **given)
    effect = (expected - plain).norm()
    assert effect > 1e-2 * plain.norm()
    assert (within - expected).norm() < 3e-3 * effect


def test_self_guidance_is_refused():
    with pytest.raises(RuntimeError, match="the timestep that the network is told"):
        guide(unet(), "sg")


@pytest.mark.skipif(not IS_REAL, reason="the stand-in has no U-Net for videos")
def test_the_frames_of_stable_video_diffusion():
    """Each is blurred by itself: the rows of its latents are the frames."""
    model = video_unet()
    text = [[prompt(seed)[0][0][:, :1], {}] for seed in (1, 2)]
    conds = {"positive": [text[0]], "negative": [text[1]]}
    found = [
        module
        for name, module in model.model.diffusion_model.named_modules()
        if name.startswith("middle_block") and name.endswith("transformer_blocks.0.attn1")
    ]

    def step(predict, x, sigma):
        c, u = predict("positive", x), predict("negative", x)
        with with_attention(found, blurred(1.0)):
            perturbed = predict("positive", x)
        return u + 4 * (c - u) + 3 * (c - perturbed)

    expected = loop(model, conds, noise(3), levels(), step)
    plain = sampled(model, latents=noise(3), **conds)
    guided = guide(model, "seg; scale=3; blur=gaussian:1; layers=mid")
    difference = sampled(guided, latents=noise(3), **conds) - plain
    assert difference.norm() > 1e-3 * plain.norm()
    assert (difference - (expected - plain)).norm() < 1e-2 * difference.norm()
    with pytest.raises(LayerError, match="attends to its text is not known"):
        guide(model, {"method": "nag", "negative_embeds": NegativeText(prompt(1))})
