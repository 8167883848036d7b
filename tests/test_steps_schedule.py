"""Positions in the schedules of diffusers' schedulers."""

import gc
import itertools
import math
import sys
import threading
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)

import smoothed_energy
from smoothed_energy.integrations.pipeline_facts import step_position
from smoothed_energy.schedule import Schedule, Steps, as_steps, schedule_position

compatible = {cls.__name__: cls for cls in (*DDIMScheduler().compatibles, DDPMScheduler)}
others = (
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DPMSolverMultistepInverseScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "IPNDMScheduler",
    "LCMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UnCLIPScheduler",
)
names = sorted({*compatible, *others})

# diffusers itself, on NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def make(name, count=10, **config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = getattr(diffusers, name)(**config)
        scheduler.set_timesteps(count)
    return scheduler


def walk(scheduler):
    return [schedule_position(scheduler, time) for time in scheduler.timesteps]


# These can't make a schedule of so few steps.
too_short = {("PNDMScheduler", 1), ("PNDMScheduler", 3), ("UnCLIPScheduler", 1)}


@pytest.mark.parametrize(
    ("name", "count"),
    [pair for pair in itertools.product(names, [1, 3, 20]) if pair not in too_short],
)
def test_walking_a_schedule_counts_its_noise_levels(name, count):
    walked = walk(make(name, count))
    counts = {position.count for position in walked}
    assert len(counts) == 1
    indices = [position.index for position in walked]
    assert indices == sorted(indices)
    assert sorted(set(indices)) == list(range(counts.pop()))


@pytest.mark.parametrize("name", names)
def test_the_noise_goes_down_along_a_schedule_and_up_along_an_inverse_one(name):
    sigmas = [position.sigma for position in walk(make(name))]
    if name == "IPNDMScheduler":
        assert set(sigmas) == {None}
        return
    assert sigmas == sorted(sigmas, reverse="Inverse" not in name)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler"])
def test_one_step_is_one_noise_level(name):
    assert [position.count for position in walk(make(name, 20))] == [20] * 20


@pytest.mark.parametrize(
    "cls", [HeunDiscreteScheduler, KDPM2AncestralDiscreteScheduler, FlowMatchHeunDiscreteScheduler]
)
def test_a_repeated_timestep_is_one_noise_level(cls):
    scheduler = cls()
    scheduler.set_timesteps(10)
    assert len(scheduler.timesteps) == 19
    assert [p.index for p in walk(scheduler)] == [0, *(i for i in range(1, 10) for _ in range(2))]


def test_pndm_starts_with_a_repeated_step():
    scheduler = make("PNDMScheduler", 10, skip_prk_steps=True)
    assert len(scheduler.timesteps) == 11
    assert [p.index for p in walk(scheduler)] == [0, 1, 1, *range(2, 10)]


def test_pndm_with_runge_kutta_steps_counts_the_levels_in_between():
    scheduler = PNDMScheduler()
    scheduler.set_timesteps(10)
    assert walk(scheduler)[-1].index == walk(scheduler)[-1].count - 1 == 12


def test_the_first_third_is_as_long_for_heun_as_for_euler():
    for cls, calls in ((EulerDiscreteScheduler, 10), (HeunDiscreteScheduler, 19)):
        scheduler = cls()
        scheduler.set_timesteps(30)
        assert sum(as_steps("begin").active(position) for position in walk(scheduler)) == calls


# --- noise levels -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_the_noise_level_is_the_sigma_of_the_scheduler(name):
    scheduler = make(name)
    expected = scheduler.sigmas[: len(scheduler.timesteps)].tolist()
    assert [position.sigma for position in walk(scheduler)] == pytest.approx(expected)


def test_without_sigmas_the_noise_level_comes_from_the_cumulative_alphas():
    scheduler = make("DDIMScheduler")
    alphas = scheduler.alphas_cumprod[scheduler.timesteps]
    expected = ((1 - alphas) / alphas).sqrt().tolist()
    assert [position.sigma for position in walk(scheduler)] == pytest.approx(expected)


