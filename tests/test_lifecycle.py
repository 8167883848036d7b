"""Attachments that are used again, looked for, or begin and end in mid-run."""

import gc

import pytest
import torch

import smoothed_energy
from small_models import inputs, unet_inputs
from smoothed_energy import (
    GuidanceInterval,
    PerturbedAttentionGuidance,
    SmoothedEnergyGuidance,
    Steps,
    attachments,
    detach_all,
)
from smoothed_energy.families.layer_selection import LayerError
from smoothed_energy.trace import Trace

SEG = SmoothedEnergyGuidance(blur="gaussian:inf")
PAG = PerturbedAttentionGuidance(layers="mid")


def one_step(**changes):
    return inputs() | {"num_inference_steps": 1} | changes


def at(step, action):
    """A callback that does something at the end of one step."""

    def callback(pipe, index, timestep, tensors):
        if index == step:
            action()
        return tensors

    return callback


class TestUsedAgain:
    def test_a_second_block_guides_as_the_first(self, pipe):
        attachment = SEG.attach(pipe)
        with attachment:
            first = pipe(**one_step()).images
        plain = pipe(**one_step()).images
        with attachment as same:
            assert same is attachment
            assert attachment.attached
            assert attachment.last_run is None
            assert torch.equal(pipe(**one_step()).images, first)
            assert attachment.last_run.guided_calls == 1
        assert not attachment.attached
        assert attachment.last_run.guided_calls == 1
        assert not torch.equal(first, plain)
        assert torch.equal(pipe(**one_step()).images, plain)

    def test_it_comes_back_beside_what_was_attached_since(self, pipe):
        attachment = SEG.attach(pipe)
        with PAG.attach(pipe):
            expected = pipe(**one_step()).images
        attachment.detach()
        with PAG.attach(pipe), attachment:
            assert torch.equal(pipe(**one_step()).images, expected)
            assert attachments(pipe)[1] is attachment
        assert attachments(pipe) == ()

    def test_an_equal_guidance_that_was_attached_since_is_an_error(self, pipe):
        attachment = SEG.attach(pipe)
        attachment.detach()
        with SEG.attach(pipe) as other:
            with pytest.raises(RuntimeError, match=r"attached to this .* already.*detach_all"):
                attachment.__enter__()
            assert not attachment.attached
            assert attachments(pipe) == (other,)

    def test_layers_that_are_gone_are_an_error_that_leaves_nothing(self, pipe):
        attachment = SEG.attach(pipe)
        attachment.detach()
        cls = type(pipe)
        pipe.unet.mid_block = None
        with pytest.raises(LayerError, match="'mid'"):
            attachment.__enter__()
        assert type(pipe) is cls
        assert attachments(pipe) == ()

    def test_on_a_bare_denoiser_nothing_of_the_first_time_is_used(self, unet):
        guidance = SmoothedEnergyGuidance(blur="gaussian:inf", every=3)

        def calls(attachment):
            found = []
            for index in range(2):
                attachment.step(index, 3)
                found.append(unet(**unet_inputs(seed=index)).sample)
            return found

        with PAG.attach(unet), guidance.attach(unet) as attachment:
            first = calls(attachment)
            attachment.detach()
            with attachment:
                attachment.step(1, 3)
                again = unet(**unet_inputs(seed=0)).sample
            assert attachment.last_run.guided_calls == attachment.last_run.calls == 1
        assert torch.equal(first[0], again)

    def test_entering_what_is_attached_changes_nothing(self, pipe):
        with SEG.attach(pipe) as attachment, attachment:
            assert attachments(pipe) == (attachment,)


