r"""Guidance is the same in one batch `[u, c]`, in two calls, and with a guider.

Each case is a setting: what it is by formulas, and what it is in the package's words. All protocols
have to give the guided prediction $D^\star$ of the formulas at every step, by as many passes of the
denoiser as are written down, which is also what they say of themselves.
"""

import functools
from contextlib import ExitStack, contextmanager
from functools import cache

import pytest
import torch
from comparison import run_of
from diffusers import FirstBlockCacheConfig, MagCacheConfig, UNet2DConditionModel
from tiny_pipelines import MARGIN, MID, TOLERANCE, difference, new_unet, noise, unet
from tiny_wan import CASES as WAN_CASES
from tiny_wan import transformer, wan

from protocol_cases import CASES, ON_C, PLAIN, counts, pag_up, seg
from protocol_formulas import (
    COUNT,
    METHODS,
    ROWS,
    TEXTS,
    G,
    clean,
    guided,
    perturbed,
    sample,
    scheduler,
)
from protocol_loops import PROTOCOLS, attached, guided_step, guider_of, passes_of, predict, tell
from small_models import own_copy
from smoothed_energy import (
    EntropyRectifyingGuidance,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SkipLayerGuidance,
    SlidingWindowGuidance,
    SmoothedEnergyGuidance,
    TokenPerturbationGuidance,
)

WAN = WAN_CASES[0]
OTHER = new_unet()
CACHED = {"two calls": "1+1+1", "guider": "1+1+1"}
# Without CFG nobody makes two calls.
PAIRS = [
    (case, protocol)
    for case in CASES
    for protocol in PROTOCOLS
    if not (CASES[case].g == 1 and protocol == "two calls")
]
each = pytest.mark.parametrize(("case", "protocol"), PAIRS)


@cache
def expected(name):
    case = CASES[name]
    return guided(case.terms, cfg=case.cfg, **case.settings)


@cache
def found(name, protocol):
    case = CASES[name]
    return PROTOCOLS[protocol](case.attached, **case.settings)


def effect(one, other):
    """The greatest difference of two loops."""
    return difference(torch.cat(one), torch.cat(other))


@each
def test_every_guided_prediction_is_that_of_the_formulas(case, protocol):
    predictions = found(case, protocol).predictions
    errors = [difference(a, b) for a, b in zip(predictions, expected(case), strict=True)]
    print(f"\nerror {max(errors):.1e}")
    assert max(errors) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_all_protocols_give_the_same(case):
    one, *others = [found(case, protocol).predictions for name, protocol in PAIRS if name == case]
    assert others
    assert all(effect(other, one) < TOLERANCE for other in others)


@pytest.mark.parametrize("case", CASES)
def test_every_setting_does_something_that_no_other_does(case):
    plain = guided([], g=CASES[case].g)
    assert effect(plain, expected(case)) > MARGIN * TOLERANCE
    for other in CASES:
        if other != case:
            assert effect(expected(other), expected(case)) > MARGIN * TOLERANCE, other


@each
def test_the_denoiser_runs_as_often_and_with_as_many_rows_as_is_written_down(case, protocol):
    together = protocol == "one batch"
    wanted = [step[0] if together else step[1] for step in CASES[case].passes]
    assert found(case, protocol).passes == wanted


@pytest.mark.parametrize(("case", "protocol"), [pair for pair in PAIRS if pair[1] != "guider"])
def test_attachments_say_what_they_did(case, protocol):
    setting, calls = CASES[case], COUNT if protocol == "one batch" else 2 * COUNT
    wanted = [
        counts(calls, *numbers, layers=layers)
        for *numbers, layers in zip(setting.guided, setting.reused, setting.layers, strict=True)
    ]
    if setting.interval:
        a_call = calls // COUNT
        with_cfg = a_call * len(setting.cfg)
        wanted.append(counts(calls, with_cfg, 0, calls - with_cfg, layers=()))
    assert found(case, protocol).summaries == wanted


# The perturbed prediction alone.

