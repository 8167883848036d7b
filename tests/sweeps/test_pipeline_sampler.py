"""The sampler that draws with a pipeline: a picture doesn't depend on those beside it."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import unconditional

from smoothed_energy.models import load
from smoothed_energy.sweeps import Sweep, SweepError, plan
from smoothed_energy.sweeps.pipeline_sampler import PipelineSampler, PipelineSource
from smoothed_energy.sweeps.sampler import ConfigurationError

FAST = {"num_inference_steps": 2, "size": "48x48"}
PICTURES = [("", 0), ("a portrait of someone with glasses", 1), ("", 2)]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """As in a worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipe():
    pipe = load("avatars", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def sampler(pipe):
    sampler = PipelineSampler(pipe)
    yield sampler
    sampler.close()


def configurations(*listed, **base):
    sweep = Sweep(name="a", seeds="0", base=FAST | base, list=[*listed])
    return plan(sweep).configurations


def drawn(sampler, configuration, pictures):
    return [(np.asarray(image), facts) for image, facts in sampler.draw(configuration, pictures)]


GUIDANCES = ["none", "seg", "seg; blur=gaussian:2; layers=down", "pag; layers=all"]
LISTED = [
    *[{"guidance": text, "cfg": cfg} for cfg in (1, 4) for text in GUIDANCES],
    {"guidance": ["seg; layers=mid", "interval; steps=begin"], "cfg": 4},
    {"guidance": "seg; steps=adaptive:0.5", "num_inference_steps": 4},
    {"guidance": "seg; refresh=drift:0.3", "num_inference_steps": 4},
    {"scheduler": "EulerAncestralDiscreteScheduler", "cfg": 4},
    {"scheduler": "DPMSolverMultistepScheduler", "guidance": "seg"},
]


@pytest.mark.parametrize("number", range(len(LISTED)))
def test_a_picture_is_the_same_in_any_company(number, sampler):
    (configuration,) = configurations(LISTED[number])
    together = drawn(sampler, configuration, PICTURES)
    alone = [drawn(sampler, configuration, [one])[0] for one in PICTURES]
    backwards = drawn(sampler, configuration, PICTURES[::-1])[::-1]
    for one, other, third in zip(together, alone, backwards, strict=True):
        assert (one[0] == other[0]).all() and (one[0] == third[0]).all()
        assert one[1] == other[1] == third[1]
    assert len({image.tobytes() for image, _ in together}) == 3


def test_it_draws_what_the_pipeline_draws(sampler, pipe):
    first, second = configurations(
        {"guidance": "seg; layers=mid; scale=2", "cfg": 4, "negative_prompt": "a hat"},
        {"guidance": "none"},
    )
    found = [drawn(sampler, one, PICTURES[:2]) for one in (first, second, first)]
    sampler.close()
    call = {
        "prompt": [prompt for prompt, _ in PICTURES[:2]],
        "num_inference_steps": 2,
        "height": 48,
        "width": 48,
    }

    def generators():
        return [torch.Generator("cpu").manual_seed(seed) for _, seed in PICTURES[:2]]

    plain = pipe(**call, guidance_scale=1.0, generator=generators()).images
    with first.settings.guidance[0].attach(pipe):
        guided = pipe(
            **call, guidance_scale=4.0, negative_prompt=["a hat"] * 2, generator=generators()
        ).images
    for images, wanted in zip(found, (guided, plain, guided), strict=True):
        assert all(
            (image == np.asarray(one)).all() for (image, _), one in zip(images, wanted, strict=True)
        )
    assert [facts["guided_steps"] for (_, facts), _ in found] == [2, 0, 2]


def test_guidance_is_attached_once_for_a_configuration(sampler, monkeypatch):
    from smoothed_energy import SmoothedEnergyGuidance

    attached = []
    attach = SmoothedEnergyGuidance.attach
    monkeypatch.setattr(
        SmoothedEnergyGuidance,
        "attach",
        lambda self, pipe: attached.append(1) or attach(self, pipe),
    )
    first, second = configurations({"guidance": "seg"}, {"guidance": "seg; scale=1"})
    for configuration in (first, first, first, second, second):
        drawn(sampler, configuration, PICTURES[:2])
    assert len(attached) == 2


def test_facts_of_a_trace_are_told(pipe):
    sampler = PipelineSampler(pipe, trace=True)
    guided, plain, without = configurations(
        {"guidance": "seg; layers=mid", "cfg": 3}, {"cfg": 3}, {"guidance": "seg; layers=mid"}
    )
    pictures = [("a portrait", 0), ("someone with a hat", 1), ("a portrait", 2)]
    scales = [facts["effective_cfg_scale"] for _, facts in drawn(sampler, plain, pictures)]
    assert scales == [3.0] * 3
    facts = [facts for _, facts in drawn(sampler, guided, pictures)]
    assert len({one["effective_cfg_scale"] for one in facts}) == 3
    assert all(one["effective_cfg_scale"] != 3 and one["relative_correction"] > 0 for one in facts)
    assert facts[1:] == [drawn(sampler, guided, [one])[0][1] for one in pictures[1:]]
    (_, alone), *_ = drawn(sampler, without, pictures)
    assert alone["effective_cfg_scale"] is None and alone["relative_correction"] > 0
    sampler.close()


def test_guidance_that_does_nothing_is_a_fact(sampler):
    (configuration,) = configurations({"guidance": "seg; steps=sigma:900:1000"})
    for _, facts in drawn(sampler, configuration, PICTURES[:2]):
        assert facts["guided_steps"] == 0
        assert "the result is unguided" in facts["warnings"][0]


def test_the_pipeline_is_as_it_was_after_a_failure(sampler, pipe, monkeypatch):
    scheduler = pipe.scheduler
    (configuration,) = configurations({"guidance": "seg", "scheduler": "EulerDiscreteScheduler"})

    def fail(*_, **__):
        raise MemoryError("out of memory")

    monkeypatch.setattr(pipe.vae, "decode", fail)
    with pytest.raises(MemoryError):
        sampler.draw(configuration, PICTURES)
    assert pipe.scheduler is scheduler
    monkeypatch.undo()
    assert drawn(sampler, configuration, PICTURES[:1])[0][1]["guided_steps"] == 2


def test_what_does_not_fit_the_model_is_told_once(tmp_path, sampler, pipe):
    from dataclasses import replace

    from smoothed_energy import SmoothedEnergyGuidance

    (configuration,) = configurations({"guidance": "seg"})
    wrong = replace(configuration.settings, guidance=(SmoothedEnergyGuidance(layers="m99"),))
    with pytest.raises(ConfigurationError, match=r"'base' doesn't fit the model: .*m99"):
        sampler.draw(replace(configuration, label="base", settings=wrong), PICTURES)
    assert "forward" not in vars(pipe.unet)
    controlled = replace(configuration.settings, control="edges.png")
    with pytest.raises(ConfigurationError, match="not a picture that can be read"):
        sampler.draw(replace(configuration, settings=controlled), PICTURES)


def test_pipelines_without_prompts_are_drawn_too(tmp_path):
    model = str(tmp_path / "ddim")
    unconditional().save_pretrained(model)
    (configuration,) = plan(
        Sweep(name="a", model=model, seeds="0", base={"num_inference_steps": 2})
    ).configurations
    sampler = PipelineSource(model, "cpu", "float32").open(0)
    together = drawn(sampler, configuration, [("", 0), ("", 1)])
    assert (together[1][0] == drawn(sampler, configuration, [("", 1)])[0][0]).all()
    with pytest.raises(ConfigurationError, match="takes no prompt"):
        sampler.draw(configuration, [("a cat", 0)])


def test_a_controlnet_follows_the_picture_of_its_configuration(tmp_path):
    for name, place in (("left", 8), ("right", 40)):
        edges = Image.new("RGB", (96, 96))
        edges.paste("white", (place, 10, place + 2, 80))
        edges.save(tmp_path / f"{name}.png")
    sweep = Sweep(
        name="a",
        seeds="0",
        controlnet="canny",
        base=FAST,
        axes=[{"control": [str(tmp_path / f"{name}.png") for name in ("left", "right")]}],
        list=[{"control": str(tmp_path / "left.png"), "control_scale": 0.0}],
    )
    planned = plan(sweep)
    sampler = PipelineSource("avatars", "cpu", "float32", "canny").open(0)
    images = [drawn(sampler, one, [("", 0)])[0][0] for one in planned.configurations]
    assert len({image.tobytes() for image in images}) == 3
    assert {image.shape for image in images} == {(48, 48, 3)}


def test_a_worker_takes_its_gpu(monkeypatch):
    taken = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)

    def remember(model, **given):
        taken.append((str(given["device"]), given["dtype"]))
        raise SweepError("enough")

    monkeypatch.setattr("smoothed_energy.sweeps.pipeline_sampler.load", remember)
    for worker in range(3):
        with pytest.raises(SweepError):
            PipelineSource("avatars", "cuda", "bfloat16").open(worker)
    assert taken == [(f"cuda:{number}", torch.bfloat16) for number in (0, 1, 0)]


def test_without_a_size_the_control_picture_has_the_model_s_own(tmp_path):
    """A pipeline with a ControlNet does not tell its size; its denoiser does."""
    from smoothed_energy.models import load
    from smoothed_energy.sweeps import PictureSettings
    from smoothed_energy.sweeps.pipeline_call import settings_arguments

    edges = tmp_path / "edges.png"
    picture = Image.new("RGB", (200, 100))
    picture.paste("white", (80, 40, 120, 60))
    picture.save(edges)
    pipe = load("avatars", device="cpu", controlnet="canny")
    call = settings_arguments(pipe, PictureSettings(control=str(edges)))
    assert call["image"].size == (96, 96)
    call = settings_arguments(pipe, PictureSettings(control=str(edges), size=(48, 64)))
    assert call["image"].size == (64, 48)