@pytest.mark.parametrize("karras", [False, True])
def test_schedulers_agree_on_the_noise_level_of_a_timestep(karras):
    for name in (
        "EulerDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
    ):
        scheduler = make(name, 8, use_karras_sigmas=karras)
        reference = DDIMScheduler()
        for time, position in zip(scheduler.timesteps, walk(scheduler), strict=True):
            reference.timesteps = scheduler.timesteps
            sigma = schedule_position(reference, time).sigma
            # Some round their timesteps: up to half a training step.
            assert position.sigma == pytest.approx(sigma, rel=0.05, abs=0.01)


def test_between_two_levels_the_noise_is_that_of_the_timestep():
    scheduler = KDPM2DiscreteScheduler()
    scheduler.set_timesteps(10)
    sigmas = [position.sigma for position in walk(scheduler)]
    assert sigmas[0::2] == pytest.approx(scheduler.sigmas[0:19:2].tolist(), rel=1e-4)
    assert sigmas[1:-2:2] == pytest.approx(scheduler.sigmas_interpol[1:17:2].tolist(), rel=1e-3)


def test_a_midpoint_has_the_noise_of_its_timestep_and_not_of_the_sigma_listed_there():
    """As DPMSolverSDE lists them: sigmas of the outer levels, timesteps of the midpoint too."""
    alphas = DDIMScheduler().alphas_cumprod
    outer = ((1 - alphas) / alphas).sqrt()[[900, 100]].tolist()
    scheduler = SimpleNamespace(
        timesteps=torch.tensor([900, 500.5, 100]),
        sigmas=[outer[0], outer[1], outer[1], 0.0],
        alphas_cumprod=alphas,
        mid_point_sigma=None,
        config={"num_train_timesteps": 1000},
    )
    first, middle, last = (position.sigma for position in walk(scheduler))
    assert (first, last) == pytest.approx(outer)
    around = ((1 - alphas) / alphas).sqrt()[[500, 501]]
    assert around[0] < middle < around[1]


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        FlowMatchHeunDiscreteScheduler(),
        UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
    ],
)
def test_the_noise_level_of_a_flow_is_noise_over_signal(scheduler):
    scheduler.set_timesteps(8)
    for position, t in zip(walk(scheduler), scheduler.sigmas.tolist(), strict=False):
        assert position.sigma == pytest.approx(math.inf if t == 1 else t / (1 - t))


def test_a_schedule_that_starts_without_signal_starts_at_infinite_noise():
    scheduler = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    scheduler.set_timesteps(5)
    assert walk(scheduler)[0].sigma == math.inf
    assert all(position.sigma < math.inf for position in walk(scheduler)[1:])


def test_a_scheduler_without_noise_levels_has_positions_all_the_same():
    scheduler = SimpleNamespace(timesteps=[3, 2, 1])
    position = schedule_position(scheduler, 2)
    assert (position.index, position.count, position.sigma) == (1, 3, None)


# --- parts of schedules -------------------------------------------------------------------------


def test_custom_timesteps_are_the_schedule():
    scheduler = DDPMScheduler()
    scheduler.set_timesteps(timesteps=[900, 500, 100, 10])
    assert [position.index for position in walk(scheduler)] == [0, 1, 2, 3]
    assert schedule_position(scheduler, 100).fraction == 0.5


def test_custom_sigmas_are_the_schedule():
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[14.0, 5.0, 1.0, 0.0])
    assert [position.sigma for position in walk(scheduler)] == pytest.approx([14.0, 5.0, 1.0])


def test_a_part_of_a_run_keeps_its_place_in_the_schedule():
    """Image to image at strength 0.6 walks `timesteps[4:]`, `denoising_end=0.8` the first 8."""
    scheduler = make("EulerDiscreteScheduler")
    assert schedule_position(scheduler, scheduler.timesteps[4]).fraction == 0.4
    first = [schedule_position(scheduler, time) for time in scheduler.timesteps[:8]]
    assert [position.fraction for position in first] == [i / 10 for i in range(8)]
    assert not any(
        Steps(0, 1 / 3).active(schedule_position(scheduler, t)) for t in scheduler.timesteps[4:]
    )


# --- the timestep given -------------------------------------------------------------------------


