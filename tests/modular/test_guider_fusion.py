"""Guidances that are fused with CFG, in the guider as attached."""

from modular_pipelines import modular_xl, run_xl
from tiny_pipelines import MARGIN, TOLERANCE, difference, latents_of, size, xl, xl_prompts

from smoothed_energy import guidance_from_text
from smoothed_energy.modular import SmoothedEnergyGuider

TEXTS = [
    "seg; blur=gaussian:1; layers=mid; scale=6; combine=fuse",
    "pag; layers=u0; formulation=unconditional; combine=project+fuse",
    "slg; layers=m0; combine=rescale:0.7",
]


def test_two_fused_guidances_and_another_one_do_what_they_do_attached():
    pipe = xl()
    run = latents_of(pipe, **xl_prompts(), **size(), guidance_scale=5.0)
    plain = run()
    attachments = [guidance_from_text(text).attach(pipe) for text in TEXTS]
    try:
        expected = run()
    finally:
        for attachment in attachments:
            attachment.detach()
    guider = SmoothedEnergyGuider(TEXTS, guidance_scale=5.0)
    assert difference(plain, expected) > MARGIN * TOLERANCE
    assert difference(run_xl(modular_xl(guider)), expected) < TOLERANCE
