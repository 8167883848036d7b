"""A loop of one's own that calls the denoiser with the prompt, and then without it."""

import pytest
import torch
from tiny_pipelines import MARGIN, MID, TOLERANCE, difference, noise, prompts, unet

from smoothed_energy import (
    GuidanceInterval,
    PerturbedAttentionGuidance,
    SmoothedEnergyGuidance,
)

G = 5.0


def predict(text):
    return unet()(noise(2, 4, 12, 8, seed=1), 500, encoder_hidden_states=text).sample


def texts():
    found = prompts(2)
    return found["prompt_embeds"], found["negative_prompt_embeds"]


def in_two_calls(*guidances, index=0, count=1):
    attachments = [guidance.attach(unet()) for guidance in guidances]
    conditional, unconditional = texts()
    try:
        found = {}
        for branch, text in (("conditional", conditional), ("unconditional", unconditional)):
            for attachment in attachments:
                attachment.step(index, count, branch=branch, cfg_scale=G)
            found[branch] = predict(text)
    finally:
        for attachment in attachments:
            attachment.detach()
    c, u = found["conditional"], found["unconditional"]
    return u + G * (c - u)


def in_one_batch(*guidances):
    attachments = [guidance.attach(unet()) for guidance in guidances]
    conditional, unconditional = texts()
    try:
        for attachment in attachments:
            attachment.step(0, 1, conditional_rows=2, cfg_scale=G)
        sample = noise(2, 4, 12, 8, seed=1).repeat(2, 1, 1, 1)
        both = unet()(
            sample, 500, encoder_hidden_states=torch.cat([unconditional, conditional])
        ).sample
    finally:
        for attachment in attachments:
            attachment.detach()
    u, c = both.chunk(2)
    return u + G * (c - u)


@pytest.mark.parametrize(
    "guidances",
    [
        [SmoothedEnergyGuidance(layers=MID)],
        [SmoothedEnergyGuidance(layers=MID, formulation="unconditional")],
        [SmoothedEnergyGuidance(layers=MID, combine="fuse")],
        [SmoothedEnergyGuidance(layers=MID, combine="rescale:0.7+project")],
        [
            SmoothedEnergyGuidance(layers=MID),
            PerturbedAttentionGuidance(layers="up", formulation="unconditional", scale=2.0),
        ],
    ],
    ids=["conditional", "unconditional", "fuse", "rescale and project", "two"],
)
def test_two_calls_give_what_one_batch_gives(guidances):
    expected = in_one_batch(*guidances)
    plain = in_one_batch()
    assert difference(in_two_calls(*guidances), expected) < TOLERANCE
    assert difference(plain, expected) > MARGIN * TOLERANCE


def test_the_first_call_is_left_as_it_is():
    conditional, _ = texts()
    clean = predict(conditional)
    with SmoothedEnergyGuidance(layers=MID).attach(unet()) as attachment:
        attachment.step(0, 1, branch="conditional", cfg_scale=G)
        assert torch.equal(predict(conditional), clean)


def test_a_second_call_that_does_not_come_is_an_error():
    conditional, _ = texts()
    with SmoothedEnergyGuidance(layers=MID).attach(unet()) as attachment:
        attachment.step(0, 2, branch="conditional", cfg_scale=G)
        predict(conditional)
        attachment.step(1, 2)
        with pytest.raises(RuntimeError, match="the call without one"):
            predict(conditional)


def test_guidance_that_ends_by_itself_waits_for_no_call():
    conditional, unconditional = texts()
    with SmoothedEnergyGuidance(layers=MID, steps="adaptive:0.01").attach(unet()) as attachment:
        for index in range(3):
            for branch, text in (("conditional", conditional), ("unconditional", unconditional)):
                attachment.step(index, 3, branch=branch, cfg_scale=G)
                predict(text)
    assert attachment.last_run.calls == 6
    assert attachment.last_run.guided_calls == 1


@pytest.mark.parametrize("first", ["conditional", "unconditional"])
def test_two_calls_of_one_branch_are_an_error(first):
    conditional, _ = texts()
    with SmoothedEnergyGuidance(layers=MID).attach(unet()) as attachment:
        attachment.step(1, 3, branch=first, cfg_scale=G)
        if first == "unconditional":
            with pytest.raises(RuntimeError, match="with the prompt"):
                predict(conditional)
            return
        predict(conditional)
        attachment.step(2, 3, branch="conditional", cfg_scale=G)
        with pytest.raises(RuntimeError, match="without the prompt"):
            predict(conditional)


@pytest.mark.parametrize(
    "settings",
    [
        {"branch": "conditional"},
        {"branch": "conditional", "cfg_scale": 1.0},
        {"branch": "conditional", "cfg_scale": 5.0, "conditional_rows": 1},
        {"branch": "negative", "cfg_scale": 5.0},
    ],
)
def test_branches_that_make_no_sense_are_refused(settings):
    with (
        SmoothedEnergyGuidance(layers=MID).attach(unet()) as attachment,
        pytest.raises(ValueError, match="branch="),
    ):
        attachment.step(0, 1, **settings)


def calls(attachments, steps, *, skips=False):
    """What a loop of this many steps predicts, in a list of pairs."""
    conditional, unconditional = texts()
    found = []
    for index in range(steps):
        pair = []
        for branch, text in (("conditional", conditional), ("unconditional", unconditional)):
            if skips and branch == "unconditional":
                continue
            for attachment in attachments:
                attachment.step(index, steps, branch=branch, cfg_scale=G)
            sample = noise(2, 4, 12, 8, seed=index)
            pair.append(unet()(sample, 500, encoder_hidden_states=text).sample)
        found.append(pair)
    return found


def test_an_interval_and_a_correction_in_two_calls():
    guidance = PerturbedAttentionGuidance(layers=MID)
    plain = calls([], 4)
    with GuidanceInterval("0:0.5").attach(unet()) as interval, guidance.attach(unet()) as other:
        found = calls([interval, other], 4)
    for c, u in found[2:]:
        assert torch.equal(c, u)
    assert difference(plain[3][0], found[3][0]) > MARGIN * TOLERANCE
    with guidance.attach(unet()) as alone:
        both = calls([alone], 4)
    for index in range(2):
        assert torch.equal(found[index][1], both[index][1])


def test_a_loop_may_leave_out_the_calls_that_an_interval_makes_useless():
    plain = [c for c, _ in calls([], 3)]
    with GuidanceInterval("0.9:1").attach(unet()) as interval:
        found = [c for (c,) in calls([interval], 3, skips=True)]
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
