"""What runs, how often, in which pass."""

from collections import Counter
from contextlib import ExitStack

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from small_models import inputs, small_pipeline, small_unet, unet_inputs
from smoothed_energy import GaussianBlur, SmoothedEnergyGuidance
from smoothed_energy.intercept.module_call import ModuleCall, Rows
from smoothed_energy.intercept.replay import Recorder, Stem

STEPS = 6


def counted(unet) -> Counter[str]:
    """Counts of calls of every block of a U-Net, by hooks of the test's own."""
    calls: Counter[str] = Counter()
    parts = [
        "conv_in",
        "time_embedding",
        "down_blocks.0",
        "down_blocks.1",
        "mid_block.resnets.0",
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
        "mid_block.resnets.1",
        "up_blocks.0",
        "up_blocks.1",
        "conv_out",
    ]
    for name in parts:
        unet.get_submodule(name).forward = counting(calls, name, unet.get_submodule(name).forward)
    return calls


def counting(calls, name, forward):
    def count(*args, **kwargs):
        calls[name] += 1
        return forward(*args, **kwargs)

    return count


def test_the_stem_runs_once_a_step_and_the_rest_twice():
    pipe = small_pipeline()
    calls = counted(pipe.unet)
    with SmoothedEnergyGuidance(layers="mid").attach(pipe) as attachment:
        pipe(**(inputs() | {"num_inference_steps": STEPS}))

    once = ["conv_in", "time_embedding", "down_blocks.0", "down_blocks.1", "mid_block.resnets.0"]
    assert {name: calls[name] for name in once} == dict.fromkeys(once, STEPS)
    twice = [name for name in calls if name not in once]
    assert {name: calls[name] for name in twice} == dict.fromkeys(twice, 2 * STEPS)
    assert attachment.last_run.calls == attachment.last_run.guided_calls == STEPS


def test_without_replay_everything_runs_twice():
    pipe = small_pipeline()
    calls = counted(pipe.unet)
    with SmoothedEnergyGuidance(layers="mid").attach(pipe, replay=False):
        pipe(**(inputs() | {"num_inference_steps": STEPS}))
    assert set(calls.values()) == {2 * STEPS}


def test_inactive_steps_make_one_pass():
    pipe = small_pipeline()
    calls = counted(pipe.unet)
    with SmoothedEnergyGuidance(layers="mid", steps="begin").attach(pipe) as attachment:
        pipe(**(inputs() | {"num_inference_steps": STEPS}))
    assert attachment.last_run.guided_calls == STEPS // 3
    assert calls["conv_out"] == STEPS + STEPS // 3
    assert calls["conv_in"] == STEPS


@pytest.mark.parametrize("off", [{"scale": 0.0}, {"blur": GaussianBlur(0)}])
def test_guidance_that_is_off_makes_one_pass_and_changes_nothing(off):
    pipe = small_pipeline()
    plain = pipe(**inputs()).images
    calls = counted(pipe.unet)
    with SmoothedEnergyGuidance(**off).attach(pipe):
        guided = pipe(**inputs()).images
    assert calls["conv_out"] == 3
    assert torch.equal(plain, guided)


def test_only_conditional_rows_go_through_the_second_pass():
    pipe = small_pipeline()
    batches = []
    pipe.unet.conv_out.register_forward_hook(lambda _, args, out: batches.append(out.shape[0]))
    with SmoothedEnergyGuidance().attach(pipe):
        pipe(**(inputs(batch=3) | {"num_inference_steps": 1}))
    assert batches == [6, 3]


@pytest.mark.parametrize("formulation", ["conditional", "unconditional"])
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("layers", ["down", "mid", "up", "d1,u0.1", "u2.1", "all", "*.1.attn1"])
def test_replay_changes_nothing_but_rounding(layers, guidance_scale, formulation):
    pipe = small_pipeline(small_unet(layers_per_block=2))
    results = []
    for replay in (True, False):
        guidance = SmoothedEnergyGuidance(
            blur=GaussianBlur(1), layers=layers, formulation=formulation
        )
        with guidance.attach(pipe, replay=replay):
            results.append(pipe(**(inputs(batch=2) | {"guidance_scale": guidance_scale})).images)
    if guidance_scale == 1.0:
        assert torch.equal(*results)
    else:  # the stem was computed with [u, c] in one batch, which rounds differently from c alone
        torch.testing.assert_close(*results, rtol=0, atol=3e-4)
    plain = pipe(**(inputs(batch=2) | {"guidance_scale": guidance_scale})).images
    assert (results[0] - plain).abs().max() > 3e-2