ALONE_BY_METHOD = {
    "seg": seg(scale=-1),
    "pag": PerturbedAttentionGuidance(layers=MID, scale=-1),
    "pag up": pag_up(scale=-1),
    "erg": EntropyRectifyingGuidance(layers=MID, temperature=4.0, scale=-1),
    "slg": SkipLayerGuidance(layers=MID, scale=-1),
    "tpg": TokenPerturbationGuidance(5, layers=MID, scale=-1),
    "sag": SelfAttentionGuidance(layers=MID, scale=-1),
    "swg": SlidingWindowGuidance(scale=-1),
}


@pytest.mark.parametrize("protocol", ["one batch", "guider"])
@pytest.mark.parametrize("method", METHODS)
def test_without_cfg_a_scale_of_minus_one_gives_the_perturbed_prediction(method, protocol):
    predictions = PROTOCOLS[protocol]([ALONE_BY_METHOD[method]], g=1.0).predictions
    for step, prediction in enumerate(predictions):
        assert difference(prediction, perturbed(method, step, "c")) < TOLERANCE
        assert difference(clean(step, "c"), prediction) > MARGIN * TOLERANCE


# What is kept from step to step, and when it is forgotten.


def corrected(step, made_at, rows=ROWS, scale=3.0):
    """The guided prediction of a step by the difference of a step."""
    c, u = clean(step, "c")[:rows], clean(step, "u")[:rows]
    delta = clean(made_at, "c") - perturbed("seg", made_at, "c")
    return u + G * (c - u) + scale * delta[:rows]


def assert_corrected(loop, wanted):
    for prediction, value in zip(loop.predictions, wanted, strict=True):
        assert difference(prediction, value) < TOLERANCE


def passes(protocol, *steps):
    return [step[protocol != "one batch"] for step in steps]


each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


@each_protocol
@pytest.mark.parametrize("first", [0, 1])
def test_a_schedule_that_begins_again_forgets_kept_differences(protocol, first):
    steps = [first, first + 1, first + 2] * 2
    loop = PROTOCOLS[protocol]([seg(every=9)], steps=steps)
    assert loop.passes == passes(protocol, ON_C, PLAIN, PLAIN, ON_C, PLAIN, PLAIN)
    assert_corrected(loop, [corrected(step, first) for step in steps])


@each_protocol
def test_a_schedule_that_goes_back_forgets_kept_differences(protocol):
    loop = PROTOCOLS[protocol]([seg(every=9)], steps=[1, 2, 3, 2, 3])
    assert loop.passes == passes(protocol, ON_C, PLAIN, PLAIN, ON_C, PLAIN)
    wanted = [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2)]
    assert_corrected(loop, [corrected(*one) for one in wanted])


@each_protocol
def test_a_schedule_that_begins_again_forgets_that_guidance_ended(protocol):
    loop = PROTOCOLS[protocol]([seg(steps="adaptive:0.99")], steps=[2, 3, 4, 2, 3, 4])
    assert loop.passes == passes(protocol, *[ON_C, ON_C, PLAIN] * 2)


SMALLER = {"one batch": ["4+2", "4", "2+1", "2"], "apart": ["2+2|2", "2|2", "1+1|1", "1|1"]}


@pytest.mark.parametrize("protocol", ["one batch", "two calls", "guider"])
def test_a_batch_of_another_size_is_not_corrected_with_a_kept_difference(protocol):
    loop = PROTOCOLS[protocol]([seg(every=9)], steps=range(4), rows=[2, 2, 1, 1])
    assert loop.passes == SMALLER.get(protocol, SMALLER["apart"])
    wanted = [(0, 0, 2), (1, 0, 2), (2, 2, 1), (3, 2, 1)]
    assert_corrected(loop, [corrected(*one) for one in wanted])


def test_a_pipeline_keeps_differences_for_each_of_two_denoisers():
    denoisers = {"transformer": transformer(0, 4), "transformer_2": transformer(3, 4)}
    pipe = wan(**denoisers, boundary_ratio=0.875)
    guidance = SmoothedEnergyGuidance(layers=list(WAN.images), every=9)
    with guidance.attach(pipe) as attachment:
        run_of(pipe, WAN, cfg=True, num_inference_steps=4)()
    assert (attachment.last_run.guided_calls, attachment.last_run.reused_calls) == (2, 2)


