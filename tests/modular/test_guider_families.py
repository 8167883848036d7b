"""The guider in modular pipelines of other families, compared with attached guidance."""

import pytest
import tiny_qwen_image
import tiny_wan
from comparison import run_of
from diffusers.modular_pipelines.qwenimage.modular_blocks_qwenimage import (
    QwenImageCoreDenoiseStep,
)
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanCoreDenoiseStep
from modular_pipelines import is_patched, run
from tiny_pipelines import MARGIN, TOLERANCE, difference, noise, quiet

from smoothed_energy import guidance_from_text
from smoothed_energy.modular import SmoothedEnergyGuider

SETTINGS = ("guidance_scale", "true_cfg_scale", "output_type")


def assert_same(blocks, case, text, latents=None, packed=lambda pipe, latents: latents):
    given = {} if latents is None else {"latents": latents}
    ordinary = case.pipeline()
    generate = run_of(ordinary, case, cfg=True, **given)
    plain = generate()
    with guidance_from_text(text).attach(ordinary):
        expected = generate()
    pipe = quiet(blocks().init_pipeline())
    pipe.update_components(
        transformer=ordinary.transformer,
        scheduler=ordinary.scheduler,
        guider=SmoothedEnergyGuider(text, guidance_scale=case.scale),
    )
    arguments = {**case.arguments, **case.cfg, **given}
    prompts = {name: value for name, value in arguments.items() if name not in SETTINGS}
    found = packed(pipe, run(pipe, prompts))
    changed, error = difference(plain, expected), difference(found, expected)
    print(f"\nerror {error:.1e}, effect {changed:.1e}")
    assert changed > MARGIN * TOLERANCE
    assert error < TOLERANCE
    assert not is_patched(ordinary.transformer)


@pytest.mark.parametrize("text", ["seg; blur=gaussian:1; scale=3; layers=b1", "pag; layers=b1"])
def test_wan(text):
    latents = noise(2, 4, *(3, 8, 12), seed=9)
    assert_same(WanCoreDenoiseStep, tiny_wan.CASES[0], text, latents)


@pytest.mark.parametrize(
    "text",
    [
        "seg; blur=gaussian:1; scale=3; layers=b1",
        "pag; layers=b1",
        # Places are compared, and tokens are packed; the second step has no second pass.
        "pag; layers=b1; scale=20; combine=fuse; every=2",
    ],
)
def test_qwen_image(text):
    """Its block rescales the result by the norm of the conditional prediction."""

    def packed(pipe, latents):
        return pipe.pachifier.pack_latents(latents)

    assert_same(QwenImageCoreDenoiseStep, tiny_qwen_image.CASES[0], text, packed=packed)