def test_an_output_changed_in_place_is_computed_again_not_replayed():
    unet = small_unet()
    # UNet2DConditionModel changes a DownBlock2D's output so under T2I-Adapter: sample += residual.
    unet.down_blocks[1].register_forward_pre_hook(
        lambda _, args, kwargs: (args, kwargs | {"hidden_states": kwargs["hidden_states"].add_(1)}),
        with_kwargs=True,
    )
    results = []
    for replay in (True, False):
        with SmoothedEnergyGuidance(layers="mid").attach(unet, replay=replay) as attachment:
            attachment.step(0, 1, conditional_rows=1)
            results.append(unet(**unet_inputs(), return_dict=False)[0])
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


def test_outputs_recorded_in_inference_mode_are_safe_from_changes_in_place():
    unet = small_unet()
    unet.mid_block.register_forward_pre_hook(lambda _, args: (args[0].mul_(1.5), *args[1:]))
    with torch.inference_mode():
        results = []
        for replay in (True, False):
            with SmoothedEnergyGuidance(layers="mid").attach(unet, replay=replay):
                results.append(unet(**unet_inputs(), return_dict=False)[0])
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


def test_two_guidances_replay_each_its_own_stem():
    pipe = small_pipeline()
    calls = counted(pipe.unet)
    mid = SmoothedEnergyGuidance(layers="mid")
    up = SmoothedEnergyGuidance(layers="up")
    with mid.attach(pipe), up.attach(pipe):
        pipe(**(inputs() | {"num_inference_steps": 1}))
    assert calls["down_blocks.1"] == 1
    assert calls["mid_block.resnets.1"] == 2  # clean, and for the guidance in the middle
    assert calls["up_blocks.0"] == 3


class CopiedBytes(TorchDispatchMode):
    """Counts the bytes of all copies of tensors in its block."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.clone.default:
            self.count += result.numel() * result.element_size()
        return result


def copied_bytes(*guidances):
    """How many bytes a guided call copies in inference mode, where what is recorded is copied."""
    unet = small_unet()
    with ExitStack() as stack, torch.inference_mode():
        for guidance in guidances:
            stack.enter_context(guidance.attach(unet))
        with CopiedBytes() as copied:
            unet(**unet_inputs(1), return_dict=False)
    return copied.count


def test_two_guidances_copy_their_common_stem_once():
    nothing = copied_bytes()
    one = copied_bytes(SmoothedEnergyGuidance(blur="gaussian:1")) - nothing
    two = copied_bytes(*[SmoothedEnergyGuidance(blur=f"gaussian:{sigma}") for sigma in (1, 2)])
    assert one > 0
    assert two - nothing == one


def test_guidances_with_stems_of_two_lengths_copy_what_both_have_once():
    mid, up = SmoothedEnergyGuidance(layers="mid"), SmoothedEnergyGuidance(layers="up")
    nothing = copied_bytes()
    of_mid, of_up, of_both = (copied_bytes(*found) - nothing for found in ([mid], [up], [mid, up]))
    # The path down is in both stems, as a whole; the inside of the middle is in the one of `mid`
    # alone, and all that follows in that of `up` alone.
    unet, sizes = small_unet(), {}

    def note(name):
        def hook(module, args, output):
            tensors = output if isinstance(output, tuple) else (output,)
            flat = [t for item in tensors for t in (item if isinstance(item, tuple) else (item,))]
            distinct = {id(tensor): tensor for tensor in flat}.values()
            sizes[name] = sum(tensor.numel() * tensor.element_size() for tensor in distinct)

        return hook

    common = ["conv_in", "time_proj", "time_embedding", "add_time_proj", "add_embedding"]
    for name in [*common, "down_blocks.0", "down_blocks.1"]:
        unet.get_submodule(name).register_forward_hook(note(name))
    unet(**unet_inputs(1))
    assert of_both == of_mid + of_up - sum(sizes.values())


def test_an_output_with_something_unknown_in_it_is_computed_again():
    """What is no tensor, number or text, however deep: Flux 2 in ComfyUI has such modulations."""
    module, unknown = torch.nn.Linear(2, 2), object()
    calls = []

    def forward(x):
        calls.append(x)
        return x, (unknown, x)

    stem = Stem(torch.nn.Sequential(module, torch.nn.Linear(2, 2)), [])
    stem.modules = frozenset([module])
    recorder = Recorder([stem])
    call = ModuleCall(module, forward, (torch.ones(2, 2),), {})
    recorder.run(call)
    for rows in (Rows(0, 2, 2), Rows(0, 1, 2)):
        found = recorder.replay(stem, rows).run(call)
        assert found[1][0] is unknown
    assert len(calls) == 3
