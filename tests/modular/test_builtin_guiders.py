"""The guiders of `diffusers` of the same names, compared with this one.

They are tested as they are in diffusers 0.42.1. When a test of what is wrong there fails, it was
mended, and docs/modular.md is to be changed. They leave forward functions behind in what they hook,
so they get denoisers of their own.
"""

import pytest
import torch
from comparison import run_of
from diffusers import HeunDiscreteScheduler, guiders
from diffusers.hooks import LayerSkipConfig, SmoothedEnergyGuidanceConfig
from diffusers.modular_pipelines.modular_pipeline import BlockState
from diffusers.modular_pipelines.stable_diffusion_xl.denoise import StableDiffusionXLLoopDenoiser
from modular_pipelines import modular_sd3, modular_xl, run_sd3, run_xl
from tiny_pipelines import MARGIN, TOLERANCE, difference, new_xl_unet, noise, xl, xl_prompts
from tiny_sd3 import CASES, sd3, transformer

from smoothed_energy import guidance_from_text
from smoothed_energy.modular import SmoothedEnergyGuider

MID = "mid_block.attentions.0.transformer_blocks"
CFG_SCALE, SCALE = 5.0, 3.0
# Latents; tokens in the middle are half as many on each side.
SQUARE, NOT_SQUARE = (12, 12), (12, 8)


def prediction(guider, *, step=1, latents=NOT_SQUARE):
    """The guided noise of one of three steps, by the block of SDXL."""
    prompts = xl_prompts()
    state = BlockState(
        **prompts,
        add_time_ids=noise(1, 6, seed=6),
        negative_add_time_ids=noise(1, 6, seed=6),
        scaled_latents=noise(1, 4, *latents, seed=7),
        num_inference_steps=3,
        timestep_cond=None,
        cross_attention_kwargs=None,
    )
    pipe = modular_xl(guider, model=new_xl_unet())
    block = StableDiffusionXLLoopDenoiser()
    _, state = block(pipe, state, i=step, t=torch.tensor(500.0))
    return state.noise_pred


def ours(text, guidance_scale=CFG_SCALE):
    return SmoothedEnergyGuider(f"{text}; scale={SCALE}", guidance_scale=guidance_scale)


def plain(guidance_scale=CFG_SCALE):
    return guiders.ClassifierFreeGuidance(guidance_scale=guidance_scale)


def builtin_seg(guidance_scale=CFG_SCALE, sigma=1.0, cls=guiders.SmoothedEnergyGuidance):
    return cls(
        guidance_scale=guidance_scale,
        seg_guidance_scale=SCALE,
        seg_blur_sigma=sigma,
        seg_guidance_config=SmoothedEnergyGuidanceConfig([0, 1], MID),
    )


def builtin_pag(guidance_scale=CFG_SCALE):
    return guiders.PerturbedAttentionGuidance(
        guidance_scale=guidance_scale,
        perturbed_guidance_scale=SCALE,
        perturbed_guidance_start=0.0,
        perturbed_guidance_stop=1.0,
        perturbed_guidance_config=LayerSkipConfig(
            [0, 1], MID, skip_attention=False, skip_attention_scores=True, skip_ff=False
        ),
    )


def builtin_slg(guidance_scale=CFG_SCALE, fqn=MID):
    return guiders.SkipLayerGuidance(
        guidance_scale=guidance_scale,
        skip_layer_guidance_scale=SCALE,
        skip_layer_guidance_start=0.0,
        skip_layer_guidance_stop=1.0,
        skip_layer_config=LayerSkipConfig([1], fqn),
    )


class Counting(guiders.SmoothedEnergyGuidance):
    """The built-in SEG, which does not count the batches that it prepares for, counting them."""

    def prepare_models(self, denoiser):
        self._count_prepared += 1
        super().prepare_models(denoiser)


@pytest.mark.parametrize("sigma", [1.0, 9999999.0])
def test_the_built_in_seg_makes_a_third_pass_and_does_nothing(sigma):
    guider = builtin_seg(sigma=sigma)
    found, expected = prediction(guider), prediction(plain())
    assert guider.num_conditions == 3
    seg = "seg" if sigma > 1 else f"seg; blur=gaussian:{sigma}"
    effect = difference(prediction(ours(f"{seg}; layers=mid")), expected)
    print(f"\nbuilt-in {difference(found, expected):.1e}, ours {effect:.1e}")
    assert difference(found, expected) < TOLERANCE
    assert effect > MARGIN * TOLERANCE


