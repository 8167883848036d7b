"""Normalized attention guidance equals itself by hand, in cross and in joint attention."""

import functools
import warnings
from dataclasses import replace

import pytest
import tiny_allegro
import tiny_anyflow
import tiny_auraflow
import tiny_cogvideox
import tiny_controlnet_xs
import tiny_flux
import tiny_flux2
import tiny_helios
import tiny_hunyuan_video
import tiny_ltx
import tiny_pixart
import tiny_qwen_image
import tiny_sana
import tiny_sd3
import tiny_unet
import tiny_unet3d
import tiny_wan
import tiny_z_image
import torch
from brute_force_attention import Image
from comparison import run_of
from nag_by_hand import beside, cross
from tiny_pipelines import MARGIN, TEXT_WIDTH, TOLERANCE, difference, noise

from smoothed_energy import (
    GaussianBlur,
    GuidanceWarning,
    NormalizedAttentionGuidance,
    SmoothedEnergyGuidance,
    guidance_from_text,
)
from smoothed_energy.families import LayerError

# A threshold that some tokens pass and others don't.
SETTINGS = 4.0, 2.5, 0.5
TEXT, LONG = "encoder_hidden_states", 7


def nag(**more):
    scale, tau, alpha = SETTINGS
    return NormalizedAttentionGuidance(**{"scale": scale, "tau": tau, "alpha": alpha, **more})


def last_half(rows):
    return slice(rows // 2, None)


def unet_text(case, text):
    return text


def pixart_text(case, text):
    return tiny_pixart.transformer().caption_projection(text)


def allegro_text(case, text):
    return case.pipeline().transformer.caption_projection(text)


def ltx_text(case, text):
    return tiny_ltx.transformer().caption_projection(text)


def sana_text(case, text):
    denoiser = case.pipeline().transformer
    return denoiser.caption_norm(denoiser.caption_projection(text))


def embedded_text(case, text):
    return case.pipeline().transformer.condition_embedder.text_embedder(text)


def frames_text(case, text):
    return text.repeat_interleave(tiny_unet3d.FRAMES, 0)


# Another number of tokens than the prompt has.
CROSS = {
    "SDXL": (tiny_unet.CASES[1], unet_text, TEXT_WIDTH),
    "PixArt": (tiny_pixart.CASES[0], pixart_text, tiny_pixart.WIDTH),
    "Allegro": (tiny_allegro.CASES[0], allegro_text, tiny_allegro.WIDTH),
    "LTX-Video": (tiny_ltx.CASES[0], ltx_text, tiny_ltx.WIDTH),
    "Sana": (tiny_sana.CASES[0], sana_text, tiny_sana.WIDTH),
    "Wan": (tiny_wan.CASES[0], embedded_text, tiny_wan.WIDTH),
    "AnyFlow": (tiny_anyflow.CASES[0], embedded_text, tiny_anyflow.WIDTH),
    "Helios": (tiny_helios.CASES[0], embedded_text, tiny_helios.WIDTH),
    "U-Net over time": (tiny_unet3d.CASES[0], frames_text, TEXT_WIDTH),
    "ControlNet-XS": (tiny_controlnet_xs.CASES[0], unet_text, TEXT_WIDTH),
}


@pytest.mark.parametrize("cfg", [False, True])
@pytest.mark.parametrize("name", CROSS)
def test_cross_attention_is_that_by_hand(name, cfg):
    case, processed, width = CROSS[name]
    pipe, text = case.pipeline(), noise(2, LONG, width, seed=9)
    text = text[:1] if name == "ControlNet-XS" else text  # one prompt
    denoiser = getattr(pipe, case.denoiser)
    run = run_of(pipe, case, cfg=cfg)
    plain, calls = run(), []
    hook = denoiser.register_forward_pre_hook(lambda *_: calls.append(None))
    with (
        torch.no_grad(),
        cross(
            denoiser,
            processed(case, text),
            SETTINGS,
            conditional=last_half if cfg and not case.separate else lambda rows: slice(None),
            # Of two calls the first has the prompt.
            acts=lambda: not (cfg and case.separate) or len(calls) % 2 == 1,
        ),
    ):
        expected = run()
    calls.clear()
    with nag(negative_embeds={TEXT: text}).attach(pipe) as attachment:
        found = run()
        evaluations = len(calls)
    hook.remove()
    assert difference(expected, plain) > MARGIN * TOLERANCE
    assert difference(found, expected) < TOLERANCE
    # The denoiser is called as often as without; before the first step as far as its first layer.
    assert evaluations == attachment.last_run.calls
    assert torch.equal(run(), plain)


SHORT = {
    **tiny_z_image.ARGUMENTS,
    "prompt_embeds": tiny_z_image.texts(5, 20),
    "negative_prompt_embeds": tiny_z_image.texts(3, 7, seed=5),
}
JOINT = {
    "Flux": (
        tiny_flux.CASES[0],
        {TEXT: noise(2, 5, 16, seed=9), "pooled_projections": noise(2, 24, seed=10)},
        {"start": 5, "length": 24},
    ),
    "Stable Diffusion 3.5": (
        tiny_sd3.CASES[1],
        {TEXT: noise(2, 5, 16, seed=9), "pooled_projections": noise(2, 24, seed=10)},
        {"start": 0, "length": 24},
    ),
    "Flux 2": (tiny_flux2.CASES[0], {TEXT: noise(2, 5, 16, seed=9)}, {"start": 5, "length": 24}),
    "CogVideoX": (
        tiny_cogvideox.CASES[0],
        {TEXT: noise(2, 5, 16, seed=9)},
        {"start": 5, "length": 72},
    ),
    # After eight registers, which are of the text's stream.
    "AuraFlow": (
        tiny_auraflow.CASES[0],
        {TEXT: 3 * noise(2, 5, 16, seed=9)},
        {"start": 13, "length": 24},
    ),
    "HunyuanVideo": (
        tiny_hunyuan_video.CASES[0],
        {
            TEXT: 30 * noise(2, 5, 16, seed=9),
            "encoder_attention_mask": torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]),
            "pooled_projections": 9 * noise(2, 24, seed=10),
        },
        {"start": 0, "length": 72},
    ),
    # Texts of other lengths, which are padded to 32 tokens as the image is.
    "Z-Image": (
        replace(tiny_z_image.CASES[0], arguments=SHORT),
        {"cap_feats": [noise(9, 16, seed=9), noise(4, 16, seed=10)]},
        {"start": 0, "length": 32},
    ),
    "Qwen-Image": (
        tiny_qwen_image.CASES[0],
        {
            TEXT: noise(2, 5, 16, seed=9),
            "encoder_hidden_states_mask": torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]),
        },
        {"start": 5, "length": 24},
    ),
}