class TestFound:
    def test_a_dropped_attachment_is_found_and_detached(self, pipe):
        plain = pipe(**one_step()).images
        SEG.attach(pipe)
        gc.collect()
        (found,) = smoothed_energy.attachments(pipe)
        assert found.guidance == SEG
        assert not torch.equal(pipe(**one_step()).images, plain)
        found.detach()
        assert torch.equal(pipe(**one_step()).images, plain)

    def test_they_come_in_order_those_of_the_denoiser_last(self, pipe):
        of_unet = GuidanceInterval().attach(pipe.unet)
        first, second = SEG.attach(pipe), PAG.attach(pipe)
        assert attachments(pipe) == (first, second, of_unet)
        assert attachments(pipe.unet) == (of_unet,)

    def test_all_are_detached_at_once(self, pipe):
        cls, plain = type(pipe), pipe(**one_step()).images
        GuidanceInterval().attach(pipe.unet)
        SEG.attach(pipe)
        PAG.attach(pipe)
        detach_all(pipe)
        detach_all(pipe)  # again does nothing
        assert attachments(pipe) == attachments(pipe.unet) == ()
        assert type(pipe) is cls
        assert "forward" not in vars(pipe.unet)
        assert torch.equal(pipe(**one_step()).images, plain)

    def test_those_who_only_look_stay(self, pipe):
        with Trace(pipe) as trace, SEG.attach(pipe):
            detach_all(pipe)
            pipe(**one_step())
        assert len(trace.steps) == 1

    @pytest.mark.parametrize("find", [attachments, detach_all])
    def test_what_can_not_be_guided_is_an_error(self, find):
        with pytest.raises(TypeError, match="can't attach guidance to a str"):
            find("pipe")


class TestInMidRun:
    def late(self, pipe):
        """What a guidance of all steps but the first gives."""
        with SmoothedEnergyGuidance(blur="gaussian:inf", steps=Steps(1 / 3, 1)).attach(pipe):
            return pipe(**inputs()).images

    def test_attaching_beside_another_guides_from_the_next_step_on(self, pipe):
        expected = self.late(pipe)
        with GuidanceInterval().attach(pipe):
            found = pipe(**inputs(), callback_on_step_end=at(0, lambda: SEG.attach(pipe))).images
            assert attachments(pipe)[1].last_run.guided_calls == 2
        detach_all(pipe)
        assert torch.equal(found, expected)

    def test_attaching_where_nothing_was_attached_is_refused(self, pipe):
        cls, plain = type(pipe), pipe(**inputs()).images
        refused = []

        def attach():
            with pytest.raises(RuntimeError, match="is generating, and nothing was attached") as e:
                SEG.attach(pipe)
            refused.append(e)

        found = pipe(**inputs(), callback_on_step_end=at(0, attach)).images
        assert len(refused) == 1
        assert torch.equal(found, plain)
        assert type(pipe) is cls
        with SEG.attach(pipe):
            assert not torch.equal(pipe(**inputs()).images, plain)

    def test_looking_where_nothing_was_attached_is_refused_too(self, pipe):
        def look():
            with pytest.raises(RuntimeError, match="is generating"), Trace(pipe):
                pass

        pipe(**one_step(), callback_on_step_end=at(0, look))

    def test_another_pipeline_may_be_attached_to(self, pipe):
        from small_models import small_pipeline

        other = small_pipeline(unet=pipe.unet)
        pipe(**one_step(), callback_on_step_end=at(0, lambda: SEG.attach(other)))
        assert len(attachments(other)) == 1

    def test_detaching_and_attaching_again_guides_the_steps_between(self, pipe):
        with SmoothedEnergyGuidance(
            blur="gaussian:inf", steps=(Steps(0, 1 / 3) | Steps(2 / 3, 1))
        ).attach(pipe):
            expected = pipe(**inputs()).images
        attachment, done = SEG.attach(pipe), []

        def change(pipe, index, timestep, tensors):
            if index == 0:
                attachment.detach()
                done.append(attachment.last_run)
            elif index == 1:
                attachment.__enter__()
            return tensors

        cls = type(pipe).__mro__[1]
        found = pipe(**inputs(), callback_on_step_end=change).images
        assert torch.equal(found, expected)
        assert done[0].guided_calls == 1
        assert attachment.last_run.guided_calls == 1
        attachment.detach()
        assert type(pipe) is cls

    def test_what_was_detached_in_a_run_says_what_it_did_in_it(self, pipe):
        attachment = SEG.attach(pipe)
        pipe(**inputs(), callback_on_step_end=at(1, attachment.detach))
        assert attachment.last_run.guided_calls == attachment.last_run.calls == 2
        assert [name for name in vars(pipe) if "smoothed" in name] == []

    def test_attaching_to_the_denoiser_of_a_guided_run_is_an_error(self, pipe):
        with (
            SEG.attach(pipe),
            pytest.raises(RuntimeError, match="to the pipeline or to the denoiser, not to both"),
        ):
            pipe(**inputs(), callback_on_step_end=at(0, lambda: PAG.attach(pipe.unet)))
        detach_all(pipe)
