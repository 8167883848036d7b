"""Autoguidance and sliding windows equal the same sums by hand."""

import contextlib

import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline
from tiny_pipelines import (
    MARGIN,
    TOLERANCE,
    difference,
    latents_of,
    new_controlnet,
    new_unet,
    picture,
    prompts,
    sd,
    size,
    unet,
    xl,
    xl_prompts,
)

from smoothed_energy import Autoguidance, SlidingWindowGuidance
from smoothed_energy.methods.swg import windows


@contextlib.contextmanager
def guided_by_hand(denoiser, scale, negative):
    """Every prediction gains scale * (conditional - negative of the conditional rows)."""
    forward = denoiser.forward

    def guided(sample, timestep, **kwargs):
        kwargs["return_dict"] = False
        clean = forward(sample, timestep, **kwargs)[0]
        half = len(clean) // 2
        rows = {
            name: value[half:] if isinstance(value, torch.Tensor) else value
            for name, value in kwargs.items()
        }
        delta = scale * (clean[half:] - negative(forward, sample[half:], timestep, rows))
        return (clean + torch.cat([delta, delta]),)

    denoiser.forward = guided
    try:
        yield
    finally:
        del denoiser.forward


def other_unet():
    """A U-Net of the same shape with other weights."""
    weaker = new_unet()
    with torch.no_grad():
        for parameter in weaker.parameters():
            parameter.mul_(0.9)
    return weaker


@pytest.mark.parametrize("loaded", [False, True], ids=["a module", "a folder"])
def test_autoguidance(loaded, tmp_path):
    pipe, weaker = sd(model=new_unet()), other_unet()
    weaker.save_pretrained(tmp_path / "weak")
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=5.0)
    plain = run()

    def negative(forward, sample, timestep, rows):
        return weaker(sample, timestep, **rows)[0]

    with guided_by_hand(pipe.unet, 1.5, negative):
        expected = run()
    guidance = Autoguidance(weak=tmp_path / "weak" if loaded else weaker, scale=1.5)
    if loaded:
        assert guidance.from_json(guidance.to_json()) == guidance
    else:
        with pytest.raises(ValueError, match=r"UNet2DConditionModel, which has no text"):
            guidance.to_json()
    with guidance.attach(pipe) as attachment:
        assert difference(run(), expected) < TOLERANCE
    assert attachment.last_run.guided_calls == 2
    assert difference(plain, expected) > MARGIN * TOLERANCE


def test_autoguidance_without_a_weaker_denoiser_is_refused():
    with pytest.raises(ValueError, match=r"needs a weaker denoiser; expected weak="):
        Autoguidance().attach(sd())
    with pytest.raises(TypeError, match=r"weak=3 is no denoiser"):
        Autoguidance(weak=3)


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """A denoiser with broken weights, one with pickled weights, and places without one."""
    monkeypatch.chdir(tmp_path)
    for name in ("broken", "pickled"):
        other_unet().save_pretrained(name)
        (weights,) = (tmp_path / name).glob("*.safetensors")
        weights.write_bytes(b"no weights")
    weights.rename(weights.with_suffix(".bin"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")


@pytest.mark.parametrize(
    ("weak", "message"),
    [
        (
            "/nonexistent",
            r"'/nonexistent' is not a folder that exists; expected .* hub id .* modul",
        ),
        ("file", r"'file' is not a folder that exists"),
        ("empty/more/parts", r"'empty/more/parts' is not a folder that exists"),
        ("pickled", r"'pickled' has no weights; expected safetensors"),
        ("empty", r"'empty' has no config\.json; expected the folder of a denoiser"),
    ],
)
def test_autoguidance_from_where_there_is_no_denoiser_is_refused(paths, weak, message):
    pipe = sd()
    with pytest.raises(ValueError, match="weak=" + message) as caught:
        Autoguidance(weak=weak).attach(pipe)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="weak=" + message):
        Autoguidance(weak=weak).plan(pipe.unet)


@pytest.mark.parametrize("weak", ["broken", "owner/no-such-model"])
def test_autoguidance_that_cannot_load_names_the_place(paths, weak, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    pipe = sd(model=new_unet())
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0)
    with (
        Autoguidance(weak=weak).attach(pipe),
        pytest.raises(ValueError, match=f"weak='{weak}' cannot be loaded as a UNet2DC") as caught,
    ):
        run()
    assert "\n" not in str(caught.value)


def test_autoguidance_finds_a_folder_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    other_unet().save_pretrained(tmp_path / "weak")
    pipe = sd(model=new_unet())
    with Autoguidance(weak="~/weak").attach(pipe) as attachment:
        latents_of(pipe, **prompts(), **size(), guidance_scale=5.0)()
    assert attachment.last_run.guided_calls == 2


@pytest.mark.parametrize("masked", [True, False])
def test_sliding_windows(masked):
    pipe = sd(model=new_unet())
    run = latents_of(pipe, **prompts(), **size(128, 96), guidance_scale=5.0)
    plain = run()

    def negative(forward, sample, timestep, rows):
        # 16 x 12 latents, windows of 0.625: 10 x 8, from 0 and 6 down and from 0 and 4 across.
        total, seen = torch.zeros_like(sample), torch.zeros_like(sample)
        for top in (0, 6):
            for left in (0, 4):
                part = sample[:, :, top : top + 10, left : left + 8]
                total[:, :, top : top + 10, left : left + 8] += forward(part, timestep, **rows)[0]
                seen[:, :, top : top + 10, left : left + 8] += 1
        mean = total / seen
        if not masked:
            return mean
        whole = forward(sample, timestep, **rows)[0]
        return torch.where(seen > 1, mean, whole)

    with guided_by_hand(pipe.unet, 2.0, negative):
        expected = run()
    guidance = SlidingWindowGuidance(scale=2.0, masked=masked)
    assert guidance.from_json(guidance.to_json()) == guidance
    with guidance.attach(pipe) as attachment:
        assert difference(run(), expected) < TOLERANCE
    assert attachment.last_run.guided_calls == 2
    assert difference(plain, expected) > MARGIN * TOLERANCE


def test_windows_in_sdxl():
    pipe = xl()
    run = latents_of(pipe, **xl_prompts(), **size(), guidance_scale=5.0)
    plain = run()
    with SlidingWindowGuidance(scale=2.0, window=0.5, count=3).attach(pipe):
        assert difference(run(), plain) > MARGIN * TOLERANCE


@pytest.mark.parametrize("length", [5, 12, 17, 64])
@pytest.mark.parametrize(("fraction", "count"), [(0.625, 2), (0.5, 2), (0.5, 3), (1, 4)])
def test_windows_cover_an_axis_from_end_to_end(length, fraction, count):
    found = windows(length, fraction, count)
    covered = {place for part in found for place in range(length)[part]}
    assert covered == set(range(length))
    assert len({part.stop - part.start for part in found}) == 1


def test_windows_do_not_take_a_controlnet():
    pipe = sd(StableDiffusionControlNetPipeline, controlnet=new_controlnet(unet(), 3))
    run = latents_of(pipe, **prompts(), **size(), image=picture(), guidance_scale=5.0)
    with (
        SlidingWindowGuidance().attach(pipe),
        pytest.raises(ValueError, match=r"down_block_additional_residuals.*a pipeline without"),
    ):
        run()


@pytest.mark.parametrize(
    "settings",
    [
        {"window": 0},
        {"window": 1.1},
        {"window": True},
        {"count": 1},
        {"count": 2.5},
        {"window": 0.3, "count": 3},
        {"masked": "no"},
    ],
)
def test_windows_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        SlidingWindowGuidance(**settings)
