"""Perturbed rows in the call of the clean pass give what a second pass gives."""

import methods_by_family
import pytest
import torch
from comparison import run_of
from tiny_ernie_image import CASES as ERNIE
from tiny_flux import CASES as FLUX
from tiny_pipelines import MARGIN, TOLERANCE, difference
from tiny_sd3 import CASES as SD3
from tiny_unet import CASES as UNETS
from tiny_wan import CASES as WAN

from smoothed_energy import (
    NormalizedAttentionGuidance,
    SmoothedEnergyGuidance,
    guidance_from_text,
)
from smoothed_energy.denoisers.attention_layer import LayerError
from smoothed_energy.intercept.attention import AttentionBackendError
from smoothed_energy.trace import Trace

SD = UNETS[0]
METHODS = {
    "seg; blur=gaussian:1": SD,
    "seg; blur=gaussian:inf; formulation=unconditional": SD,
    "seg; on=key": SD3[0],
    "pag": UNETS[1],
    "erg": SD3[0],
    "slg": WAN[0],
    "slg; skip=attention": SD3[0],
    "tpg": SD,
    "s2; share=1": WAN[0],
    "tsg": SD,
}


def of_layers(text, case):
    layers = "" if text.startswith("tsg") else f"; layers={','.join(case.images)}"
    return guidance_from_text(f"{text}{layers}; scale=2")


@pytest.mark.parametrize("cfg", [False, True], ids=["alone", "CFG"])
@pytest.mark.parametrize("text", METHODS)
def test_it_is_what_a_second_pass_gives(text, cfg):
    case = METHODS[text]
    pipe = case.pipeline()
    run = run_of(pipe, case, cfg=cfg)
    plain = run()
    guidance = of_layers(text, case)
    with guidance.attach(pipe) as apart:
        expected = run()
    with guidance.attach(pipe, joined=True) as joined:
        found = run()
    assert difference(expected, plain) > MARGIN * TOLERANCE
    assert difference(found, expected) < TOLERANCE
    assert joined.last_run == apart.last_run
    assert torch.equal(run(), plain)


def rows_of_calls(pipe, case, run):
    """How many rows the denoiser had in each of its calls of a run."""
    rows = []
    module = getattr(pipe, case.denoiser).get_submodule(next(iter(case.images)))
    handle = module.to_q.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    try:
        run()
    finally:
        handle.remove()
    return rows


def test_the_denoiser_is_called_once_a_step():
    pipe = SD.pipeline()
    run = run_of(pipe, SD, cfg=True)
    pictures = rows_of_calls(pipe, SD, run)[0] // 2
    calls = []
    handle = pipe.unet.conv_in.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    try:
        with of_layers("seg", SD).attach(pipe, joined=True):
            run()
    finally:
        handle.remove()
    assert calls == [3 * pictures, 3 * pictures]


@pytest.mark.parametrize("refresh", ["every:2", "early:2"])
def test_steps_without_a_second_pass_have_no_more_rows(refresh):
    pipe = SD.pipeline()
    run = run_of(pipe, SD, num_inference_steps=4)
    guidance = guidance_from_text(f"seg; layers=mid; scale=2; refresh={refresh}")
    with guidance.attach(pipe):
        expected = run()
    calls = []
    handle = pipe.unet.conv_in.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    try:
        with guidance.attach(pipe, joined=True):
            assert difference(run(), expected) < TOLERANCE
    finally:
        handle.remove()
    assert sorted(calls) == [min(calls)] * 2 + [2 * min(calls)] * 2


@pytest.mark.parametrize(
    "other",
    [
        "pag; layers=mid; scale=1.5",
        "pladis",
        "apg",
        "momentum; scale=0.5",
        "tag",
        "interval; steps=begin",
        "slg; layers=up; formulation=within",
        "sag; layers=mid; scale=0.7",
    ],
)
def test_other_guidance_may_go_beside_it(other):
    pipe = SD.pipeline()
    run = run_of(pipe, SD, cfg=True, num_inference_steps=3)
    seg, other = guidance_from_text("seg; layers=up; scale=2"), guidance_from_text(other)
    results = []
    for joined in (False, True):
        with seg.attach(pipe, joined=joined), other.attach(pipe):
            results.append(run())
    with seg.attach(pipe):
        alone = run()
    assert difference(*results) < TOLERANCE
    assert difference(results[0], alone) > MARGIN * TOLERANCE


@pytest.mark.parametrize("method", ["erg", "seg; blur=gaussian:1", "seg; on=key", "tpg"])
def test_who_looks_at_its_layers_sees_them_as_they_are(method):
    pipe = SD.pipeline()
    run = run_of(pipe, SD, cfg=True, num_inference_steps=3)
    layers = ",".join(SD.images)
    one = guidance_from_text(f"{method}; layers={layers}; scale=2")
    sag = guidance_from_text(f"sag; layers={next(iter(SD.images))}; scale=2")
    found = []
    for joined in (False, True):
        with one.attach(pipe, joined=joined), sag.attach(pipe):
            found.append(run())
    assert difference(*found) < TOLERANCE
    with one.attach(pipe, joined=True), Trace(pipe, metrics=["energy"], layers=layers) as trace:
        run()
    assert len(trace.layers)