@pytest.mark.parametrize("cfg", [False, True])
@pytest.mark.parametrize("name", JOINT)
def test_joint_attention_is_that_by_hand(name, cfg):
    case, text, place = JOINT[name]
    pipe = case.pipeline()
    denoiser = getattr(pipe, case.denoiser)
    run = run_of(pipe, case, cfg=cfg)
    plain = run()
    in_batch = cfg and not case.separate
    prompt = (slice(2) if case.order == "cu" else slice(2, 4)) if in_batch else slice(None)
    separate = cfg and case.separate
    with beside(denoiser, text, SETTINGS, **place, prompt=prompt, separate=separate):
        expected = run()
    with nag(negative_embeds=text).attach(pipe):
        found = run()
    assert difference(expected, plain) > MARGIN * TOLERANCE
    assert difference(found, expected) < TOLERANCE
    assert torch.equal(run(), plain)


def test_the_second_pass_of_another_guidance_has_it_too():
    case, text, place = JOINT["Flux"]
    pipe = case.pipeline()
    run = run_of(pipe, case)
    # Attention is called once in each of the five blocks.
    seg = (1, 3), Image((6, 4), 5), 3.0
    with beside(pipe.transformer, text, SETTINGS, **place, seg=seg):
        expected = run()
    guidance = SmoothedEnergyGuidance(blur=GaussianBlur(1), scale=3, layers="b1,s1")
    errors = []
    for replay in (True, False):
        with nag(negative_embeds=text).attach(pipe), guidance.attach(pipe, replay=replay):
            errors.append(difference(run(), expected))
    assert max(errors) < TOLERANCE


