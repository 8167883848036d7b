"""Combinations of a correction with the prediction, in whole runs: all equal brute force."""

import pytest
import torch
from brute_force_fusion import fused
from brute_force_guidance import Term
from diffusers import StableDiffusionInstructPix2PixPipeline
from tiny_pipelines import (
    ALONE,
    assert_guided_as_by_brute_force,
    cfg,
    guidance_for,
    latents_of,
    mid_grids,
    new_unet,
    picture,
    prompts,
    sd,
    size,
)


def _std(x):
    return x.flatten(1).std(dim=1)[:, None, None, None]


def rescaled(amount, partial):
    def combine(delta, prediction, g):
        base = prediction["c"]
        if not partial and "u" in prediction:
            base = prediction["u"] + g * (prediction["c"] - prediction["u"])
        factor = _std(prediction["c"]) / _std(base + delta)
        return amount * factor * delta + (1 - amount) * delta

    return combine


def projected(parallel):
    def combine(delta, prediction, g):
        found = []
        for one, clean in zip(delta, prediction["c"], strict=True):
            along = (one * clean).sum() / (clean * clean).sum() * clean
            found.append(one - along + parallel * along)
        return torch.stack(found)

    return combine


def fusion(delta, prediction, g):
    if "u" not in prediction:
        return delta
    text = g * (prediction["c"] - prediction["u"])
    return fused(delta, text) - text


CASES = {
    "rescale:0.7": rescaled(0.7, partial=False),
    "rescale:1:partial": rescaled(1.0, partial=True),
    "project": projected(0.0),
    "project:0.5": projected(0.5),
    "fuse": fusion,
    "project+rescale:0.7": lambda delta, prediction, g: rescaled(0.7, partial=False)(
        projected(0.0)(delta, prediction, g), prediction, g
    ),
}


@pytest.mark.parametrize(("scale", "branches"), [(1.0, ALONE), (5.0, cfg(5.0))])
@pytest.mark.parametrize("text", CASES)
def test_combinations_equal_brute_force(text, scale, branches):
    pipe = sd()
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=scale)
    term = Term(mid_grids(), combine=CASES[text])
    guidance = guidance_for(term, combine=text)
    assert guidance.from_json(guidance.to_json()) == guidance
    assert_guided_as_by_brute_force(pipe, run, term, branches, guidances=[guidance])


def test_two_fused_guidances_equal_brute_force():
    pipe = sd()
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=5.0)
    waiting = []

    def keep(delta, prediction, g):
        waiting.append(delta)
        return torch.zeros_like(delta)

    def fuse_both(delta, prediction, g):
        return fusion(delta + waiting.pop(), prediction, g)

    terms = [
        Term(mid_grids(), scale=4.0, combine=keep),
        Term(mid_grids(), sigma=0.5, scale=8.0, combine=fuse_both),
    ]
    guidances = [guidance_for(term, combine="fuse") for term in terms]
    assert_guided_as_by_brute_force(pipe, run, terms, cfg(5.0), guidances=guidances)


def test_a_pipeline_with_two_scales_says_what_can_be_used_instead_of_fusion():
    pipe = sd(
        StableDiffusionInstructPix2PixPipeline, model=new_unet(in_channels=8), image_encoder=None
    )
    run = latents_of(
        pipe, **prompts(), image=picture(), guidance_scale=5.0, image_guidance_scale=1.5
    )
    term = Term(mid_grids())
    with (
        guidance_for(term, combine="fuse").attach(pipe),
        pytest.raises(ValueError, match=r"expected rescale:AMOUNT:partial, project or no combine="),
    ):
        run()
    for text in ("rescale:0.5:partial", "project"):
        with guidance_for(term, combine=text).attach(pipe):
            assert run().isfinite().all()