def test_a_guider_keeps_differences_for_each_of_two_denoisers():
    guider, ran = guider_of([seg(every=9)]), []
    for step, denoiser in enumerate([unet(), unet(), OTHER, OTHER]):
        with passes_of(denoiser.conv_out) as seen:
            call = functools.partial(predict, sample(step), step, denoiser=denoiser)
            ran.append(guided_step(guider, step, call, denoiser, passes=seen)[1][:2])
    assert ran == [["2+2", "2"], ["2", "2"]] * 2


# What is refused.


def test_the_call_without_the_prompt_has_to_come():
    with attached([seg()]) as (attachments, _):
        tell(attachments, 1, branch="conditional", cfg_scale=G)
        predict(sample(1), 1, TEXTS["c"])
        tell(attachments, 2, branch="conditional", cfg_scale=G)
        with pytest.raises(RuntimeError, match="was called with the prompt before"):
            predict(sample(2), 2, TEXTS["c"])
        tell(attachments, 2)
        with pytest.raises(RuntimeError, match="the call without one"):
            predict(sample(2), 2, TEXTS["c"])


def test_the_call_with_the_prompt_has_to_come_before():
    with attached([seg()]) as (attachments, _):
        tell(attachments, 0, branch="unconditional", cfg_scale=G)
        with pytest.raises(RuntimeError, match="is called without the prompt"):
            predict(sample(0), 0, TEXTS["u"])


def test_after_a_call_that_did_not_come_other_images_may_begin():
    with attached([seg()]) as (attachments, _):
        tell(attachments, 1, branch="conditional", cfg_scale=G)
        predict(sample(1), 1, TEXTS["c"])
        found = {}
        for branch, name in (("c", "conditional"), ("u", "unconditional")):
            tell(attachments, 0, branch=name, cfg_scale=G)
            found[branch] = predict(sample(0), 0, TEXTS[branch])
    prediction = found["u"] + G * (found["c"] - found["u"])
    assert difference(prediction, corrected(0, 0)) < TOLERANCE


def prepared(guider):
    guider.set_state(0, COUNT, scheduler.timesteps[0])
    return guider.prepare_inputs({"text": (TEXTS["c"], TEXTS["u"])})


def test_a_guider_wants_one_call_for_each_batch_in_their_order():
    guider = guider_of([seg()])
    batches = prepared(guider)
    for batch in batches:
        guider.prepare_models(unet())
        if batch is batches[-1]:
            with pytest.raises(RuntimeError, match="not before for the batch that it"):
                predict(sample(0), 0, batch.text)
    batches = prepared(guider)
    guider.prepare_models(unet())
    predict(sample(0), 0, batches[0].text)
    with pytest.raises(RuntimeError, match="twice for one batch"):
        predict(sample(0), 0, batches[0].text)


# Caches.


def cached_call(denoiser, step, branch, rows=1):
    """A call of a tiny Wan in a cache context."""
    text = {name: WAN.arguments[f"{name}prompt_embeds"][:rows] for name in ("", "negative_")}
    texts = {"c": [text[""]], "u": [text["negative_"]], "uc": [text["negative_"], text[""]]}
    video = noise(rows, 4, 3, 8, 12, seed=step)
    context = "cond" if branch == "c" else "uncond"
    with denoiser.cache_context(context), torch.no_grad():
        return denoiser(
            torch.cat([video] * len(branch)),
            timestep=torch.full((rows * len(branch),), 500.0),
            encoder_hidden_states=torch.cat(texts[branch]),
            return_dict=False,
        )[0]


WAN_GUIDANCE = SmoothedEnergyGuidance(layers=list(WAN.images))