@pytest.mark.parametrize("formulation", ["conditional", "unconditional"])
def test_under_cfg_it_is_in_the_second_pass_of_the_rows_with_the_prompt(formulation):
    case, _, width = CROSS["SDXL"]
    pipe, text = case.pipeline(), noise(1, LONG, width, seed=9)
    run = run_of(pipe, case, cfg=True)
    guidance = SmoothedEnergyGuidance(layers="mid", formulation=formulation)
    # The second pass has the conditional rows alone, or those without the prompt.
    second = {"conditional": slice(None), "unconditional": slice(0)}[formulation]
    by_hand = cross(
        pipe.unet,
        text,
        SETTINGS,
        conditional=lambda rows: slice(2, None) if rows == 4 else second,
    )
    with torch.no_grad(), by_hand, guidance.attach(pipe, replay=False):
        expected = run()
    for replay in (True, False):
        one_row = nag(negative_embeds={TEXT: text})
        with one_row.attach(pipe), guidance.attach(pipe, replay=replay):
            assert difference(run(), expected) < TOLERANCE


def test_negative_texts_may_be_longer_where_they_are_masked():
    case, text, _ = JOINT["Qwen-Image"]
    pipe = case.pipeline()
    run = run_of(pipe, case)
    longer = torch.nn.functional.pad(text[TEXT], (0, 0, 0, 3), value=7.0)
    mask = torch.nn.functional.pad(text["encoder_hidden_states_mask"], (0, 3))
    with nag(negative_embeds=text).attach(pipe):
        expected = run()
    with nag(negative_embeds={TEXT: longer, "encoder_hidden_states_mask": mask}).attach(pipe):
        assert difference(run(), expected) < TOLERANCE
    flux = tiny_flux.flux()
    longer = {**JOINT["Flux"][1], TEXT: noise(2, 6, 16)}
    with nag(negative_embeds=longer).attach(flux), pytest.raises(ValueError, match="6 tokens"):
        run_of(flux, tiny_flux.CASES[0])()


def test_texts_of_any_length_where_they_are_lists():
    case = tiny_z_image.CASES[0]
    pipe = case.pipeline()
    run = run_of(pipe, case)
    plain = run()
    width = pipe.transformer.config.cap_feat_dim
    prompt = [noise(3, width, seed=9)], [noise(40, width, seed=9)]
    with nag(negative_embeds={"cap_feats": prompt[0]}, scale=0).attach(pipe):
        assert torch.equal(run(), plain)
    found = []
    for feats in prompt:
        with nag(negative_embeds={"cap_feats": feats}).attach(pipe):
            found.append(run())
    assert difference(found[0], plain) > MARGIN * TOLERANCE
    assert difference(*found) > MARGIN * TOLERANCE


def test_the_prompt_as_its_own_negative_changes_nothing():
    for case, names in (
        (tiny_flux.CASES[0], {TEXT: "prompt_embeds", "pooled_projections": "pooled_prompt_embeds"}),
        (tiny_unet.CASES[0], {TEXT: "prompt_embeds"}),
    ):
        pipe = case.pipeline()
        run = run_of(pipe, case)
        plain = run()
        same = {name: case.arguments[argument] for name, argument in names.items()}
        with nag(negative_embeds=same).attach(pipe):
            assert difference(run(), plain) < TOLERANCE


@pytest.mark.parametrize("off", [{"scale": 0}, {"alpha": 0}])
def test_without_strength_it_is_the_plain_run_to_the_bit(off):
    case, text, _ = JOINT["Flux"]
    pipe = case.pipeline()
    run = run_of(pipe, case)
    plain = run()
    with nag(negative_embeds=text, **off).attach(pipe):
        assert torch.equal(run(), plain)


def test_layers_and_steps_are_chosen():
    case, text, _ = JOINT["Flux"]
    pipe = case.pipeline()
    run = run_of(pipe, case)
    plain = run()
    with nag(negative_embeds=text, steps="0.5:1").attach(pipe) as attachment:
        late = run()
    assert attachment.last_run.guided_calls == 1
    with nag(negative_embeds=text, layers="s0").attach(pipe):
        single = run()
    with nag(negative_embeds=text).attach(pipe):
        whole = run()
    for one, other in ((late, plain), (single, plain), (late, whole), (single, whole)):
        assert difference(one, other) > TOLERANCE


