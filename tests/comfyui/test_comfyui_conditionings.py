"""ControlNets, hooks, masks, time ranges and regions of a real ComfyUI: right, or refused."""

import pytest
import torch
from comfy_by_hand import (
    attention_modules,
    held,
    loop,
    softmax_attention,
    with_attention,
    with_blocks,
)
from test_comfyui_guided import blurred, middle
from test_comfyui_text_attention import attending, nag, text_attention, turned_away
from test_comfyui_transformers import blurred_picture, of, seg
from tiny_comfy import IS_REAL, levels, noise, prompt, sampled, unet

from smoothed_energy.integrations.comfyui.guide import guide

pytestmark = pytest.mark.skipif(
    not IS_REAL, reason="the stand-in has none of these: set COMFYUI_PATH to a checkout"
)

SEG = "seg; scale=3; blur=gaussian:1; layers=mid"


def assert_guided(model, guidance, expected, cfg=4.0, **settings):
    plain = sampled(model, cfg, **settings)
    guided = sampled(guide(model, guidance), cfg, **settings)
    effect = (guided - plain).norm()
    assert effect > 3e-4 * plain.norm()
    assert (guided - expected).norm() < 1e-2 * effect


def seg_step(model):
    def step(predict, x, sigma):
        c, u = predict("positive", x), predict("negative", x)
        with with_attention(middle(model), blurred(1.0)):
            perturbed = predict("positive", x)
        return u + 4 * (c - u) + 3 * (c - perturbed)

    return step


def control_net():
    """A tiny ControlNet, which follows the edges of nothing."""
    from comfy import controlnet
    from comfy.cldm import cldm
    from tiny_comfy import _unet_settings, _weights

    settings = _unet_settings()
    for name in ("out_channels", "transformer_depth_output", "use_temporal_attention"):
        del settings[name]
    model = cldm.ControlNet(**settings, hint_channels=3)
    made = controlnet.ControlNet(_weights(model), load_device=torch.device("cpu"))
    made.model_sampling_current = None
    return made


def test_a_controlnet():
    model, hint = unet(), torch.rand(1, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    control = control_net().set_cond_hint(hint, 0.5, (0.0, 1.0))
    followed = {"control": control, "control_apply_to_uncond": True}
    conds = {"positive": prompt(1, **followed), "negative": prompt(2)}
    expected = loop(model, conds, noise(), levels(), seg_step(model))
    plain = sampled(model, positive=prompt(1), negative=prompt(2))
    assert not torch.allclose(sampled(model, **conds), plain)
    assert_guided(model, SEG, expected, **conds)

    def nag_step(predict, x, sigma):
        (other,) = [text for text, _ in nag("mid")["negative_embeds"]["conditioning"]]

        def attend(q, k, v, module):
            minus = (
                layer(other).unflatten(-1, (module.heads, -1)).transpose(1, 2)
                for layer in (module.to_k, module.to_v)
            )
            return turned_away(softmax_attention(q, k, v), softmax_attention(q, *minus))

        u = predict("negative", x)
        with attending(text_attention(model), attend):
            c = predict("positive", x)
        return u + 4 * (c - u)

    assert_guided(model, nag("mid"), loop(model, conds, noise(), levels(), nag_step), **conds)


def test_residuals_that_a_transformer_adds_in_place():
    """What is replayed is what blocks gave, not what was added to it since; rows come twice."""
    from comfy import controlnet

    class Residuals(controlnet.ControlBase):
        def get_control(self, x, t, cond, batched_number, transformer_options):
            found = 0.1 * torch.arange(24.0).sin()[None, :, None].expand(len(x), 24, 32)
            found = found * x.abs().mean((1, 2, 3))[:, None, None]
            return {"input": [found.clone(), found.clone()], "output": [found.clone()]}

        def copy(self):
            return self

    model, latents, conds, blocks = of("Flux")
    for cond in conds.values():
        cond[0][1]["control"] = Residuals()

    def step(predict, x, sigma):
        c = predict("positive", x)
        with with_blocks(blocks[1:], lambda q, k, v: softmax_attention(turned(q), k, v)):
            perturbed = predict("positive", x)
        return c + 3 * (c - perturbed)

    def turned(q):
        return blurred_picture("Flux", q)

    settings = {"sigmas": levels("CONST"), "latents": latents, **conds}
    expected = loop(model, conds, latents, levels("CONST"), step)
    assert_guided(model, seg("Flux").replace("b1,", ""), expected, 1.0, **settings)
    # With a text that is the prompt's own nothing is turned away.
    (own,) = [[text, {"pooled_output": torch.ones(1, 16)}] for text, _ in conds["positive"]]
    same = sampled(guide(model, nag("b1", [own])), 1.0, **settings)
    assert torch.allclose(same, sampled(model, 1.0, **settings), rtol=1e-3, atol=1e-3)


def test_a_lora_that_hooks_the_prompt_alone():
    """By hand the prompt is predicted by a model that has it for good."""
    from comfy import hooks, samplers

    model = unet()
    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    weight = model.model.get_parameter(name)
    change = 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(9))
    group = hooks.create_hook_model_as_lora({name: weight + change}, None, 1.0, 1.0)
    (hook,) = group.hooks
    hook.weights = {name: ("diff", (change,))}
    other = unet.__wrapped__("EPS").model
    other.get_parameter(name).data += change
    conds = {"positive": prompt(1, hooks=group), "negative": prompt(2)}

    def step(predict, x, sigma):
        other.current_patcher = model

        def hooked():
            cond = held(other, {"positive": prompt(1), "negative": prompt(2)}, x)["positive"]
            return samplers.calc_cond_batch(other, [cond, None], x, sigma, {})[0]

        c, u = hooked(), predict("negative", x)
        modules = [m for part, m in attention_modules(other.diffusion_model) if part[0] == "m"]
        with with_attention(modules, blurred(1.0)):
            perturbed = hooked()
        return u + 4 * (c - u) + 3 * (c - perturbed)

    without = {"positive": prompt(1), "negative": prompt(2)}
    expected = loop(model, without, noise(), levels(), step)
    plain = sampled(model, **without)
    assert (sampled(model, **conds) - plain).norm() > 1e-2 * plain.norm()
    assert_guided(model, SEG, expected, **conds)
    assert torch.equal(sampled(model, **without), plain)