def cached_step(protocol, step, denoiser, target):
    """One step in a protocol; `target` is an attachment or a guider."""
    if protocol == "one batch":
        target.step(step, COUNT, conditional_rows=1, cfg_scale=G)
        cached_call(denoiser, step, "uc")
    elif protocol == "two calls":
        for branch, name in (("c", "conditional"), ("u", "unconditional")):
            target.step(step, COUNT, cfg_scale=G, branch=name)
            cached_call(denoiser, step, branch)
    else:
        branches = iter("cuc")
        guided_step(target, step, lambda _: cached_call(denoiser, step, next(branches)), denoiser)


@contextmanager
def guided_by(protocol, denoiser):
    if protocol == "guider":
        yield guider_of([WAN_GUIDANCE])
    else:
        with WAN_GUIDANCE.attach(denoiser) as attachment:
            yield attachment


@pytest.mark.parametrize("protocol", ["one batch", "two calls", "guider"])
@pytest.mark.parametrize("enabled", [False, True], ids=["disabled", "enabled"])
def test_a_cache_that_is_changed_in_mid_run_is_refused(protocol, enabled):
    denoiser = own_copy(transformer())
    change = functools.partial(denoiser.enable_cache, FirstBlockCacheConfig())
    if not enabled:
        change()
        change = denoiser.disable_cache
    with guided_by(protocol, denoiser) as target:
        cached_step(protocol, 0, denoiser, target)
        change()
        with pytest.raises(RuntimeError, match="cache of this WanTransformer3DModel was changed"):
            cached_step(protocol, 1, denoiser, target)


@each_protocol
def test_a_cache_is_used_if_it_was_enabled_before(protocol):
    denoiser = own_copy(transformer())
    denoiser.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    with guided_by(protocol, denoiser) as target, passes_of(denoiser.blocks[3].attn1) as seen:
        cached_step(protocol, 0, denoiser, target)
        first = seen.taken()
        cached_step(protocol, 1, denoiser, target)
    # All blocks of all passes run in the first step, and then no pass runs the last block.
    assert (first, seen.taken()) == ("2+1" if protocol == "one batch" else CACHED[protocol], "-")


@each_protocol
def test_a_cache_that_guidance_does_not_know_is_refused(protocol):
    denoiser = own_copy(transformer())
    denoiser.enable_cache(MagCacheConfig(mag_ratios=[1.0] * COUNT, num_inference_steps=COUNT))
    with (
        guided_by(protocol, denoiser) as target,
        pytest.raises(RuntimeError, match="expected FirstBlockCacheConfig"),
    ):
        cached_step(protocol, 0, denoiser, target)


@pytest.mark.parametrize(
    "protocol",
    [
        "one batch",
        "two calls",
        "guider",
    ],
)
def test_a_call_that_fills_a_cache_of_keys_is_refused(protocol, monkeypatch):
    forward = UNet2DConditionModel.forward

    @functools.wraps(forward)
    def with_cache(self, *args, kv_cache=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", with_cache)
    call = functools.partial(unet(), sample(0), 500, TEXTS["c"], kv_cache=object())
    with ExitStack() as stack:
        if protocol == "guider":
            guider = guider_of([seg()])
            batches = prepared(guider)
            stack.callback(batches.clear)
            guider.prepare_models(unet())
        else:
            attachment = stack.enter_context(seg().attach(unet()))
            if protocol == "one batch":
                attachment.step(0, COUNT, cfg_scale=G, conditional_rows=1)
            else:
                attachment.step(0, COUNT, cfg_scale=G, branch="conditional")
        with pytest.raises(RuntimeError, match="kv_cache"):
            call()


def test_a_cache_that_is_enabled_in_the_run_of_a_pipeline_is_refused():
    pipe = wan(transformer=own_copy(transformer()))

    def enable(pipe, step, time, tensors):
        pipe.transformer.enable_cache(FirstBlockCacheConfig())
        return tensors

    run = run_of(pipe, WAN, cfg=True, callback_on_step_end=enable)
    with (
        WAN_GUIDANCE.attach(pipe),
        pytest.raises(RuntimeError, match="cache of this WanTransformer3DModel was changed"),
    ):
        run()
