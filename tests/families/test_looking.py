"""Guidance of denoisers of no known class, by what a few calls show."""

import copy
import functools
import warnings

import pytest
import tiny_pixart
import tiny_sd3
import tiny_unet
import torch
from brute_force_attention import Image, _explicitly
from comparison import run_of
from made_up import InRows, Net, Patches, Tied
from replaced_modules import giving
from tiny_pipelines import MARGIN, TOLERANCE, difference, noise

from smoothed_energy import (
    Autoguidance,
    GuidanceWarning,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    SmoothedEnergyGuidance,
    TokenPerturbationGuidance,
)
from smoothed_energy.families import family_of
from smoothed_energy.families.layer_selection import LayerError
from smoothed_energy.families.registry import _families

SCALE = 3.0
TIME = torch.tensor([500])
# As many words as tokens of 12 x 8 pictures: cross-attention has as many keys as queries.
WORDS = noise(1, 24, 8, seed=2)
PICTURE, VIDEO = noise(1, 4, 12, 8, seed=3), noise(1, 4, 3, 12, 8, seed=3)


@functools.cache
def made(cls, **options):
    torch.manual_seed(0)
    return cls(**options).eval()


def looked(guidance, denoiser, *args):
    """What the denoiser gives with guidance, and what the warning said."""
    with (
        torch.no_grad(),
        pytest.warns(GuidanceWarning, match="no family knows") as warned,
        guidance.attach(denoiser, guide_unknown=True),
    ):
        return denoiser(*args), str(warned[0].message)


def family_found(denoiser, *args):
    """What is known of the denoiser while it is guided, and what the warning said."""
    with (
        torch.no_grad(),
        pytest.warns(GuidanceWarning, match="no family knows") as warned,
        SmoothedEnergyGuidance().attach(denoiser, guide_unknown=True),
    ):
        denoiser(*args)
        return family_of(denoiser), str(warned[0].message)


def assert_as_by_brute_force(denoiser, sample, images, words=WORDS):
    guidance = SmoothedEnergyGuidance(
        blur="gaussian:1,temporal=0", scale=SCALE, layers=list(images)
    )
    found, _ = looked(guidance, denoiser, sample, TIME, words)
    with torch.no_grad():
        plain = denoiser(sample, TIME, words)
        with _explicitly(denoiser, images, 1.0, 0.0):
            perturbed = denoiser(sample, TIME, words)
    expected = plain + SCALE * (plain - perturbed)
    assert difference(found, expected) < TOLERANCE
    assert difference(plain, expected) > MARGIN * TOLERANCE


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    """What was found is looked for again in every test."""
    from weakref import WeakKeyDictionary

    monkeypatch.setattr("smoothed_energy.families.registry._found", WeakKeyDictionary())


def test_a_transformer():
    images = {f"stack.{n}.mix": Image((6, 4)) for n in (1, 2)}
    assert_as_by_brute_force(made(Patches), PICTURE, images)


def test_text_before_the_image():
    """Text and image attend together; how long the text is does not matter later."""
    denoiser = made(Patches, joint=True, cross=False)
    images = {"stack.1.mix": Image((6, 4), 5)}
    assert_as_by_brute_force(denoiser, PICTURE, images, words=WORDS[:, :5])
    found, _ = family_found(denoiser, PICTURE, TIME, WORDS[:, :5])
    given = {"sample": noise(1, 4, 8, 4)}.get
    assert found.tokens(denoiser, _argument(given), "stack.1.mix", 15).start == 7


def _argument(given):
    from smoothed_energy.families import Arguments

    return Arguments(given)


def test_a_video():
    images = {"stack.1.mix": Image((3, 6, 4))}
    assert_as_by_brute_force(made(Patches, frames=True), VIDEO, images)


def test_a_u_net():
    images = {"blocks.0.mix": Image((12, 8)), "blocks.1.mix": Image((6, 4))}
    assert_as_by_brute_force(made(Net), PICTURE, images)


def test_what_is_found_and_left_out():
    denoiser = made(Patches)
    family, message = family_found(denoiser, PICTURE, TIME, WORDS)
    layers = family.layers(denoiser)
    assert [layer.name for layer in layers] == [f"stack.{n}.mix" for n in range(3)]
    assert [layer.part for layer in layers] == ["down", "mid", "up"]
    assert {(layer.heads, layer.width) for layer in layers} == {(2, 16)}
    # Cross-attention to as many words answers to no place of the latents.
    assert "stack.0.read does not answer to places" in message


def test_it_is_off_by_default():
    with pytest.raises(LayerError, match=r"guide_unknown=True\) looks for some"):
        SmoothedEnergyGuidance().attach(made(Patches))


