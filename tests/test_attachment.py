"""Attaching leaves everything usable, detaching leaves nothing behind."""

import copy
import threading
import warnings

import pytest
import torch
from torch import nn

from small_models import inputs, small_pipeline, small_unet, unet_inputs
from smoothed_energy import (
    GaussianBlur,
    GuidanceWarning,
    NoiseLevels,
    SelfAttentionGuidance,
    SmoothedEnergyGuidance,
    Steps,
)


def one_step(seed=3, **changes):
    return inputs(seed=seed) | {"num_inference_steps": 1} | changes


def traces(pipe) -> list[str]:
    """Everything in a pipeline and its U-Net that an attachment could have left."""
    found = [name for name in vars(pipe) if "smoothed" in name]
    for name, module in pipe.unet.named_modules():
        if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
            found.append(name)
    return found


class PlannedError(Exception):
    pass


def fail_at(step, error):
    def callback(pipe, index, timestep, tensors):
        if index == step:
            raise error
        return tensors

    return callback


def test_after_detach_the_outputs_are_bit_identical_and_nothing_is_left(pipe):
    cls = type(pipe)
    before = pipe(**one_step()).images
    attachment = SmoothedEnergyGuidance().attach(pipe)
    assert not torch.equal(before, pipe(**one_step()).images)
    attachment.detach()
    attachment.detach()  # again does nothing
    assert not attachment.attached
    assert torch.equal(before, pipe(**one_step()).images)
    assert type(pipe) is cls
    assert traces(pipe) == []


def test_between_runs_the_denoiser_is_untouched_though_guidance_is_attached(pipe):
    with SmoothedEnergyGuidance().attach(pipe):
        pipe(**one_step())
        assert traces(pipe) == ["_smoothed_energy_session"]


@pytest.mark.parametrize("error", [PlannedError, KeyboardInterrupt, SystemExit])
def test_after_an_error_in_mid_run_nothing_is_left(pipe, error):
    cls = type(pipe)
    before = pipe(**inputs()).images
    with pytest.raises(error), SmoothedEnergyGuidance().attach(pipe):
        pipe(**inputs(), callback_on_step_end=fail_at(0, error))
    assert type(pipe) is cls
    assert traces(pipe) == []
    assert torch.equal(before, pipe(**inputs()).images)


@pytest.mark.parametrize("error", [PlannedError, KeyboardInterrupt])
def test_after_an_error_inside_the_second_pass_the_next_guided_run_is_right(pipe, error):
    with SmoothedEnergyGuidance().attach(pipe):
        expected = pipe(**one_step()).images
        calls = []

        def explode(module, args):
            calls.append(module)
            if len(calls) == 2:  # the second pass: up_blocks.1 comes after the perturbed layer
                raise error

        hook = pipe.unet.up_blocks[1].resnets[0].register_forward_pre_hook(explode)
        with pytest.raises(error):
            pipe(**one_step())
        hook.remove()
        assert traces(pipe) == ["_smoothed_energy_session"]
        assert torch.equal(expected, pipe(**one_step()).images)


def test_a_run_can_be_repeated_and_gives_the_same_bits(pipe):
    with SmoothedEnergyGuidance().attach(pipe):
        assert torch.equal(pipe(**one_step()).images, pipe(**one_step()).images)


def test_the_guided_pipeline_still_is_what_it_was(pipe, tmp_path):
    cls = type(pipe)
    with SmoothedEnergyGuidance().attach(pipe):
        assert isinstance(pipe, cls)
        assert type(pipe).__name__ == cls.__name__
        assert type(pipe).__module__ == cls.__module__
        assert set(pipe.components) == set(small_pipeline().components)
        pipe.save_pretrained(tmp_path)
    index = (tmp_path / "model_index.json").read_text()
    assert f'"_class_name": "{cls.__name__}"' in index


def test_attaching_the_same_guidance_twice_is_an_error(pipe):
    guidance = SmoothedEnergyGuidance(blur="gaussian:10")
    with guidance.attach(pipe):
        same = SmoothedEnergyGuidance(blur=GaussianBlur(10.0))
        with pytest.raises(RuntimeError, match="attached to this StableDiffusionXLPipeline"):
            same.attach(pipe)
    with guidance.attach(pipe):  # after detaching it may be attached again
        pass


