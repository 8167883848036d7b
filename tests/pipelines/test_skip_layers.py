"""Skip-layer guidance equals a second pass with diffusers' own layer skipping."""

import contextlib

import pytest
import torch
from diffusers.hooks import LayerSkipConfig, apply_layer_skip
from diffusers.hooks.hooks import HookRegistry
from tiny_pipelines import (
    DOWN,
    MARGIN,
    TOLERANCE,
    UP,
    XL_MID,
    difference,
    latents_of,
    new_pixel_unet,
    new_unet,
    new_xl_unet,
    prompts,
    sd,
    size,
    xl,
    xl_prompts,
)

from smoothed_energy import SkipLayerGuidance
from smoothed_energy.families.layer_selection import LayerError


@contextlib.contextmanager
def skipped_by_diffusers(unet, names, config):
    """A block in which diffusers skips the layers with these self-attentions."""
    for name in names:
        stack, index, _ = name.rsplit(".", 2)
        apply_layer_skip(unet, LayerSkipConfig(indices=[int(index)], fqn=stack, **config))
    try:
        yield
    finally:
        for module in unet.modules():
            registry = getattr(module, "_diffusers_hook", None)
            if isinstance(registry, HookRegistry):
                for hook in list(registry.hooks):
                    registry.remove_hook(hook, recurse=False)


@contextlib.contextmanager
def guided_by_hand(unet, names, config, scale):
    """Two plain passes; a sum that leaves the pipeline's own guidance what it was."""
    forward = unet.forward

    def guided(*args, **kwargs):
        kwargs["return_dict"] = False
        clean = forward(*args, **kwargs)[0]
        with skipped_by_diffusers(unet, names, config):
            skipped = forward(*args, **kwargs)[0]
        # [u, c], and the conditional half alone is corrected.
        delta = scale * (clean - skipped).chunk(2)[-1]
        return (clean + torch.cat([delta, delta]),)

    unet.forward = guided
    try:
        yield
    finally:
        del unet.forward


PARTS = {
    "block": {},
    "attention": {"skip_ff": False},
    "feed-forward": {"skip_attention": False},
}


@pytest.mark.parametrize("skip", PARTS)
@pytest.mark.parametrize("names", [[DOWN], list(UP)], ids=["down", "up"])
def test_stable_diffusion(skip, names):
    pipe = sd(model=new_unet())
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0)
    plain = run()
    with guided_by_hand(pipe.unet, names, PARTS[skip], 2.8):
        expected = run()
    guidance = SkipLayerGuidance(scale=2.8, layers=names, skip=skip)
    assert guidance.from_json(guidance.to_json()) == guidance
    for replay in (True, False):
        with guidance.attach(pipe, replay=replay) as attachment:
            assert difference(run(), expected) < TOLERANCE
        assert attachment.last_run.layers == set(names)
    assert difference(plain, expected) > MARGIN * TOLERANCE
    assert (run() == plain).all()


@pytest.mark.parametrize("skip", PARTS)
def test_one_of_several_layers_of_sdxl(skip):
    pipe = xl(model=new_xl_unet())
    run = latents_of(pipe, **xl_prompts(), **size(), guidance_scale=5.0)
    plain = run()
    with guided_by_hand(pipe.unet, XL_MID[1:], PARTS[skip], 2.8):
        expected = run()
    with SkipLayerGuidance(scale=2.8, layers="m1", skip=skip).attach(pipe):
        assert difference(run(), expected) < TOLERANCE
    assert difference(plain, expected) > MARGIN * TOLERANCE


def test_attention_that_is_in_no_block_has_no_block_to_skip():
    unet = new_pixel_unet()
    for skip in ("block", "feed-forward"):
        with pytest.raises(
            LayerError, match=r"not part of a transformer block; expected layers of"
        ):
            SkipLayerGuidance(skip=skip).attach(unet)
    SkipLayerGuidance(skip="attention").attach(unet).detach()


def test_what_cannot_be_skipped_is_refused():
    with pytest.raises(ValueError, match=r"skip='head'.*'block', 'attention', 'feed-forward'"):
        SkipLayerGuidance(skip="head")
