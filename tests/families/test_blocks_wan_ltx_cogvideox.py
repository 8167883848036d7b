"""Skipped blocks and shuffled tokens of video transformers."""

from contextlib import contextmanager

import brute_force_attention
import pytest
import torch
from brute_force_attention import brute_force
from comparison import run_of
from tiny_cogvideox import CASES as COGVIDEOX
from tiny_ltx import CASES as LTX
from tiny_pipelines import MARGIN, TOLERANCE, difference
from tiny_wan import CASES as WAN

from smoothed_energy import SkipLayerGuidance, TokenPerturbationGuidance
from smoothed_energy.methods.tpg import ShuffleTokens


def image(hidden_states, *args, **kwargs):
    return hidden_states


def image_and_text(hidden_states, encoder_hidden_states, *args, **kwargs):
    return hidden_states, encoder_hidden_states


# What a block gives back if it does nothing, and the name of its feed-forward network.
KINDS = [(WAN[0], image, "ffn"), (LTX[0], image, "ff"), (COGVIDEOX[0], image_and_text, "ff")]
KIND = pytest.mark.parametrize(
    ("case", "inputs", "feed_forward"), KINDS, ids=[kind[0].family for kind in KINDS]
)


def assert_as_by_hand(monkeypatch, case, guidance, forwards, **changes):
    """A guidance gives s + scale (s - s~), s~ with other forward functions in some modules."""

    @contextmanager
    def perturbed(denoiser, images, sigma, temporal):
        replaced = forwards(denoiser)
        for module, forward in replaced.items():
            module.forward = forward
        try:
            yield
        finally:
            for module in replaced:
                del module.forward

    monkeypatch.setattr(brute_force_attention, "_explicitly", perturbed)
    pipe = case.pipeline()
    run = run_of(pipe, case, cfg=True, **changes)
    plain = run()
    with brute_force(pipe, case, cfg=True, scale=guidance.scale):
        expected = run()
    changed = difference(plain, expected)
    errors = []
    for replay in (True, False):
        with guidance.attach(pipe, replay=replay) as attachment:
            errors.append(difference(run(), expected))
        assert attachment.last_run.layers == set(case.images)
    print(f"\nerror {max(errors):.1e}, effect {changed:.1e}")
    assert changed > MARGIN * TOLERANCE
    assert max(errors) < TOLERANCE
    assert torch.equal(run(), plain)


@KIND
@pytest.mark.parametrize("skip", ["block", "attention", "feed-forward"])
def test_skipped(monkeypatch, case, inputs, feed_forward, skip):
    def forwards(denoiser):
        attentions = [denoiser.get_submodule(name) for name in case.images]
        blocks = [denoiser.get_submodule(name.rpartition(".")[0]) for name in case.images]
        networks = [getattr(block, feed_forward) for block in blocks]
        skipped = {"block": blocks, "attention": attentions, "feed-forward": networks}[skip]
        return dict.fromkeys(skipped, image if skip == "feed-forward" else inputs)

    guidance = SkipLayerGuidance(scale=2.0, layers=list(case.images), skip=skip)
    assert_as_by_hand(monkeypatch, case, guidance, forwards)


@KIND
def test_shuffled_tokens(monkeypatch, case, inputs, feed_forward):
    def shuffling(name, forward):
        def call(*args, **kwargs):
            tokens = args[0] if args else kwargs.pop("hidden_states")
            # The only step is the first.
            order = ShuffleTokens(seed=0).permutation(name, 0, tokens.shape[1])
            return forward(tokens[:, order], *args[1:], **kwargs)

        return call

    def forwards(denoiser):
        blocks = {name: denoiser.get_submodule(name.rpartition(".")[0]) for name in case.images}
        return {block: shuffling(name, block.forward) for name, block in blocks.items()}

    guidance = TokenPerturbationGuidance(scale=2.0, layers=list(case.images))
    assert_as_by_hand(monkeypatch, case, guidance, forwards, num_inference_steps=1)
