"""Guidance of Allegro, ConsisID and Sana-Video."""

import dataclasses
import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import SCALE, _assert_guided_as_by_hand, assert_skipped_as_by_hand
from test_cogvideox import dynamic_scale
from tiny_allegro import CASES as ALLEGRO
from tiny_consisid import CASES as CONSISID
from tiny_pipelines import difference
from tiny_sana_video import CASES as SANA

from smoothed_energy import PerturbedAttentionGuidance, SkipLayerGuidance, SmoothedEnergyGuidance
from smoothed_energy.families.layer_selection import LayerError

BLOCK = "transformer_blocks.1"


@pytest.mark.parametrize("case", [*ALLEGRO, *CONSISID], ids=lambda case: case.family)
@pytest.mark.parametrize(("cfg", "sigma"), [(False, math.inf), (True, 1.0)])
def test_as_by_brute_force(case, cfg, sigma):
    assert_guided_as_by_brute_force(case, cfg=cfg, sigma=sigma, temporal=1.0)


@pytest.mark.parametrize(
    ("case", "returned"),
    [
        (ALLEGRO[0], ["hidden_states"]),
        (CONSISID[0], ["hidden_states", "encoder_hidden_states"]),
        (SANA[0], ["hidden_states"]),
    ],
    ids=lambda case: getattr(case, "family", ""),
)
def test_skipped(case, returned):
    assert_skipped_as_by_hand(case, f"{BLOCK}.attn1", "block", BLOCK, *returned)


def test_dynamic_cfg_of_consisid():
    """Its pipeline does not tell the time."""
    case = dataclasses.replace(CONSISID[0], scale=dynamic_scale(999, 1))
    assert_guided_as_by_brute_force(case, cfg=True, use_dynamic_cfg=True, num_inference_steps=1)


def test_attention_of_sana_video_without_a_map():
    def values(own, step):
        module = own.__self__

        def forward(hidden_states, **kwargs):
            return module.to_out[0](module.to_v(hidden_states))

        return forward

    layer = f"{BLOCK}.attn1"
    guidance = PerturbedAttentionGuidance(scale=SCALE, layers=layer)
    _assert_guided_as_by_hand(SANA[0], guidance, layer, values)


def test_linear_attention_has_nothing_to_smooth():
    with pytest.raises(LayerError, match="softmax"):
        SmoothedEnergyGuidance(layers="mid").attach(SANA[0].pipeline())


def test_steps_and_cfg_of_sana_video():
    pipe = SANA[0].pipeline()
    run = run_of(pipe, SANA[0], cfg=True, num_inference_steps=4)
    plain = run()
    with SkipLayerGuidance(layers="mid", steps="0:0.5").attach(pipe) as attachment:
        assert difference(run(), plain) > 1e-3
    assert (attachment.last_run.calls, attachment.last_run.guided_calls) == (4, 2)