def test_nag_beside_it_asks_the_negative_prompt_of_every_picture():
    pipe = SD.pipeline()
    text = SD.arguments["prompt_embeds"]
    run = run_of(pipe, SD, cfg=True)
    other = torch.randn(text[:1].shape, generator=torch.Generator().manual_seed(3))
    nag = NormalizedAttentionGuidance(negative_embeds={"encoder_hidden_states": other})
    seg, found = of_layers("seg; blur=gaussian:1", SD), []
    for joined in (False, True):
        with seg.attach(pipe, joined=joined), nag.attach(pipe):
            found.append(run())
    assert difference(*found) < TOLERANCE
    with seg.attach(pipe):
        assert difference(found[0], run()) > MARGIN * TOLERANCE


def test_only_one_of_two_is_joined():
    pipe = SD.pipeline()
    run = run_of(pipe, SD)
    one, two = guidance_from_text("seg; layers=up"), guidance_from_text("pag; layers=mid")
    with one.attach(pipe), two.attach(pipe):
        expected = run()
    with one.attach(pipe, joined=True), two.attach(pipe, joined=True):
        assert difference(run(), expected) < TOLERANCE


def test_the_step_is_watched_as_ever():
    pipe = SD.pipeline()
    run = run_of(pipe, SD, cfg=True)
    guidance = guidance_from_text("seg; layers=up; scale=2")
    tables = []
    for joined in (False, True):
        with guidance.attach(pipe, joined=joined), Trace(pipe, layers="mid") as trace:
            run()
        tables.append((trace.steps, trace.layers))
    for apart, joined in zip(*tables, strict=True):
        assert list(apart.columns) == list(joined.columns)
        numbers = [
            table.select_dtypes("number").drop(columns="seconds", errors="ignore")
            for table in (apart, joined)
        ]
        assert len(numbers[0])
        assert numbers[0].to_numpy() == pytest.approx(numbers[1].to_numpy(), rel=5e-3, nan_ok=True)


def test_flux_packs_its_rows_alike():
    (case, *_) = FLUX
    pipe = case.pipeline()
    run = run_of(pipe, case)
    guidance = of_layers("seg; blur=gaussian:1", case)
    with guidance.attach(pipe):
        expected = run()
    with guidance.attach(pipe, joined=True):
        assert difference(run(), expected) < TOLERANCE


def cases():
    """All tiny pipelines that guidance is attached to: others have a guider."""
    found = methods_by_family.cases()
    return [
        case for case in found if "guider" not in getattr(case.pipeline(), "_component_specs", ())
    ]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.family)
def test_every_family_has_rows_that_join(case):
    pipe = case.pipeline()
    run = run_of(pipe, case, cfg=bool(case.cfg))
    guidance = of_layers("seg; blur=gaussian:1", case)
    try:
        with guidance.attach(pipe):
            expected = run()
    except LayerError:
        pytest.skip("no softmax attention")
    if case.family == "Cosmos 3":
        with pytest.raises(LayerError, match="one sample and no rows"):
            guidance.attach(pipe, joined=True)
        return
    with guidance.attach(pipe, joined=True):
        if case.family == "Qwen-Image 2.1":
            with pytest.raises(RuntimeError, match="keeps keys from call to call"):
                run()
            return
        assert difference(run(), expected) < 4 * TOLERANCE  # DeepFloyd IF: 3e-5


def test_blocks_whose_rows_are_not_first_are_refused():
    (case, *_) = ERNIE
    guidance = guidance_from_text(f"slg; layers={','.join(case.images)}")
    with pytest.raises(LayerError, match="tokens before rows"):
        guidance.attach(case.pipeline(), joined=True)


@pytest.mark.parametrize("text", ["sag", "swg", "momentum", "sg", "apg", "tag", "interval"])
def test_guidance_without_a_perturbed_pass_is_refused(text):
    with pytest.raises(ValueError, match="joined=True"):
        guidance_from_text(text).attach(SD.pipeline(), joined=True)


def test_what_decides_after_the_first_pass_is_refused():
    with pytest.raises(ValueError, match=r"joined=True with refresh=.*after the first pass"):
        SmoothedEnergyGuidance(refresh="drift:0.2").attach(SD.pipeline(), joined=True)


def test_rows_that_depend_on_each_other_are_refused():
    with pytest.raises(ValueError, match="depend on each other"):
        SmoothedEnergyGuidance().attach(SD.pipeline(), joined=True, rows="all")


def test_within_and_joined_is_refused():
    guidance = guidance_from_text("seg; layers=mid; formulation=within")
    with pytest.raises(ValueError, match="joined=True"):
        guidance.attach(SD.pipeline(), joined=True)


def test_a_denoiser_compiled_as_a_whole_is_refused():
    unet = SD.pipeline().unet
    compiled = torch.compile(unet, backend="eager")
    generator = torch.Generator().manual_seed(0)
    channels = unet.config.in_channels
    given = torch.randn(1, channels, 8, 12, generator=generator)
    text = torch.randn(1, 5, unet.config.cross_attention_dim, generator=generator)
    guidance = guidance_from_text("seg; layers=mid")
    with guidance.attach(compiled, joined=True) as attachment:
        attachment.step(0, 1)
        with pytest.raises(AttentionBackendError, match="compiled"):
            compiled(given, 500, encoder_hidden_states=text)
