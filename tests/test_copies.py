"""Copies and pickles of what guidance is attached to are plain, whenever they are made."""

import copy
import io
import pickle
import pickletools

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

from small_models import inputs, small_unet, unet_inputs
from smoothed_energy import SmoothedEnergyGuidance, attachments

SEG = SmoothedEnergyGuidance(blur="gaussian:inf")


def saved(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "torch.save": saved,
}
copies = pytest.mark.parametrize("made", COPIES.values(), ids=COPIES.keys())


def one_step(**changes):
    return inputs() | {"num_inference_steps": 1} | changes


def has_nothing_of_this_package(thing) -> bool:
    names = [str(argument) for _, argument, _ in pickletools.genops(pickle.dumps(thing))]
    return not any("smoothed_energy" in name for name in names)


@copies
def test_a_copy_of_a_guided_pipeline_has_its_own_class_and_no_guidance(pipe, made):
    cls, plain = type(pipe), pipe(**one_step()).images
    with SEG.attach(pipe) as attachment:
        guided = pipe(**one_step()).images
        twin = made(pipe)
        assert type(twin) is cls
        assert [name for name in vars(twin) if "smoothed" in name] == []
        assert attachments(twin) == ()
        assert torch.equal(twin(**one_step()).images, plain)
        assert attachments(pipe) == (attachment,)
        assert torch.equal(pipe(**one_step()).images, guided)
    assert torch.equal(twin(**one_step()).images, plain)
    assert type(made(twin)) is type(made(pipe)) is cls
    assert has_nothing_of_this_package(twin)


@copies
def test_a_copy_may_have_guidance_of_its_own(pipe, made):
    with SEG.attach(pipe):
        guided = pipe(**one_step()).images
        twin = made(pipe)
    with SEG.attach(twin):
        assert torch.equal(twin(**one_step()).images, guided)
        assert attachments(pipe) == ()


@copies
def test_a_copy_that_a_callback_makes_is_plain_all_through(pipe, made):
    plain, twins = pipe(**one_step()).images, []

    def callback(pipe, index, timestep, tensors):
        twins.append(made(pipe))
        return tensors

    with SEG.attach(pipe):
        guided = pipe(**one_step(), callback_on_step_end=callback).images
        assert not torch.equal(guided, plain)
        assert torch.equal(pipe(**one_step()).images, guided)
        assert torch.equal(twins[0](**one_step()).images, plain)
    if twins[0].unet is not pipe.unet:
        assert has_nothing_of_this_package(twins[0])


@copies
def test_a_copy_of_a_guided_denoiser_is_plain(made):
    unet = small_unet()
    plain = unet(**unet_inputs()).sample
    with SEG.attach(unet) as attachment:
        attachment.step(0, 1, conditional_rows=1)
        guided = unet(**unet_inputs()).sample
        twin = made(unet)
        assert "forward" not in vars(twin)
        assert "__reduce_ex__" not in vars(twin)
        assert torch.equal(twin(**unet_inputs()).sample, plain)
        assert torch.equal(unet(**unet_inputs()).sample, guided)
        assert has_nothing_of_this_package(unet)
    assert torch.equal(twin(**unet_inputs()).sample, plain)
    assert "__reduce_ex__" not in vars(unet)


def test_a_copy_of_a_pipeline_whose_denoiser_is_guided_is_plain(pipe):
    with SEG.attach(pipe.unet):
        twin = copy.deepcopy(pipe)
    assert "forward" not in vars(twin.unet)


def test_a_pipeline_that_refers_to_itself_can_be_copied(pipe):
    pipe.mine = pipe.encode_prompt  # a method, and so the pipeline
    with SEG.attach(pipe):
        twin = copy.deepcopy(pipe)
    assert twin.mine.__self__ is twin


def test_nothing_is_left_in_modules_after_a_guided_run(pipe):
    with SEG.attach(pipe):
        pipe(**one_step())
    assert not [m for m in pipe.unet.modules() if "__reduce_ex__" in vars(m)]


@pytest.mark.parametrize("of", ["its own class", "the class as it is now", "another class"])
def test_a_pipeline_that_is_made_from_a_guided_one_is_plain(pipe, of):
    cls, plain = type(pipe), pipe(**one_step()).images
    with SEG.attach(pipe) as attachment:
        maker = {
            "its own class": cls,
            "the class as it is now": type(pipe),
            "another class": StableDiffusionXLImg2ImgPipeline,
        }[of]
        made = maker.from_pipe(pipe)
        assert type(made) is (cls if of != "another class" else maker)
        assert made.unet is pipe.unet
        assert attachments(made) == ()
        assert attachments(pipe) == (attachment,)
        if of != "another class":
            assert torch.equal(made(**one_step()).images, plain)
            assert type(pickle.loads(pickle.dumps(made))) is cls


def test_a_pipeline_made_of_the_components_of_a_guided_one_is_plain(pipe):
    with SEG.attach(pipe):
        made = type(pipe)(**pipe.components)
    assert type(made) is StableDiffusionXLPipeline


def test_a_guided_pipeline_saves_and_loads_as_its_own_class(pipe, tmp_path):
    with SEG.attach(pipe):
        pipe.save_pretrained(tmp_path)
        made = type(pipe).from_pretrained(tmp_path)
    assert type(made) is StableDiffusionXLPipeline
    made.set_progress_bar_config(disable=True)
    assert torch.equal(made(**one_step()).images, pipe(**one_step()).images)
