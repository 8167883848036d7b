"""Guidance attached to modular pipelines without CFG, compared with that of ordinary ones."""

import dataclasses

import pytest
import tiny_flux
import tiny_flux2
import tiny_krea2
import tiny_qwen_image21
import torch
from comparison import run_of
from diffusers import FluxKontextPipeline, FluxTransformer2DModel
from diffusers.modular_pipelines import ComponentSpec, ModularPipelineBlocks
from modular_families import assert_same, generate, last_latents, modular
from tiny_pipelines import quiet

from smoothed_energy import guidance_from_text
from smoothed_energy.modular import SmoothedEnergyGuider
from smoothed_energy.trace import Trace

KONTEXT = dataclasses.replace(
    tiny_flux.CASES[0],
    pipeline=lambda: tiny_flux.flux(FluxKontextPipeline),
    arguments={**tiny_flux.ARGUMENTS, "max_area": 96 * 64},
)
KREA2_TURBO = dataclasses.replace(
    tiny_krea2.CASES[0], pipeline=lambda: tiny_krea2.krea2(is_distilled=True)
)

#: The blocks of each, the ordinary pipeline, and what its blocks call something else.
SAME = {
    "flux.modular_blocks_flux.FluxCoreDenoiseStep": (tiny_flux.CASES[0], {}),
    "flux.modular_blocks_flux_kontext.FluxKontextCoreDenoiseStep": (KONTEXT, {}),
    "flux2.modular_blocks_flux2.Flux2CoreDenoiseStep": (tiny_flux2.WITHOUT_CFG[0], {}),
    "flux2.modular_blocks_flux2_klein.Flux2KleinCoreDenoiseStep": (tiny_flux2.WITHOUT_CFG[1], {}),
    "krea2.modular_blocks_krea2_turbo.Krea2TurboCoreDenoiseStep": (KREA2_TURBO, {}),
    "qwenimage21.modular_blocks_qwenimage21_turbo.QwenImage21TurboCoreDenoiseStep": (
        tiny_qwen_image21.CASES[0],
        {"image_pad_mask": torch.zeros(2, 5, dtype=torch.bool)},
    ),
}
TEXTS = (
    "seg; blur=gaussian:1; scale=30; layers=b1; steps=begin+end",
    "slg; layers=b1; scale=30; every=2",
)


def arguments_of(pipe, case, **changes):
    known = pipe.blocks.input_names
    return {name: value for name, value in case.arguments.items() if name in known} | changes


@pytest.mark.parametrize("path", SAME)
def test_as_the_ordinary_pipeline(path):
    case, changes = SAME[path]
    ordinary = case.pipeline()
    pipe = modular(path, ordinary)
    arguments = arguments_of(pipe, case, **changes)
    for text in TEXTS:
        plain = last_latents(ordinary.scheduler, run_of(ordinary, case))
        with guidance_from_text(text).attach(ordinary):
            expected = last_latents(ordinary.scheduler, run_of(ordinary, case))
        with guidance_from_text(text).attach(pipe) as attachment:
            found = last_latents(pipe.scheduler, lambda: generate(pipe, arguments))
        assert attachment.last_run.guided_calls
        assert_same(found, expected, plain, pipe)


def test_traces_look_at_pipelines_without_a_guider():
    ordinary, path = tiny_flux.flux(), "flux.modular_blocks_flux.FluxCoreDenoiseStep"
    pipe = modular(path, ordinary)
    with Trace(pipe) as trace:
        generate(pipe, arguments_of(pipe, tiny_flux.CASES[0]))
    assert set(trace.steps["step"]) == {0, 1}


WAN22 = "wan.modular_blocks_wan22.Wan22CoreDenoiseStep"
IDEOGRAM4 = "ideogram4.denoise.Ideogram4DenoiseStep"


def pipeline_of(path):
    return modular(path, None, transformer=tiny_flux.transformer())


def test_pipelines_with_cfg_are_refused():
    with pytest.raises(RuntimeError, match=r"SmoothedEnergyGuider\(guidance\).put_into\(pipe\)"):
        guidance_from_text("seg").attach(pipeline_of(WAN22))
    with pytest.raises(RuntimeError, match="combine two transformers by a weight for each step"):
        guidance_from_text("seg").attach(pipeline_of(IDEOGRAM4))


def test_blocks_that_nobody_knows_are_refused():
    class OwnLoopDenoiser(ModularPipelineBlocks):
        model_name = "flux"
        expected_components = [  # noqa: RUF012
            ComponentSpec("transformer", FluxTransformer2DModel)
        ]

    pipe = quiet(OwnLoopDenoiser().init_pipeline())
    pipe.update_components(transformer=tiny_flux.transformer())
    with pytest.raises(RuntimeError, match="what OwnLoopDenoiser makes of predictions can't be"):
        guidance_from_text("seg").attach(pipe)


def test_a_guider_that_no_block_would_call_is_refused():
    guider = SmoothedEnergyGuider("seg")
    with pytest.raises(RuntimeError, match=r"expected guidance.attach\(pipe\)"):
        guider.put_into(pipeline_of("flux.modular_blocks_flux.FluxCoreDenoiseStep"))
    with pytest.raises(RuntimeError, match="combine two transformers by a weight for each step"):
        guider.put_into(pipeline_of(IDEOGRAM4))
    with pytest.raises(TypeError, match=r"expected one of its pipelines, or guidance.attach"):
        guider.put_into(tiny_flux.flux())
