"""The guider in the blocks of this year's families, compared with attached guidance."""

import dataclasses

import pytest
import tiny_ernie_image
import tiny_flux2
import tiny_helios
import tiny_hunyuan_video15
import tiny_krea2
import tiny_ltx
import tiny_ltx2
import tiny_qwen_image21
import tiny_wan
import tiny_z_image
import torch
from comparison import run_of
from diffusers.guiders import LTX2Guidance
from modular_families import assert_same, generate, last_latents, modular
from tiny_pipelines import noise

from smoothed_energy import guidance_from_text
from smoothed_energy.modular import SmoothedEnergyGuider

BOUNDARY = 0.875
NO_PICTURE = {
    name: torch.zeros(2, length, dtype=torch.bool)
    for name, length in (("image_pad_mask", 5), ("negative_image_pad_mask", 7))
}
#: The blocks of each, the ordinary pipeline, and what its blocks are given besides.
FAMILIES = {
    "flux2.modular_blocks_flux2_klein_base.Flux2KleinBaseCoreDenoiseStep": (
        tiny_flux2.CASES[0],
        {},
    ),
    "z_image.modular_blocks_z_image.ZImageCoreDenoiseStep": (tiny_z_image.CASES[0], {}),
    "krea2.modular_blocks_krea2.Krea2CoreDenoiseStep": (tiny_krea2.CASES[0], {}),
    "ernie_image.modular_blocks_ernie_image.ErnieImageCoreDenoiseStep": (
        tiny_ernie_image.CASES[0],
        {},
    ),
    "qwenimage21.modular_blocks_qwenimage21.QwenImage21CoreDenoiseStep": (
        tiny_qwen_image21.CASES[0],
        NO_PICTURE,
    ),
    "hunyuan_video1_5.modular_blocks_hunyuan_video1_5.HunyuanVideo15CoreDenoiseStep": (
        tiny_hunyuan_video15.CASES[0],
        {"latents": noise(2, 4, 3, 8, 12, seed=9)},
    ),
    "helios.modular_blocks_helios.HeliosCoreDenoiseStep": (
        tiny_helios.CASES[0],
        # Its blocks round times to whole numbers.
        {"num_inference_steps": 1},
    ),
    "ltx.modular_blocks_ltx.LTXCoreDenoiseStep": (tiny_ltx.CASES[0], {}),
}


WAN22 = dataclasses.replace(
    tiny_wan.CASES[0],
    pipeline=lambda: tiny_wan.wan(
        transformer_2=tiny_wan.transformer(seed=1), boundary_ratio=BOUNDARY
    ),
)


def assert_as_attached(path, case, text, changes, **components):
    ordinary = case.pipeline()
    steps = {"num_inference_steps": 2}
    both = steps | {name: changes[name] for name in ("latents", *steps) if name in changes}
    run = run_of(ordinary, case, cfg=True, **both)
    plain = last_latents(ordinary.scheduler, run)
    with guidance_from_text(text).attach(ordinary):
        expected = last_latents(ordinary.scheduler, run)
    pipe = modular(path, ordinary, **components)
    SmoothedEnergyGuider(text, guidance_scale=case.scale).put_into(pipe)
    known = pipe.blocks.input_names
    given = {**case.arguments, **(case.cfg or {})}
    given = {name: value for name, value in given.items() if name in known} | steps | changes
    found = last_latents(pipe.scheduler, lambda: generate(pipe, given))
    assert_same(found, expected, plain, pipe, 2e-5)


@pytest.mark.parametrize("path", FAMILIES)
def test_as_the_ordinary_pipeline(path):
    case, changes = FAMILIES[path]
    layers = ",".join(case.images)
    for text in (
        f"seg; blur=gaussian:1; scale=30; layers={layers}",
        f"slg; scale=30; layers={layers}; every=2",
        "apg; momentum=0.3; norm=0.5",
    ):
        assert_as_attached(path, case, text, changes)


def test_a_guider_in_both_slots_of_wan22():
    text = f"seg; blur=gaussian:1; scale=30; layers={','.join(WAN22.images)}"
    given = {"num_inference_steps": 4, "latents": noise(2, 4, 3, 8, 12, seed=9)}
    assert_as_attached("wan.modular_blocks_wan22.Wan22CoreDenoiseStep", WAN22, text, given)


def test_helios_in_stages():
    """Each stage is a run of its own."""
    case = tiny_helios.STAGES
    text = f"seg; blur=gaussian:1; scale=30; layers={','.join(case.images)}"
    path = "helios.modular_blocks_helios_pyramid.HeliosPyramidCoreDenoiseStep"
    assert_as_attached(path, case, text, {})


@pytest.mark.parametrize("of_sound", [False, True])
def test_ltx2_beside_the_guider_of_its_sound(of_sound):
    """Which may want passes of its own, and asks the video's guider for their blocks."""
    case, text = tiny_ltx2.CASES[0], "seg; blur=gaussian:1; scale=30; layers=b1"
    names = ("audio_stg_scale", "audio_modality_scale", "spatio_temporal_guidance_blocks")
    ordinary = case.pipeline()
    own = {name: tiny_ltx2.OWN[name] for name in names} if of_sound else {}
    run = run_of(ordinary, case, cfg=True, **own)
    plain = last_latents(ordinary.scheduler, run)
    with guidance_from_text(text).attach(ordinary):
        expected = last_latents(ordinary.scheduler, run)
    sound = {"stg_scale": 1.0, "modality_scale": 3.0} if of_sound else {}
    pipe = modular(
        "ltx2.modular_blocks_ltx2.LTX2CoreDenoiseStep",
        ordinary,
        guider=LTX2Guidance(spatio_temporal_guidance_blocks=own.get(names[-1])),
        audio_guider=LTX2Guidance(guidance_scale=7.0, **sound),
    )
    SmoothedEnergyGuider(text, guidance_scale=case.scale).put_into(pipe)
    given = {"batch_size": 2, "dtype": torch.float32, "use_cross_timestep": False}
    given |= {name: case.arguments[name] for name in ("height", "width", "num_frames")}
    for sign in ("", "negative_"):
        embeddings = case.arguments[f"{sign}prompt_embeds"]
        given[f"{sign}connector_prompt_embeds"] = embeddings
        given[f"{sign}connector_audio_prompt_embeds"] = embeddings.flip(-1)
        mask = case.arguments[f"{sign}prompt_attention_mask"]
        given[f"{sign}connector_attention_mask"] = mask
    found = last_latents(pipe.scheduler, lambda: generate(pipe, given))
    assert_same(found, expected, plain, pipe)


def test_ltx2_has_no_zero_steps():
    pipe = modular("ltx2.modular_blocks_ltx2.LTX2CoreDenoiseStep", tiny_ltx2.ltx2())
    with pytest.raises(ValueError, match=r"estimates of clean latents.*expected zero_steps=0"):
        SmoothedEnergyGuider("cfg-zero").put_into(pipe)
