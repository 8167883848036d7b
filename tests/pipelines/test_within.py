"""Perturbing the unconditional rows within the first pass is guidance at CFG's scale less 1."""

import pytest
import torch
from comparison import run_of
from tiny_pipelines import MARGIN, TOLERANCE, UP, difference, sd
from tiny_sd3 import CASES as SD3
from tiny_unet import CASES as UNETS
from tiny_wan import CASES as WAN

from smoothed_energy import GuidanceWarning, MomentumGuidance, guidance_from_text

SD = UNETS[0]
METHODS = {
    "seg; blur=gaussian:1; layers={}": SD,
    "pag; layers={}": UNETS[1],
    "erg; layers={}": SD3[0],
    "slg; layers={}": WAN[0],
    "slg; layers={}; skip=attention": SD3[0],
    "tpg; layers={}": SD,
    "s2; layers={}; share=1": WAN[0],
}


def both(text, case):
    """The same perturbation within the pass, and in a pass of its own."""
    layers = ",".join(case.images)
    within = guidance_from_text(text.format(layers) + "; formulation=within")
    scale = case.scale - 1
    return within, guidance_from_text(
        text.format(layers) + f"; formulation=unconditional; scale={scale}"
    )


@pytest.mark.parametrize("text", METHODS)
def test_it_is_unconditional_guidance_at_the_scale_of_cfg_less_1(text):
    case = METHODS[text]
    pipe = case.pipeline()
    run = run_of(pipe, case, cfg=True)
    plain = run()
    within, apart = both(text, case)
    with apart.attach(pipe):
        expected = run()
    with within.attach(pipe) as attachment:
        found = run()
    assert difference(expected, plain) > MARGIN * TOLERANCE
    assert difference(found, expected) < TOLERANCE
    assert attachment.last_run.layers == set(case.images)
    assert torch.equal(run(), plain)


def test_the_denoiser_runs_no_more_than_for_cfg():
    pipe, calls = SD.pipeline(), []
    run = run_of(pipe, SD, cfg=True)
    module = pipe.unet.get_submodule(next(iter(SD.images)))
    handle = module.to_q.register_forward_hook(lambda _, args, out: calls.append(len(args[0])))
    within = guidance_from_text(f"slg; layers={','.join(SD.images)}; formulation=within")
    try:
        with within.attach(pipe):
            run()
    finally:
        handle.remove()
    # A skipped module costs nothing, and the rows that stay are those of the first pass.
    assert calls == [4, 4]


def test_by_hand_a_skipped_block_is_left_out_of_the_rows_without_the_prompt():
    pipe = sd()
    run = run_of(pipe, SD, cfg=True)
    block = pipe.unet.get_submodule(UP[0].rpartition(".")[0])
    forward = block.forward

    def skipped(hidden_states, *args, **kwargs):
        output = forward(hidden_states, *args, **kwargs).clone()
        output[:2] = hidden_states[:2]
        return output

    block.forward = skipped
    try:
        expected = run()
    finally:
        del block.forward
    with guidance_from_text(f"slg; layers={UP[0]}; formulation=within").attach(pipe):
        assert difference(run(), expected) < TOLERANCE


def test_another_guidance_may_go_beside_it():
    pipe = SD.pipeline()
    run = run_of(pipe, SD, cfg=True)
    within, apart = both("slg; layers={}", SD)
    del apart
    seg = guidance_from_text("seg; layers=up; scale=2")
    found = []
    for replay in (True, False):
        with within.attach(pipe), seg.attach(pipe, replay=replay):
            found.append(run())
    with within.attach(pipe):
        only = run()
    assert difference(*found) < TOLERANCE
    assert difference(found[0], only) > MARGIN * TOLERANCE


def test_where_there_is_no_cfg_it_says_so():
    pipe = SD.pipeline()
    run = run_of(pipe, SD)
    plain = run()
    within, _ = both("slg; layers={}", SD)
    with within.attach(pipe), pytest.warns(GuidanceWarning, match="no|none"):
        assert torch.equal(run(), plain)


@pytest.mark.parametrize("more", ["combine=project", "every=2", "steps=adaptive:0.9"])
def test_what_needs_a_second_pass_is_refused(more):
    with pytest.raises(ValueError, match="within"):
        guidance_from_text(f"seg; formulation=within; {more}")


@pytest.mark.parametrize("method", ["sag", "swg", "momentum", "tsg", "sg"])
def test_guidance_without_layers_has_no_such_formulation(method):
    with pytest.raises(ValueError, match="within"):
        guidance_from_text(f"{method}; formulation=within")


def test_scale_0_is_off():
    pipe = SD.pipeline()
    run = run_of(pipe, SD, cfg=True)
    plain = run()
    with guidance_from_text("seg; formulation=within; scale=0").attach(pipe):
        assert torch.equal(run(), plain)
    assert MomentumGuidance().formulation == "conditional"