def test_the_built_in_seg_would_take_every_finite_sigma_for_an_infinite_one():
    """Were it applied, to the square pictures that it is made for."""
    found = prediction(builtin_seg(sigma=1.0, cls=Counting), latents=SQUARE)
    infinite = prediction(ours("seg; layers=mid"), latents=SQUARE)
    finite = prediction(ours("seg; blur=gaussian:1; layers=mid"), latents=SQUARE)
    print(f"\nto inf {difference(found, infinite):.1e}, to 1 {difference(found, finite):.1e}")
    assert difference(found, infinite) < TOLERANCE
    assert difference(found, finite) > MARGIN * TOLERANCE


def test_the_built_in_seg_would_take_an_infinite_sigma_for_a_finite_one():
    found = prediction(builtin_seg(sigma=9999999.0, cls=Counting), latents=SQUARE)
    infinite = prediction(ours("seg; layers=mid"), latents=SQUARE)
    # A window of 7 x 7 on the 6 x 6 tokens, padded by reflection: not their mean.
    box = prediction(ours("seg; blur=gaussian:sigma=9000,kernel=7; layers=mid"), latents=SQUARE)
    print(f"\nto inf {difference(found, infinite):.1e}, to a box {difference(found, box):.1e}")
    assert difference(found, infinite) > MARGIN * TOLERANCE
    assert difference(found, box) < TOLERANCE


def test_the_built_in_seg_would_leave_out_tokens_of_pictures_that_are_not_square():
    """24 tokens of 6 x 4 are taken for 16 of 4 x 4, and a rest."""
    found = prediction(builtin_seg(sigma=1.0, cls=Counting))
    for blur in ("gaussian:1", "gaussian:inf"):
        expected = prediction(ours(f"seg; blur={blur}; layers=mid"))
        assert difference(found, expected) > MARGIN * TOLERANCE


@pytest.mark.parametrize(
    ("builtin", "text"), [(builtin_pag, "pag; layers=mid"), (builtin_slg, "slg; layers=m1")]
)
def test_pag_and_slg_are_the_built_in_ones_where_these_are_right(builtin, text):
    expected, found = prediction(builtin()), prediction(ours(text))
    changed = difference(prediction(plain()), expected)
    print(f"\nerror {difference(found, expected):.1e}, effect {changed:.1e}")
    assert changed > MARGIN * TOLERANCE
    assert difference(found, expected) < TOLERANCE


@pytest.mark.parametrize("builtin", [builtin_seg, builtin_pag, builtin_slg])
def test_the_built_in_ones_leave_out_the_first_step(builtin):
    assert difference(prediction(builtin(), step=0), prediction(plain(), step=0)) < TOLERANCE


@pytest.mark.parametrize(
    ("builtin", "text"),
    [
        (builtin_seg, "seg; layers=mid"),
        (builtin_pag, "pag; layers=mid"),
        (builtin_slg, "slg; layers=m1"),
    ],
)
def test_without_cfg_the_built_in_ones_are_cfg_with_their_own_scale(builtin, text):
    found = prediction(builtin(1.0))
    assert difference(found, prediction(plain(SCALE))) < TOLERANCE
    right = prediction(ours(text, guidance_scale=1.0))
    assert difference(found, right) > MARGIN * TOLERANCE
    assert difference(prediction(plain(1.0)), right) > MARGIN * TOLERANCE


def test_the_built_in_slg_swaps_text_and_image_in_stable_diffusion_3():
    model = transformer.__wrapped__()
    pipe = modular_sd3(builtin_slg(fqn="transformer_blocks"), model=model)
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        run_sd3(pipe)
    hooks = [vars(module).get("_diffusers_hook") for module in model.modules()]
    assert any(hook is not None and hook.hooks for hook in hooks), "and leaves its hooks behind"
    text = f"slg; layers=b1; scale={SCALE}"
    pipe = sd3()
    with guidance_from_text(text).attach(pipe):
        expected = run_of(pipe, CASES[0], cfg=True)()
    found = run_sd3(modular_sd3(SmoothedEnergyGuider(text, guidance_scale=CASES[0].scale)))
    assert difference(found, expected) < TOLERANCE


def test_the_built_in_cfg_ends_in_the_middle_of_a_second_order_schedule():
    heun = HeunDiscreteScheduler.from_config(xl().scheduler.config)
    calls = []
    for guider in (plain(), SmoothedEnergyGuider("seg; scale=0", guidance_scale=CFG_SCALE)):
        model, count = new_xl_unet(), []
        model.register_forward_hook(lambda *args, count=count: count.append(1))
        run_xl(modular_xl(guider, model=model, scheduler=heun), steps=3)
        calls.append(len(count))
    assert calls == [3 * 2 + 2 * 1, 5 * 2]
