"""What changes passes that are made anyway: in every protocol, and beside other things."""

import pytest
import torch
from comparison import run_of
from diffusers import FirstBlockCacheConfig
from nag_by_hand import cross
from older_versions import first_case
from tiny_flux import CASES as FLUX
from tiny_pipelines import MARGIN, MID, TOLERANCE, UP, difference, noise
from tiny_pixart import CASES as PIXART
from tiny_wan import CASES as WAN

from protocol_formulas import TEXTS, G
from protocol_loops import PROTOCOLS
from small_models import own_copy
from smoothed_energy import (
    GuidanceInterval,
    NormalizedAttentionGuidance,
    SkipLayerGuidance,
    SmoothedEnergyGuidance,
    SparseTextAttention,
    guidance_from_text,
)
from smoothed_energy.families import LayerError
from smoothed_energy.trace import Trace

NAG = {"scale": 4.0, "tau": 5.0, "alpha": 0.5}
# The denoiser runs for CFG alone.
PASSES = {"one batch": "4", "two calls": "2|2", "guider": "2|2"}
WIDTH = TEXTS["c"].shape[-1]
WITHIN = SkipLayerGuidance(layers=[MID, *UP], formulation="within")
each = pytest.mark.parametrize("protocol", PROTOCOLS)


def predictions(protocol, guidances):
    return torch.cat(PROTOCOLS[protocol](guidances).predictions)


@each
def test_perturbing_within_is_one_thing_in_every_protocol(protocol):
    apart = SkipLayerGuidance(layers=[MID, *UP], formulation="unconditional", scale=G - 1)
    loop = PROTOCOLS[protocol]([WITHIN])
    expected = predictions(protocol, [apart])
    assert difference(torch.cat(loop.predictions), expected) < TOLERANCE
    assert difference(expected, predictions(protocol, [])) > MARGIN * TOLERANCE
    assert set(loop.passes) == {PASSES[protocol]}
    (summary,) = loop.summaries or [None]
    assert summary is None or summary.layers == {MID, *UP}


@each
def test_sparse_attention_is_one_thing_in_every_protocol(protocol):
    found = PROTOCOLS[protocol]([SparseTextAttention()])
    expected = predictions("one batch", [SparseTextAttention()])
    assert difference(torch.cat(found.predictions), expected) < TOLERANCE
    assert difference(expected, predictions("one batch", [])) > TOLERANCE
    assert set(found.passes) == {PASSES[protocol]}


def test_nag_is_one_thing_in_one_batch_and_in_two_calls():
    text = noise(1, 7, WIDTH, seed=9)
    guidance = NormalizedAttentionGuidance(negative_embeds={"encoder_hidden_states": text}, **NAG)
    found = [PROTOCOLS[name]([guidance]) for name in ("one batch", "two calls")]
    one, other = (torch.cat(loop.predictions) for loop in found)
    assert difference(one, other) < TOLERANCE
    assert difference(one, predictions("one batch", [])) > MARGIN * TOLERANCE
    assert [set(loop.passes) for loop in found] == [{"4"}, {"2|2"}]


def test_an_interval_may_take_cfg_away_beside_them():
    case = WAN[0]
    pipe = case.pipeline()
    run = run_of(pipe, case, cfg=True)
    text = noise(1, 7, 16, seed=9)
    processed = pipe.transformer.condition_embedder.text_embedder(text)
    nag = NormalizedAttentionGuidance(negative_embeds={"encoder_hidden_states": text}, **NAG)
    with GuidanceInterval(steps="0.5:1").attach(pipe):
        calls = []

        def acts():
            return torch.equal(calls[-1], case.arguments["prompt_embeds"])

        handle = pipe.transformer.register_forward_pre_hook(
            lambda _, args, given: calls.append(given["encoder_hidden_states"]), with_kwargs=True
        )
        with torch.no_grad(), cross(pipe.transformer, processed, tuple(NAG.values()), acts=acts):
            expected = run()
        handle.remove()
        with nag.attach(pipe):
            found = run()
    assert difference(found, expected) < TOLERANCE


def test_traces_see_the_rows_of_the_run_alone():
    case = FLUX[0]
    pipe = case.pipeline()
    run = run_of(pipe, case)
    text = {
        "encoder_hidden_states": noise(2, 5, 16, seed=9),
        "pooled_projections": noise(2, 24, seed=10),
    }
    nag = NormalizedAttentionGuidance(negative_embeds=text, **NAG)
    seg = SmoothedEnergyGuidance(layers=list(case.images))
    with nag.attach(pipe), seg.attach(pipe):
        expected = run()
        with Trace(pipe, layers=list(case.images)) as found:
            assert torch.equal(run(), expected)
    table = found.layers
    assert set(table["layer"]) == set(case.images)
    assert len(table) == 2 * 2 * len(case.images)  # steps and pictures


def test_caches_are_refused():
    case = FLUX[0]
    pipe = case.pipeline()
    pipe.transformer = own_copy(pipe.transformer)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    nag = NormalizedAttentionGuidance(
        negative_embeds={
            "encoder_hidden_states": noise(2, 5, 16),
            "pooled_projections": noise(2, 24),
        }
    )
    with nag.attach(pipe), pytest.raises(RuntimeError, match="disable_cache"):
        run_of(pipe, case)()


def test_compiled_denoisers_are_refused():
    case = WAN[0]
    pipe = case.pipeline()
    pipe.transformer = torch.compile(own_copy(pipe.transformer), backend="eager")
    with SparseTextAttention().attach(pipe), pytest.raises(RuntimeError, match="compiled"):
        run_of(pipe, case)()


def test_rows_within_blocks_that_have_tokens_first_are_refused():
    pipe = first_case("tiny_ernie_image").pipeline()
    with pytest.raises(LayerError, match="tokens before rows"):
        guidance_from_text("slg; layers=b1; formulation=within").attach(pipe)
    with guidance_from_text("pag; layers=b1; formulation=within").attach(pipe):
        pass


def test_keys_that_later_steps_use_are_not_changed():
    case = first_case("tiny_qwen_image21")
    pipe = case.pipeline()
    run = run_of(pipe, case, cfg=True)
    plain = run()
    guidance = guidance_from_text("slg; layers=b1; formulation=within")
    with guidance.attach(pipe), pytest.raises(RuntimeError, match="keeps keys"):
        run()
    assert torch.equal(run(), plain)


def test_another_number_of_rows_in_a_loop_of_ones_own():
    case = PIXART[0]
    pipe = case.pipeline()
    denoiser, given = pipe.transformer, []

    def note(module, args, kwargs):
        given.append(kwargs | ({"hidden_states": args[0]} if args else {}))

    hook = denoiser.register_forward_pre_hook(note, with_kwargs=True)
    run_of(pipe, case)()
    hook.remove()
    two = given[0]
    one = {
        key: value[:1] if isinstance(value, torch.Tensor) and len(value) == 2 else value
        for key, value in two.items()
    }
    text = {"encoder_hidden_states": noise(1, 7, 16, seed=9)}
    nag = NormalizedAttentionGuidance(negative_embeds=text, alpha=0.5)

    def out(arguments):
        return denoiser(**arguments)[0]

    with torch.no_grad():
        with nag.attach(denoiser):
            expected = out(one)
        with nag.attach(denoiser):
            out(two)
            assert difference(out(one), expected) < TOLERANCE
