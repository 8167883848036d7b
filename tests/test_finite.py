"""What is not a number is an error that says where it began, and it costs no waiting."""

import copy
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import smoothed_energy
from small_models import inputs, small_pipeline, small_unet, unet_inputs
from smoothed_energy import (
    Autoguidance,
    GuidanceInterval,
    GuidanceWarning,
    NonFiniteError,
    PerturbedAttentionGuidance,
    SmoothedEnergyGuidance,
    attachments,
)
from smoothed_energy.engine.finite import LARGEST, Seen, check_finite
from smoothed_energy.engine.run import GuidedRun
from smoothed_energy.integrations.pipeline_result import check_result
from smoothed_energy.trace import Trace

SEG = SmoothedEnergyGuidance(blur="gaussian:inf")
HUGE = SmoothedEnergyGuidance(blur="gaussian:inf", scale=1e30)


def with_nan(module):
    """The same module, with a weight that is not a number."""
    twin = copy.deepcopy(module)
    with torch.no_grad():
        next(twin.parameters()).view(-1)[0] = torch.nan
    return twin


outputs = pytest.mark.parametrize("output_type", ["latent", "np", "pil"])
counts = pytest.mark.parametrize("count", [1, 3])


@outputs
@counts
def test_a_scale_that_is_too_large_is_named_with_its_step(pipe, output_type, count):
    given = inputs() | {"num_inference_steps": count, "output_type": output_type}
    expected = small_pipeline(unet=pipe.unet)(**given).images
    with (
        HUGE.attach(pipe),
        pytest.raises(
            NonFiniteError,
            match=r"guided prediction is not finite at step 0, counted from 0 \(timestep \d+\) \("
            r".*e\+.*what it is made of is.*lower scale of SmoothedEnergy.*scale=1e\+30",
        ),
    ):
        pipe(**given)
    assert attachments(pipe) == ()
    found = pipe(**given).images
    if output_type == "pil":
        assert next(map(np.asarray, found)).tolist() == np.asarray(expected[0]).tolist()
    else:
        assert np.array_equal(np.asarray(found), np.asarray(expected))


@outputs
@counts
@pytest.mark.parametrize("guidance", [SEG, GuidanceInterval(), None])
def test_a_scale_of_cfg_that_is_too_large_is_named(pipe, output_type, count, guidance):
    given = inputs() | {"num_inference_steps": count, "output_type": output_type}
    with (
        Trace(pipe) if guidance is None else guidance.attach(pipe),
        pytest.raises(NonFiniteError, match=r"classifier-free guidance at scale 1e\+30") as error,
    ):
        pipe(**given | {"guidance_scale": 1e30})
    if count > 1:
        assert "latents are not finite at step 1" in str(error.value)
    if guidance is SEG and count > 1:
        assert repr(SEG) in str(error.value)


def test_it_is_an_error_of_the_users_that_the_command_line_knows(pipe):
    assert issubclass(NonFiniteError, ValueError)
    assert smoothed_energy.NonFiniteError is NonFiniteError
    with HUGE.attach(pipe), pytest.raises(NonFiniteError) as error:
        pipe(**inputs())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("guidance", [SEG, GuidanceInterval()])
def test_a_model_that_overflows_by_itself_is_said_to(guidance):
    pipe = small_pipeline(unet=with_nan(small_unet()))
    with (
        guidance.attach(pipe),
        pytest.raises(
            NonFiniteError,
            match=r"the denoiser's own prediction is not finite at step 0.*\(nan\).*no guidance "
            "acted before it, so this is the model's own",
        ),
    ):
        pipe(**inputs())


def test_a_model_that_overflows_later_is_not_said_to_be_innocent_or_guilty(pipe):
    def spoil(pipe, index, timestep, tensors):
        if index == 1:
            pipe.unet.conv_in.weight.data.fill_(torch.nan)
        return tensors

    with (
        SEG.attach(pipe),
        pytest.raises(
            NonFiniteError,
            match=r"own prediction is not finite at step 2.*SmoothedEnergyGuidance.* and "
            r"classifier-free guidance at scale 5: expected lower scales; if it is the same",
        ),
    ):
        pipe(**inputs(), callback_on_step_end=spoil)


def test_latents_that_a_run_begins_with_are_said_to_be_so(pipe):
    given = inputs()
    given["latents"] = given["latents"] * torch.nan
    with (
        SEG.attach(pipe),
        pytest.raises(NonFiniteError, match=r"latents are not finite at step 0.*began with them"),
    ):
        pipe(**given)


def test_a_perturbed_prediction_is_told_from_the_clean_one(pipe):
    guidance = Autoguidance(weak=with_nan(pipe.unet))
    with (
        SEG.attach(pipe),
        guidance.attach(pipe),
        pytest.raises(
            NonFiniteError, match=r"perturbed prediction of Autoguidance.*not finite at step 0"
        ),
    ):
        pipe(**inputs())