def test_two_guidances_add_up(unet):
    one = SmoothedEnergyGuidance(blur="gaussian:1", scale=2, layers="mid")
    two = SmoothedEnergyGuidance(blur="gaussian:inf", scale=1, layers="down")

    def predict(*guidances):
        attachments = [guidance.attach(unet) for guidance in guidances]
        output = unet(**unet_inputs(), return_dict=False)[0]
        for attachment in attachments:
            attachment.detach()
        return output

    plain = predict()
    expected = predict(one) + predict(two) - plain
    torch.testing.assert_close(predict(one, two), expected, rtol=0, atol=1e-5)
    assert torch.equal(predict(one, two), predict(one, two))
    assert (predict(one) - plain).abs().max() > 1e-4
    assert (predict(two) - plain).abs().max() > 1e-4


def test_two_equal_corrections_at_different_steps_are_two_guidances(unet):
    everywhere = SmoothedEnergyGuidance()
    early = SmoothedEnergyGuidance(steps="begin")
    plain = unet(**unet_inputs()).sample
    with everywhere.attach(unet) as attachment:
        attachment.step(0, 3)
        once = unet(**unet_inputs()).sample
        with early.attach(unet):
            twice = unet(**unet_inputs()).sample
    torch.testing.assert_close(twice - plain, 2 * (once - plain), rtol=0, atol=1e-5)


def test_detaching_one_of_two_leaves_the_other(pipe):
    first, second = SmoothedEnergyGuidance(), SmoothedEnergyGuidance(layers="down")
    with second.attach(pipe):
        expected = pipe(**one_step()).images
        first.attach(pipe).detach()
        assert torch.equal(expected, pipe(**one_step()).images)


def test_detaching_in_a_callback_ends_the_guidance_of_the_run(pipe):
    attachment = SmoothedEnergyGuidance().attach(pipe)

    def detach(pipe, index, timestep, tensors):
        attachment.detach()
        return tensors

    late = pipe(**inputs(), callback_on_step_end=detach).images
    with SmoothedEnergyGuidance(steps=Steps(0, 1 / 3)).attach(pipe):
        expected = pipe(**inputs()).images
    assert torch.equal(late, expected)


def test_another_pipeline_that_shares_the_denoiser_is_unguided(pipe):
    other = small_pipeline(unet=pipe.unet)
    plain = other(**one_step()).images
    seen = []

    def run_other(pipe, index, timestep, tensors):
        thread = threading.Thread(target=lambda: seen.append(other(**one_step()).images))
        thread.start()
        thread.join()
        return tensors

    with SmoothedEnergyGuidance().attach(pipe):
        assert torch.equal(plain, other(**one_step()).images)
        pipe(**one_step(), callback_on_step_end=run_other)
    assert torch.equal(plain, seen[0])


