"""Guidance of Wan Animate 2, by the guider."""

import functools

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from tiny_pipelines import MARGIN, TOLERANCE, difference, noise
from tiny_wan_animate2 import BY_TORCH, SIZE, animate2, arguments, dense, transformer

from smoothed_energy.intercept.attention_backends import AttentionBackendError
from smoothed_energy.modular import SmoothedEnergyGuider

G, SCALE = 3.0, 2.8


def run(text, monkeypatch=None, replaced=None):
    """The video, where forward functions are replaced while it is made."""
    pipe = animate2(guider=SmoothedEnergyGuider(text, guidance_scale=G))
    if replaced is None:
        return pipe(**arguments(), num_inference_steps=2)[0]
    with monkeypatch.context() as patches:
        replaced(pipe, patches)
        return pipe(**arguments(), num_inference_steps=2)[0]


def skipping_by_hand(pipe, patches):
    """c + (scale / g) (c - c~), so that u + g (c - u) gains scale (c - c~)."""
    denoiser = pipe.transformer
    forward, block = denoiser.forward, denoiser.blocks[1]

    @functools.wraps(forward)  # blocks look at its parameters
    def guided(*args, **kwargs):
        output = forward(*args, **kwargs)
        if kwargs["kv_cache_mode"] == "extract" or kwargs["is_uncondtion"]:
            return output
        block.forward = lambda hidden_states, **_: hidden_states
        try:
            (skipped,) = forward(*args, **kwargs).sample
        finally:
            del block.forward
        (c,) = output.sample
        return type(output)(sample=[c + SCALE / G * (c - skipped)])

    patches.setattr(denoiser, "forward", guided)


def apg_by_hand(pipe, patches):
    """Of one video, whose norm is over all channels, though the block takes it out of the batch."""
    denoiser, step = pipe.transformer, pipe.scheduler.step
    forward, found = denoiser.forward, []

    @functools.wraps(forward)
    def recorded(*args, **kwargs):
        output = forward(*args, **kwargs)
        found.append(output.sample[0].double())
        return output

    def combined(output, *args, **kwargs):
        c, u = found[-2:]
        d = c - u
        d = d * min(1, 2 / d.norm())
        along = (d * c).sum() / (c * c).sum() * c
        return step((c + (G - 1) * (d - along)).to(output), *args, **kwargs)

    patches.setattr(denoiser, "forward", recorded)
    patches.setattr(pipe.scheduler, "step", combined)


@pytest.mark.parametrize(
    ("text", "by_hand"),
    [
        (f"slg; layers=b1; scale={SCALE}", skipping_by_hand),
        ("apg; momentum=0; norm=2", apg_by_hand),
    ],
)
def test_as_by_hand(monkeypatch, text, by_hand):
    plain = run("slg; layers=b1; scale=0")
    expected, found = run("slg; layers=b1; scale=0", monkeypatch, by_hand), run(text)
    print(f"\nerror {difference(found, expected):.1e}, effect {difference(plain, expected):.1e}")
    assert difference(plain, expected) > MARGIN * TOLERANCE
    assert difference(found, expected) < TOLERANCE
    assert torch.equal(run("slg; layers=b1; scale=0"), plain)


def test_attention_can_not_be_perturbed():
    with pytest.raises(AttentionBackendError, match=r"through flex_attention.*\(slg, tpg\)"):
        run("seg; layers=b1")
    assert not any("forward" in vars(module) for module in transformer().modules())


def test_the_attention_that_stands_for_flex_attention():
    mask = transformer().block_masks[SIZE]
    lengths = mask.shape[-2:]
    query, key, value = (noise(1, length, 2, 12, seed=length) for length in (*lengths, lengths[1]))
    both = [
        attend(query, key, value, attn_mask=mask, backend=AttentionBackendName.FLEX)
        for attend in (dense, BY_TORCH)
    ]
    assert difference(*both) < TOLERANCE