def test_other_sizes_later_and_no_second_look():
    denoiser = made(Patches)
    guidance = PerturbedAttentionGuidance(layers="mid")
    calls = []
    with torch.no_grad(), guidance.attach(denoiser, guide_unknown=True) as attachment:
        with pytest.warns(GuidanceWarning, match="no family knows"):
            denoiser(PICTURE, TIME, WORDS)
        hook = denoiser.enter.register_forward_hook(lambda *_: calls.append(0))
        denoiser(noise(1, 4, 8, 16), TIME, WORDS)
        hook.remove()
    assert len(calls) == 2  # the clean pass, and the perturbed one
    assert attachment.last_run.layers == {"stack.1.mix"}


def test_what_was_found_is_forgotten_with_the_last_that_asked_for_it():
    denoiser = made(Patches)
    guidance = PerturbedAttentionGuidance(layers="mid")
    looked(guidance, denoiser, PICTURE, TIME, WORDS)
    with pytest.raises(LayerError, match="guide_unknown"):
        guidance.attach(denoiser)
    looked(guidance, denoiser, PICTURE, TIME, WORDS)  # and warns again


def test_guidance_without_layers_does_not_look():
    denoiser = made(Patches)
    weak = copy.deepcopy(denoiser)
    with torch.no_grad():
        for parameter in weak.parameters():
            parameter *= 0.9
    guidance, found = Autoguidance(weak=weak), []
    for guide_unknown in (False, True):
        with (
            torch.no_grad(),
            warnings.catch_warnings(),
            guidance.attach(denoiser, guide_unknown=guide_unknown),
        ):
            warnings.simplefilter("error")
            found.append(denoiser(PICTURE, TIME, WORDS))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("skip", "name", "returned"),
    [("block", "stack.1", "hidden_states"), ("attention", "stack.1.mix", "hidden_states")],
)
def test_skipped_modules(skip, name, returned):
    denoiser = made(Patches)
    guidance = SkipLayerGuidance(scale=SCALE, layers="b1", skip=skip)
    found, _ = looked(guidance, denoiser, PICTURE, TIME, WORDS)
    module = denoiser.get_submodule(name)
    with torch.no_grad():
        plain = denoiser(PICTURE, TIME, WORDS)
        module.forward = giving(returned)
        perturbed = denoiser(PICTURE, TIME, WORDS)
        del module.forward
    assert difference(found, plain + SCALE * (plain - perturbed)) < TOLERANCE


def test_tokens_are_shuffled():
    denoiser = made(Patches)
    guidance = TokenPerturbationGuidance(layers="b1")
    with (
        torch.no_grad(),
        pytest.warns(GuidanceWarning, match="no family knows"),
        guidance.attach(denoiser, guide_unknown=True) as attachment,
    ):
        attachment.step(0, 2)
        found = denoiser(PICTURE, TIME, WORDS)
    assert difference(found, denoiser(PICTURE, TIME, WORDS).detach()) > 1e-3


@pytest.mark.parametrize(
    ("denoiser", "sample", "match"),
    [
        (made(Tied), PICTURE, "does not answer to places of the latents"),
        (made(InRows), PICTURE, "rows that are not those of the batch"),
        (made(Patches), PICTURE.flatten(2), "no latents"),
        (made(torch.nn.Identity), PICTURE, "nothing calls"),
    ],
)
def test_what_is_not_clear_is_refused(denoiser, sample, match):
    guidance = SmoothedEnergyGuidance()
    arguments = (sample,) if isinstance(denoiser, torch.nn.Identity) else (sample, TIME, WORDS)
    with guidance.attach(denoiser, guide_unknown=True), pytest.raises(LayerError, match=match):
        denoiser(*arguments)


@pytest.mark.parametrize(
    ("case", "cfg"),
    [
        (tiny_pixart.CASES[0], True),
        (tiny_unet.CASES[0], False),
        (tiny_unet.CASES[0], True),
        (tiny_sd3.CASES[0], False),
    ],
)
def test_in_pipelines_it_is_as_if_they_were_known(registries, case, cfg):
    pipe = case.pipeline()
    guidance = SmoothedEnergyGuidance(blur="gaussian:1", layers=list(case.images))
    run = run_of(pipe, case, cfg=cfg)
    with guidance.attach(pipe):
        expected = run()
    _families.clear()
    with (
        guidance.attach(pipe, guide_unknown=True),
        pytest.warns(GuidanceWarning, match="no family knows"),
    ):
        found = run()
    assert difference(found, expected) < TOLERANCE
    assert torch.equal(run(), run())