def test_masks_and_a_default_prompt():
    """Two regions, and a prompt for what they leave."""
    model = unet()
    left, right = torch.zeros(1, 12, 8), torch.zeros(1, 12, 8)
    left[..., :3], right[..., 5:] = 1, 1
    prompts = [
        *prompt(1, mask=left),
        *prompt(3, mask=right, mask_strength=0.7),
        *prompt(4, default=True),
    ]
    conds = {"positive": prompts, "negative": prompt(2)}
    expected = loop(model, conds, noise(), levels(), seg_step(model))
    assert_guided(model, SEG, expected, **conds)


def test_nag_among_regions():
    model = unet()
    left = torch.zeros(1, 12, 8)
    left[..., :3] = 1
    conds = {"positive": [*prompt(1, mask=left), *prompt(3, mask=1 - left)], "negative": prompt(2)}
    (other,) = [text for text, _ in nag("mid")["negative_embeds"]["conditioning"]]

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
        return u + 4 * (c - u)

    assert_guided(model, nag("mid"), loop(model, conds, noise(), levels(), step), **conds)
    # Where rows are added, they are for all regions: two of the whole picture have their mean.
    model, latents, given, _ = of("Flux")
    entries = [
        *prompt(1, mask=torch.ones(1, 11, 8), pooled_output=torch.ones(1, 16)),
        *prompt(3, mask=torch.ones(1, 11, 8), pooled_output=torch.ones(1, 16)),
    ]
    guided, once = guide(model, nag("b1")), {"sigmas": levels("CONST")[2:], "latents": latents}
    found = [
        sampled(guided, 3.0, **once, **given | {"positive": positive})
        for positive in (entries, entries[:1], entries[1:])
    ]
    assert torch.allclose(found[0], (found[1] + found[2]) / 2, rtol=1e-3, atol=1e-3)
    # Where they don't follow each other there is no place for more.
    between = prompt(4, default=True, pooled_output=torch.ones(1, 16))
    given = {
        "positive": [entries[0], *between],
        "negative": prompt(2, pooled_output=torch.ones(1, 16)),
    }
    entries[0][1]["mask"][..., :4] = 0
    with pytest.raises(RuntimeError, match="expected prompts without a default"):
        sampled(guided, 3.0, **once, **given)


def test_prompts_that_hold_for_a_part_of_the_run():
    """ComfyUI predicts 0 where no negative prompt holds."""
    model = unet()
    ranges = {"start_percent": 0.0, "end_percent": 0.5}
    conds = {"positive": prompt(1), "negative": prompt(2, **ranges)}
    expected = loop(model, conds, noise(), levels(), seg_step(model))
    assert_guided(model, SEG, expected, **conds)
    sampled(guide(model, "sag; steps=0.1:1; formulation=conditional"), **conds)
    for text in ("pag; formulation=unconditional", "sag; steps=0.1:1"):
        with pytest.raises(RuntimeError, match=r"no negative prompt holds at the noise level 1,"):
            sampled(guide(model, text), **conds)
    within = guide(model, "pag; formulation=within")
    with pytest.raises(RuntimeError, match=r"pag changes .* no negative prompt holds"):
        sampled(within, **conds)
    half = {"positive": prompt(1, **ranges), "negative": prompt(2)}
    with pytest.raises(RuntimeError, match=r"nag changes .* no prompt holds"):
        sampled(guide(model, nag("mid")), **half)
    sampled(guide(model, "pladis"), **half)  # of the negative prompt, where there is no other
    # Of two that follow each other there is always one.
    later = prompt(3, start_percent=0.5, end_percent=1.0)
    both = {"positive": [*prompt(1, **ranges), *later], "negative": prompt(2)}
    expected = loop(model, both, noise(), levels(), seg_step(model))
    assert_guided(model, SEG, expected, **both)