def test_a_timestep_may_be_a_number_or_a_tensor_of_equal_ones():
    scheduler = make("DDIMScheduler", 50)
    time = scheduler.timesteps[20]
    forms = (int(time), float(time), time, time[None], time.expand(4), time.float().expand(2, 3))
    assert {schedule_position(scheduler, form).index for form in forms} == {20}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"]
)
def test_a_rounded_timestep_is_found(name, dtype):
    scheduler = make(name, 30)
    found = [schedule_position(scheduler, time.to(dtype)).index for time in scheduler.timesteps]
    assert found == list(range(30))


def test_a_timestep_cast_to_an_integer_is_found():
    scheduler = make("EulerDiscreteScheduler", 30)
    found = [schedule_position(scheduler, int(time)).index for time in scheduler.timesteps]
    assert found == list(range(30))


@pytest.mark.parametrize("time", [1200, -40, math.nan, math.inf])
def test_a_timestep_that_is_not_in_the_schedule_is_an_error(time):
    scheduler = make("DDIMScheduler", 50)
    message = "is not in the schedule of DDIMScheduler, whose 50 timesteps go from 980 to 0"
    with pytest.raises(ValueError, match=message):
        schedule_position(scheduler, time)


def test_different_timesteps_in_a_batch_are_an_error():
    scheduler = make("DDIMScheduler", 50)
    with pytest.raises(ValueError, match="different timesteps, 20 to 40"):
        schedule_position(scheduler, torch.tensor([20, 40]))
    with pytest.raises(ValueError, match="empty"):
        schedule_position(scheduler, torch.tensor([]))


@pytest.mark.parametrize("timesteps", [None, torch.tensor([])])
def test_a_scheduler_without_timesteps_is_an_error(timesteps):
    with pytest.raises(ValueError, match="call set_timesteps"):
        schedule_position(SimpleNamespace(timesteps=timesteps), 3)


def test_the_latent_upscaler_is_told_a_quarter_of_the_logarithm_of_the_noise_level():
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8),
        conv_in_kernel=1,
        conv_out_kernel=1,
        cross_attention_dim=8,
        attention_head_dim=8,
        norm_num_groups=None,
        down_block_types=("KDownBlock2D", "KCrossAttnDownBlock2D"),
        mid_block_type=None,
        up_block_types=("KCrossAttnUpBlock2D", "KUpBlock2D"),
        resnet_time_scale_shift="scale_shift",
        time_cond_proj_dim=8,
        time_embedding_type="fourier",
    )
    scheduler = make("EulerDiscreteScheduler")
    pipe = SimpleNamespace(scheduler=scheduler)
    found = [
        step_position(pipe, unet, (sigma.log() * 0.25).half()) for sigma in scheduler.sigmas[:-1]
    ]
    assert found == walk(scheduler)


# --- schedules that are read once ---------------------------------------------------------------


@pytest.mark.parametrize("name", names)
def test_a_schedule_read_once_tells_what_one_read_anew_tells(name):
    scheduler = make(name)
    anew = [Schedule(scheduler).position(time) for time in scheduler.timesteps]
    assert walk(scheduler) == anew
    assert walk(scheduler) == anew


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DDIMScheduler"])
def test_a_known_timestep_costs_few_calls_of_functions(name):
    scheduler = make(name, 50)
    time = scheduler.timesteps[20]
    first = schedule_position(scheduler, time)
    package = str(Path(smoothed_energy.__file__).parent)
    calls = []

    def count(frame, event, arg):
        if event == "call" and frame.f_code.co_filename.startswith(package):
            calls.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        again = schedule_position(scheduler, time)
    finally:
        sys.setprofile(before)
    assert again is first
    assert len(calls) <= 6, calls


def test_replaced_timesteps_are_read_anew():
    scheduler = make("DDIMScheduler", 10)
    assert schedule_position(scheduler, 400).count == 10
    scheduler.set_timesteps(5)
    assert [position.index for position in walk(scheduler)] == [0, 1, 2, 3, 4]
    scheduler.timesteps = scheduler.timesteps[2:]
    assert [position.count for position in walk(scheduler)] == [3, 3, 3]


def test_replaced_noise_levels_are_read_anew():
    scheduler = make("EulerDiscreteScheduler", 10)
    time, sigma = scheduler.timesteps[3], schedule_position(scheduler, scheduler.timesteps[3]).sigma
    scheduler.sigmas = scheduler.sigmas * 2
    assert schedule_position(scheduler, time).sigma == pytest.approx(2 * sigma)