def test_a_loop_of_ones_own_says_which_rows_have_the_prompt():
    denoiser = tiny_unet.CASES[1].pipeline().unet
    text = noise(1, LONG, TEXT_WIDTH, seed=9)
    sample, time = noise(4, 4, 12, 8, seed=1), 500
    more = {"text_embeds": noise(4, TEXT_WIDTH, seed=3), "time_ids": noise(4, 6, seed=4)}
    call = functools.partial(
        denoiser, sample, time, noise(4, 5, TEXT_WIDTH, seed=2), added_cond_kwargs=more
    )
    with torch.no_grad():
        plain = call().sample
        with cross(denoiser, text.repeat(2, 1, 1), SETTINGS, conditional=last_half):
            expected = call().sample
        with nag(negative_embeds={TEXT: text}).attach(denoiser) as attachment:
            attachment.step(0, 2, conditional_rows=2, cfg_scale=5.0)
            found = call().sample
    assert torch.equal(found[:2], plain[:2])
    assert difference(found, expected) < TOLERANCE
    with pytest.raises(RuntimeError, match="no text encoders"):
        nag(negative_prompt="blurry").attach(denoiser)


def test_what_cant_be_is_refused():
    case, text, _ = JOINT["Flux"]
    pipe = case.pipeline()
    with pytest.raises(RuntimeError, match="no text encoders"):
        nag(negative_prompt="blurry").attach(pipe)
    with (
        nag(negative_embeds={TEXT: text[TEXT]}).attach(pipe),
        pytest.raises(ValueError, match="expected encoder_hidden_states, pooled_projections"),
    ):
        run_of(pipe, case)()
    many = {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in text.items()}
    with nag(negative_embeds=many).attach(pipe), pytest.raises(ValueError, match="4 rows for 2"):
        run_of(pipe, case)()
    other = dict(text)
    two = nag(negative_embeds=text).attach(pipe), nag(negative_embeds=other).attach(pipe)
    with two[0], two[1], pytest.raises(RuntimeError, match="added to a batch once"):
        run_of(pipe, case)()
    with pytest.raises(LayerError, match="has no text"):
        nag(negative_embeds=text).attach(tiny_unet.CASES[2].pipeline())


def test_it_says_that_it_changed_nothing():
    case, text, _ = JOINT["Flux"]
    pipe = case.pipeline()
    late = nag(negative_embeds=text, steps="sigma:100:200")
    with late.attach(pipe), pytest.warns(GuidanceWarning, match="was changed"):
        run_of(pipe, case)()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with nag(negative_embeds=text).attach(pipe):
            run_of(pipe, case)()


def test_settings_are_checked_and_have_a_text():
    guidance = guidance_from_text('nag; negative_prompt="a; b"; scale=2; tau=3; layers=mid')
    assert guidance == NormalizedAttentionGuidance(
        scale=2.0, tau=3.0, layers="mid", negative_prompt="a; b"
    )
    assert hash(guidance) == hash(guidance_from_text(str(guidance_text(guidance))))
    for wrong in ({"scale": -1}, {"tau": 0}, {"alpha": 2}, {"steps": "adaptive:0.9"}):
        with pytest.raises(ValueError):
            NormalizedAttentionGuidance(**wrong)
    with pytest.raises(TypeError):
        NormalizedAttentionGuidance(negative_embeds=torch.zeros(1))
    with pytest.raises(ValueError, match="one of them"):
        NormalizedAttentionGuidance(negative_embeds={TEXT: 0}, negative_prompt="blurry")
    given = NormalizedAttentionGuidance(negative_embeds={TEXT: torch.zeros(1)})
    assert "<encoder_hidden_states>" in repr(given)
    with pytest.raises(ValueError, match="has no text"):
        given.to_dict()


def guidance_text(guidance):
    from smoothed_energy.methods import guidance_to_text

    return guidance_to_text(guidance)