def test_a_guidance_with_a_module_is_written_in_one_line(unet):
    text = repr(Autoguidance(weak=unet, scale=2.0))
    assert "\n" not in text
    assert text.startswith("Autoguidance(scale=2.0, ")
    assert text.endswith("weak=<UNet2DConditionModel>)")
    assert repr(Autoguidance(weak="a/b")).endswith("weak='a/b')")


def test_a_vae_that_overflows_is_told_from_guidance(pipe):
    pipe.vae = with_nan(pipe.vae)
    pipe.vae.encoder = None
    pipe.vae.decoder.conv_out.weight.data.fill_(torch.nan)
    with SEG.attach(pipe):
        with pytest.raises(NonFiniteError, match=r"pictures are not finite.*VAE's own overflow"):
            pipe(**inputs() | {"output_type": "np"})
        with (
            warnings.catch_warnings(),
            pytest.warns(GuidanceWarning, match="wholly black, and its latents are finite"),
        ):
            warnings.simplefilter("ignore", RuntimeWarning)
            pipe(**inputs() | {"output_type": "pil"})


@pytest.mark.parametrize("output_type", ["latent", "np", "pt", "pil"])
def test_an_ordinary_run_says_nothing(pipe, output_type):
    with warnings.catch_warnings(), SEG.attach(pipe):
        warnings.simplefilter("error", GuidanceWarning)
        pipe(**inputs() | {"output_type": output_type})


def test_a_scale_that_is_a_tensor_is_no_scale_to_compare_with(pipe):
    pipe.__class__ = type("Pipeline", (type(pipe),), {"guidance_scale": torch.ones(1, 3, 1)})
    with SEG.attach(pipe):
        check_result(pipe, GuidedRun(pipe.unet), {"guidance_scale": None}, (torch.ones(1),))


class TestOwnLoops:
    def spoiled(self):
        given = unet_inputs(batch=1)
        given["sample"][0, 0, 0, 0] = torch.inf
        return given

    def test_detaching_says_so_and_has_detached(self, unet):
        attachment = SEG.attach(unet)
        attachment.step(0, 2)
        unet(**unet_inputs(batch=1))
        attachment.step(1, 2)
        unet(**self.spoiled())
        with pytest.raises(NonFiniteError, match=r"latents are not finite at step 0"):
            attachment.detach()
        assert attachments(unet) == ()
        assert "forward" not in vars(unet)
        attachment.detach()

    def test_an_error_of_the_loop_comes_first(self, unet):
        with pytest.raises(KeyError), SEG.attach(unet):
            unet(**self.spoiled())
            raise KeyError

    def test_the_next_picture_does_not_begin(self, unet):
        attachment = SEG.attach(unet)
        attachment.step(0, 1)
        unet(**self.spoiled())
        with pytest.raises(NonFiniteError):
            attachment.step(0, 1)
        attachment.step(0, 1)
        unet(**unet_inputs(batch=1))
        attachment.detach()

    def test_a_loop_without_end_is_checked_now_and_then(self, unet):
        small = small_unet(sample_size=4)
        given = unet_inputs(batch=1) | {"sample": torch.randn(1, 4, 4, 4)}
        with GuidanceInterval().attach(small) as attachment:
            small(**given | {"sample": given["sample"] * torch.nan})
            with pytest.raises(NonFiniteError):
                for _ in range(1000):
                    small(**given)
            assert attachment.attached


class _Waiting(TorchDispatchMode):
    """Counts what waits for a device: numbers and copies that leave it."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


def test_no_step_waits_for_the_device(pipe):
    guidances = [SEG, PerturbedAttentionGuidance(layers="down")]

    def waits(steps, attached):
        blocks = [item.attach(pipe) for item in guidances] if attached else [nullcontext()]
        with blocks[0], blocks[-1], _Waiting() as waiting:
            pipe(**inputs() | {"num_inference_steps": steps})
        return waiting.count

    waits(1, True)
    assert waits(6, True) - waits(3, True) == waits(6, False) - waits(3, False)


@pytest.mark.parametrize("value", [LARGEST * 1.001, torch.inf, torch.nan])
def test_numbers_whose_square_overflows_are_not_finite(value):
    assert torch.finfo(torch.float32).max * 1.0001 >= LARGEST**2
    fine = [Seen("latents", torch.tensor(1.0), 1), Seen("clean", torch.tensor(LARGEST * 0.999))]
    check_finite(fine)
    check_finite([])
    with pytest.raises(NonFiniteError, match="denoiser's own"):
        check_finite([fine[0], Seen("clean", torch.tensor(value))])


def test_half_precision_is_read_as_it_is():
    with pytest.raises(NonFiniteError):
        check_finite([Seen("clean", torch.tensor(torch.inf, dtype=torch.float16))])
    check_finite([Seen("clean", torch.tensor(65504.0, dtype=torch.float16))])


def test_a_timestep_that_is_repeated_is_one_step():
    one = torch.tensor(1.0)
    seen = [Seen("latents", one, torch.tensor([time])) for time in (9, 9, 5, 5, 2)]
    with pytest.raises(NonFiniteError, match=r"at step 2, counted from 0 \(timestep 2\)"):
        check_finite([*seen, Seen("clean", torch.tensor(torch.nan))])