def test_cumulative_alphas_that_are_replaced_are_read_anew():
    scheduler = make("DDIMScheduler", 10)
    assert schedule_position(scheduler, 0).sigma > 0
    scheduler.alphas_cumprod = torch.ones_like(scheduler.alphas_cumprod)
    assert schedule_position(scheduler, 0).sigma == 0


@pytest.mark.parametrize("inference", [False, True])
def test_lists_that_are_changed_in_place_are_read_anew(inference):
    with torch.inference_mode(inference):
        scheduler = make("EulerDiscreteScheduler", 10)
        time = scheduler.timesteps[3].clone()
        sigma = schedule_position(scheduler, time).sigma
        assert scheduler.timesteps.is_inference() == scheduler.sigmas.is_inference()
        scheduler.sigmas.mul_(2)
        assert schedule_position(scheduler, time).sigma == pytest.approx(2 * sigma)
        scheduler.timesteps.add_(1)
        assert schedule_position(scheduler, time + 1).index == 3
        assert schedule_position(scheduler, time + 1).timestep == float(time + 1)


def test_tensors_made_in_inference_mode_have_positions_like_others():
    with torch.inference_mode():
        scheduler = make("DDIMScheduler", 10)
        assert scheduler.timesteps.is_inference()
    assert walk(scheduler) == walk(scheduler) == walk(make("DDIMScheduler", 10))


class Plain:
    """A scheduler of one's own, with a list or an array as its timesteps."""

    def __init__(self, timesteps):
        self.timesteps = timesteps


def test_lists_and_arrays_that_are_changed_in_place_are_read_anew():
    for timesteps in ([3, 2, 1], torch.tensor([3, 2, 1]).numpy()):
        scheduler = Plain(timesteps)
        assert schedule_position(scheduler, 2).index == 1
        timesteps[1], timesteps[0] = 7, 9
        assert schedule_position(scheduler, 7).index == 1


def test_another_configuration_is_read_anew():
    scheduler = Plain([2.0, 1.0, 0.5])
    scheduler.sigmas, scheduler.config = [0.8, 0.5, 0.2], {}
    assert schedule_position(scheduler, 1.0).sigma == pytest.approx(1)
    scheduler.config = {"num_train_timesteps": 1000}
    assert schedule_position(scheduler, 1.0).sigma == 0.5


def test_two_schedulers_keep_their_own_schedules():
    short, long = make("DDIMScheduler", 5), make("DDIMScheduler", 10)
    for _ in range(2):
        assert schedule_position(short, 400).count == 5
        assert schedule_position(long, 400).count == 10


def test_a_schedule_does_not_keep_its_scheduler():
    scheduler = make("DDIMScheduler", 5)
    walk(scheduler)
    alive = weakref.ref(scheduler)
    del scheduler
    gc.collect()
    assert alive() is None


def test_threads_find_the_positions_of_their_own_schedulers():
    schedulers = [make("DDIMScheduler", count) for count in (5, 10)]
    expected = [walk(scheduler) for scheduler in schedulers]
    wrong = []

    def look(scheduler, positions):
        for _ in range(30):
            scheduler.timesteps = scheduler.timesteps.clone()
            if walk(scheduler) != positions:
                wrong.append(scheduler)

    threads = [
        threading.Thread(target=look, args=pair) for pair in zip(schedulers, expected, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_levels_of_a_flow_whose_timesteps_are_not_its_sigmas():
    """CogView 4 gives timesteps and sigmas of its own, and Cosmos sigmas that are no times."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[0.9, 0.6, 0.2], timesteps=[800.0, 500.0, 100.0])
    levels = [schedule_position(scheduler, time).sigma for time in scheduler.timesteps]
    assert levels == pytest.approx([0.9 / 0.1, 0.6 / 0.4, 0.2 / 0.8], rel=1e-4)
    scheduler.sigmas = torch.tensor([80.0, 0.9, 0.2, 0.0])
    levels = [schedule_position(scheduler, time).sigma for time in scheduler.timesteps]
    assert levels == pytest.approx([80.0, 0.9, 0.2])