def test_threads_that_share_a_denoiser_get_the_results_they_would_get_alone():
    unet = small_unet()
    guidances = [
        None,
        SmoothedEnergyGuidance(layers="mid"),
        SmoothedEnergyGuidance(blur="gaussian:1", layers="down", scale=1),
    ]
    pipes = [small_pipeline(unet=unet) for _ in guidances]
    for pipe, guidance in zip(pipes, guidances, strict=True):
        if guidance is not None:
            guidance.attach(pipe)
    alone = [pipe(**inputs()).images for pipe in pipes]
    together: dict[int, list[torch.Tensor]] = {}
    barrier = threading.Barrier(len(pipes))

    def generate(number):
        barrier.wait()
        together[number] = [pipes[number](**inputs()).images for _ in range(2)]

    threads = [threading.Thread(target=generate, args=(number,)) for number in range(len(pipes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, expected in enumerate(alone):
        assert all(torch.equal(expected, result) for result in together[number])
    assert "forward" not in vars(unet)


def test_a_pipeline_that_is_generating_refuses_a_second_run(pipe):
    refused = []

    def again(pipe, index, timestep, tensors):
        def run():
            try:
                pipe(**one_step())
            except RuntimeError as error:
                refused.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return tensors

    with SmoothedEnergyGuidance().attach(pipe):
        pipe(**one_step(), callback_on_step_end=again)
        pipe(**one_step())
    assert len(refused) == 1
    assert "one pipeline a thread" in refused[0]


def test_a_shallow_copy_of_a_guided_pipeline_is_not_guided(pipe):
    plain = pipe(**one_step()).images
    with SmoothedEnergyGuidance().attach(pipe):
        assert torch.equal(plain, copy.copy(pipe)(**one_step()).images)


def test_a_shallow_copy_of_a_guided_pipeline_can_have_guidance_of_its_own(pipe):
    cls = type(pipe)
    with SmoothedEnergyGuidance().attach(pipe):
        expected = pipe(**one_step()).images
        twin = copy.copy(pipe)
        with SmoothedEnergyGuidance().attach(twin):
            assert torch.equal(expected, twin(**one_step()).images)
        assert type(twin) is cls


def test_a_deep_copy_of_a_guided_pipeline_is_not_guided(pipe):
    plain = pipe(**one_step()).images
    with SmoothedEnergyGuidance().attach(pipe):
        twin = copy.deepcopy(pipe)
    assert torch.equal(plain, twin(**one_step()).images)


def test_warnings_point_at_the_call_of_the_pipeline(pipe):
    with (
        SmoothedEnergyGuidance(steps=NoiseLevels(1e6, 1e7)).attach(pipe),
        pytest.warns(GuidanceWarning) as caught,
    ):
        pipe(**one_step())
    assert [w.filename for w in caught if w.category is GuidanceWarning] == [__file__]


def test_a_run_that_never_reaches_the_guidance_warns(pipe):
    prepare = pipe.prepare_latents

    def prepare_and_renew(*args, **kwargs):  # as offloading that is enabled in mid-run does
        del pipe.unet.forward
        return prepare(*args, **kwargs)

    pipe.prepare_latents = prepare_and_renew
    with (
        SmoothedEnergyGuidance().attach(pipe) as attachment,
        pytest.warns(GuidanceWarning, match="not called, or its forward") as caught,
    ):
        pipe(**one_step())
    assert attachment.last_run.calls == 0
    assert [w.filename for w in caught if w.category is GuidanceWarning] == [__file__]


def test_a_run_in_which_no_chosen_layer_is_reached_warns(pipe):
    attention = pipe.unet.mid_block.attentions[0]
    attention.forward = lambda hidden_states, *args, **kwargs: (hidden_states,)
    with (
        SmoothedEnergyGuidance(layers="mid").attach(pipe),
        pytest.warns(GuidanceWarning, match=r"no layer of layers='mid' was reached in 1 guided"),
    ):
        pipe(**one_step())


def test_a_run_without_an_active_step_warns(pipe):
    with (
        SmoothedEnergyGuidance(steps=NoiseLevels(1e6, 1e7)).attach(pipe),
        pytest.warns(GuidanceWarning, match="none of the 1 denoising steps"),
    ):
        pipe(**one_step())


def test_a_guided_run_does_not_warn(pipe):
    with warnings.catch_warnings(), SmoothedEnergyGuidance().attach(pipe) as attachment:
        warnings.simplefilter("error", GuidanceWarning)
        pipe(**one_step())
    assert attachment.last_run.layers == {
        f"mid_block.attentions.0.transformer_blocks.{i}.attn1" for i in range(2)
    }


def test_rescaled_guidance_is_exact_in_both_ways_the_pipeline_uses_the_halves(pipe):
    # guidance_rescale needs an unmodified conditional prediction; see `denoisers.cfg_batch`.
    seen = []
    pipe.unet.register_forward_hook(lambda _, args, out: seen.append(out[0]))
    plain = SmoothedEnergyGuidance(scale=0)
    with plain.attach(pipe):
        pipe(**one_step(guidance_rescale=0.7))
    with SmoothedEnergyGuidance().attach(pipe):
        pipe(**one_step(guidance_rescale=0.7))
        pipe(**one_step(guidance_rescale=0.0))
    (_, c), (u_rescaled, c_rescaled), (u_plain, c_plain) = (item.chunk(2) for item in seen)
    assert torch.equal(c, c_rescaled)
    torch.testing.assert_close(
        u_rescaled + 5 * (c_rescaled - u_rescaled),
        u_plain + 5 * (c_plain - u_plain),
        rtol=0,
        atol=1e-4,
    )
    assert (c - c_plain).abs().max() > 1e-3


class TestBareDenoiser:
    def test_rows_are_as_the_caller_says(self, unet):
        rows = unet_inputs(batch=4)
        plain = unet(**rows).sample
        with SmoothedEnergyGuidance(scale=2).attach(unet) as attachment:
            every = unet(**rows).sample
            attachment.step(0, 10, conditional_rows=2)
            half = unet(**rows).sample
        delta = (every - plain)[2:]
        torch.testing.assert_close(half - plain, delta.repeat(2, 1, 1, 1), rtol=0, atol=1e-5)
        assert delta.abs().max() > 1e-4
        assert torch.equal(plain, unet(**rows).sample)

    def test_the_caller_tells_the_step(self, unet):
        plain = unet(**unet_inputs()).sample
        with SmoothedEnergyGuidance(steps="end").attach(unet) as attachment:
            guided = []
            for index in range(3):
                attachment.step(index, 3)
                guided.append(not torch.equal(plain, unet(**unet_inputs()).sample))
        assert guided == [False, False, True]
        assert attachment.last_run.calls == 3
        assert attachment.last_run.guided_calls == 1

    def test_a_step_that_nobody_told_is_an_error(self, unet):
        with (
            SmoothedEnergyGuidance(steps="begin").attach(unet),
            pytest.raises(RuntimeError, match=r"call step\(index, count\)"),
        ):
            unet(**unet_inputs())

    @pytest.mark.parametrize("rows", [0, -1, 1.5, True])
    def test_a_number_of_rows_that_is_not_positive_is_an_error(self, unet, rows):
        with (
            SmoothedEnergyGuidance().attach(unet) as attachment,
            pytest.raises(ValueError, match=f"conditional_rows={rows}"),
        ):
            attachment.step(0, 1, conditional_rows=rows)

    def test_rows_that_do_not_divide_the_batch_are_an_error(self, unet):
        with SmoothedEnergyGuidance().attach(unet) as attachment:
            attachment.step(0, 1, conditional_rows=3)
            with pytest.raises(ValueError, match="conditional_rows=3 does not divide the batch"):
                unet(**unet_inputs(batch=4))

    @pytest.mark.parametrize(
        "settings", [{"conditional_rows": 1, "rescale_scale": 1.0}, {"rescale_scale": 5.0}]
    )
    def test_a_rescale_scale_that_says_nothing_is_an_error(self, unet, settings):
        with (
            SmoothedEnergyGuidance().attach(unet) as attachment,
            pytest.raises(ValueError, match="rescale_scale="),
        ):
            attachment.step(0, 1, **settings)

    def test_rows_that_are_all_conditional_are_guided_whatever_the_rescaling(self, unet):
        with SmoothedEnergyGuidance().attach(unet) as attachment:
            expected = unet(**unet_inputs()).sample
            attachment.step(0, 1, conditional_rows=2, rescale_scale=5.0)
            assert torch.equal(expected, unet(**unet_inputs()).sample)

    def test_calls_are_counted_from_when_the_guidance_was_attached(self, unet):
        with SmoothedEnergyGuidance().attach(unet):
            unet(**unet_inputs())
            with SmoothedEnergyGuidance(layers="down").attach(unet) as attachment:
                unet(**unet_inputs())
                assert attachment.last_run.calls == attachment.last_run.guided_calls == 1

    def test_positional_arguments_work(self, unet):
        given = unet_inputs()
        first = [given.pop(name) for name in ("sample", "timestep", "encoder_hidden_states")]
        with SmoothedEnergyGuidance().attach(unet):
            by_name = unet(**unet_inputs()).sample
            by_position = unet(*first, **given, return_dict=False)[0]
        assert torch.equal(by_name, by_position)

    def test_step_is_refused_for_a_pipeline(self, pipe):
        with (
            SmoothedEnergyGuidance().attach(pipe) as attachment,
            pytest.raises(TypeError, match="for guidance on a bare denoiser"),
        ):
            attachment.step(0, 1)

    def test_a_pipeline_whose_denoiser_has_guidance_of_its_own_is_refused(self, pipe):
        with (
            SmoothedEnergyGuidance().attach(pipe.unet),
            SmoothedEnergyGuidance().attach(pipe),
            pytest.raises(RuntimeError, match="not to both"),
        ):
            pipe(**one_step())


@pytest.mark.parametrize("target", [object(), "sdxl", None])
def test_what_is_no_pipeline_is_refused(target):
    with pytest.raises(TypeError, match="expected a diffusers pipeline"):
        SmoothedEnergyGuidance().attach(target)


def test_a_module_that_is_no_denoiser_is_refused():
    with pytest.raises(ValueError, match="Linear"):
        SmoothedEnergyGuidance().attach(nn.Linear(1, 1))


def test_layers_that_do_not_exist_are_refused_when_attaching(pipe):
    with pytest.raises(ValueError, match=r"'m7'.*mid \(m0-m1\)"):
        SmoothedEnergyGuidance(layers="m7").attach(pipe)
    assert traces(pipe) == []


class TestPatchesThatOthersKeep:
    """Offloading wraps whatever function it finds, and puts it back when it is removed."""

    def test_a_patch_that_a_hook_has_wrapped_is_dead_after_detaching(self, unet):
        accelerate = pytest.importorskip("accelerate")
        with SmoothedEnergyGuidance().attach(unet):
            expected = unet(**unet_inputs()).sample
            _, hook = accelerate.cpu_offload_with_hook(unet, torch.device("cpu"))
            assert torch.equal(expected, unet(**unet_inputs()).sample)
        with SmoothedEnergyGuidance().attach(unet) as attachment:  # once, not once for each patch
            assert torch.equal(expected, unet(**unet_inputs()).sample)
            assert attachment.last_run.calls == 1
        hook.remove()
        with SmoothedEnergyGuidance().attach(unet) as attachment:
            assert torch.equal(expected, unet(**unet_inputs()).sample)
            assert attachment.last_run.calls == 1

    def test_a_deep_copy_of_a_guided_denoiser_uses_its_own_weights_and_is_not_guided(self, unet):
        plain = unet(**unet_inputs()).sample
        with SmoothedEnergyGuidance().attach(unet):
            twin = copy.deepcopy(unet)
            assert torch.equal(plain, twin(**unet_inputs()).sample)
            with SmoothedEnergyGuidance().attach(twin) as attachment:
                assert torch.equal(unet(**unet_inputs()).sample, twin(**unet_inputs()).sample)
                assert attachment.last_run.calls == 1
            with torch.no_grad():
                twin.conv_out.weight.zero_()
                twin.conv_out.bias.zero_()
            assert not twin(**unet_inputs()).sample.any()


def test_a_bare_denoiser_that_is_compiled_while_it_is_guided_stays_guided():
    unet = small_unet()
    call = unet_inputs(1) | {"return_dict": False}
    plain = unet(**call)[0]
    with SmoothedEnergyGuidance().attach(unet) as attachment:
        guided = unet(**call)[0]
        compiled = torch.compile(unet, backend="eager")
        assert torch.allclose(compiled(**call)[0], guided, atol=1e-5)
        unet.compile(backend="eager")
        assert torch.allclose(unet(**call)[0], guided, atol=1e-5)
    assert attachment.last_run.guided_calls == 3
    assert not torch.allclose(plain, guided, atol=1e-3)
    assert torch.allclose(unet(**call)[0], plain, atol=1e-5)


@pytest.mark.parametrize(
    "guidance",
    [
        SmoothedEnergyGuidance(layers="mid"),
        SmoothedEnergyGuidance(layers=["down", "mid"]),
        SelfAttentionGuidance(layers="mid"),
    ],
    ids=["all of them", "some of them", "recorded"],
)
def test_layers_that_are_replaced_are_found_again(guidance):
    unet = small_unet()
    with guidance.attach(unet) as attachment:

        def call():
            attachment.step(0, 1, sigma=1.0, prediction_type="epsilon")
            return unet(**unet_inputs(1)).sample

        guided = call()
        unet.mid_block = copy.deepcopy(unet.mid_block)
        assert torch.equal(call(), guided)
    assert not torch.equal(unet(**unet_inputs(1)).sample, guided)


def test_a_bare_denoiser_that_was_never_guided_warns_when_it_is_detached():
    unet = small_unet()
    attachment = SmoothedEnergyGuidance(steps="end").attach(unet)
    attachment.step(0, 10)
    unet(**unet_inputs(1))
    with pytest.warns(GuidanceWarning, match="none of the 1") as seen:
        attachment.detach()
    assert [w.filename for w in seen] == [__file__]
    with (
        pytest.warns(
            GuidanceWarning, match=r"none of the 1 denoising steps .* steps='end'"
        ) as seen,
        SmoothedEnergyGuidance(steps="end").attach(unet) as attachment,
    ):
        attachment.step(0, 10)
        unet(**unet_inputs(1))
    assert [w.filename for w in seen] == [__file__]


def test_an_error_ends_a_bare_attachment_without_more_words():
    unet = small_unet()
    with warnings.catch_warnings():
        warnings.simplefilter("error", GuidanceWarning)
        with pytest.raises(PlannedError):  # noqa: SIM117
            with SmoothedEnergyGuidance(steps="end").attach(unet) as attachment:
                attachment.step(0, 10)
                unet(**unet_inputs(1))
                raise PlannedError
    assert not attachment.attached


def test_rows_of_which_nothing_is_said_are_warned_of_once():
    unet = small_unet()
    with SmoothedEnergyGuidance().attach(unet) as attachment:
        with pytest.warns(GuidanceWarning, match="each of the 2 rows") as seen:
            unet(**unet_inputs(2))
            unet(**unet_inputs(2))
        assert [w.filename for w in seen] == [__file__]
        with warnings.catch_warnings():
            warnings.simplefilter("error", GuidanceWarning)
            attachment.step(0, 1)
            unet(**unet_inputs(2))


@pytest.mark.parametrize(("scale", "rows"), [(3.0, 1), (0.0, 2)])
def test_one_row_and_guidance_that_is_off_need_no_words(scale, rows):
    unet = small_unet()
    with warnings.catch_warnings(), SmoothedEnergyGuidance(scale=scale).attach(unet):
        warnings.simplefilter("error", GuidanceWarning)
        unet(**unet_inputs(rows))


@pytest.mark.parametrize("kind", ["function", "object", "older"])
def test_what_a_callback_generates_is_not_part_of_the_run(pipe, kind):
    other = small_pipeline(unet=pipe.unet)
    expected = other(**one_step(seed=5)).images
    guided = []
    with SmoothedEnergyGuidance().attach(pipe):
        guided.append(pipe(**inputs()).images)

        def preview(pipe, index, timestep, tensors):
            assert torch.equal(other(**one_step(seed=5)).images, expected)
            return tensors

        class Preview:
            def __call__(self, pipe, index, timestep, tensors):
                return preview(pipe, index, timestep, tensors)

        callbacks = {
            "function": {"callback_on_step_end": preview},
            "object": {"callback_on_step_end": Preview()},
            "older": {"callback": lambda *found: preview(pipe, *found), "callback_steps": 1},
        }
        guided.append(pipe(**inputs(), **callbacks[kind]).images)
    assert torch.equal(*guided)


@pytest.mark.parametrize(
    ("settings", "warns"),
    [({"blur": "gaussian:0.15"}, True), ({"blur": "box:1"}, True), ({"scale": 0}, False)],
)
def test_guidance_that_changes_nothing_says_so(pipe, settings, warns):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        SmoothedEnergyGuidance(**settings).attach(pipe).detach()
    found = [w for w in seen if w.category is GuidanceWarning]
    assert [w.filename for w in found] == [__file__] * warns
    assert all("changes nothing" in str(w.message) for w in found)


def test_a_scale_of_zero_at_all_steps_is_named(pipe):
    with (
        SmoothedEnergyGuidance(scale="table:0:0").attach(pipe),
        pytest.warns(GuidanceWarning, match=r"scale other than 0 \(scale='table:0"),
    ):
        pipe(**one_step())
