"""What a trace tells of guidance, against predictions made by hand, in three protocols."""

import math

import numpy as np
import pytest
import torch
from tiny_pipelines import unet

from protocol_cases import pag_up, seg
from protocol_formulas import COUNT, ROWS, TEXTS, G, Term, clean, guided, perturbed, sample
from protocol_loops import guided_step, guider_of, one_batch, predict, two_calls
from smoothed_energy import GuidanceInterval
from smoothed_energy.trace import Trace

REL = 2e-4


def traced(protocol, guidances, **options):
    """The trace of a loop of six steps."""
    if protocol == "guider":
        guider = guider_of(guidances, **options)
        with Trace(guider, layers=(), metrics=()) as trace:
            for step in range(COUNT):

                def call(text, step=step):
                    return predict(sample(step), step, text)

                guided_step(guider, step, call, unet())
        return trace
    loop = {"one batch": one_batch, "two calls": two_calls}[protocol]
    with Trace(unet(), layers=(), metrics=()) as trace:
        loop(guidances, **options)
    return trace


PROTOCOLS = ["one batch", "two calls", "guider"]


def flat(tensor):
    return tensor.double().flatten(1).numpy()


def dot(a, b):
    return (a * b).sum(1)


def column(trace, name):
    """A column as `(steps, samples)`."""
    steps = trace.steps
    assert steps["run"].unique().tolist() == [0]
    assert steps["step"].tolist() == [step for step in range(COUNT) for _ in range(ROWS)]
    assert steps["sample"].tolist() == [*range(ROWS)] * COUNT
    return steps[name].to_numpy().reshape(COUNT, ROWS)


CASES = {
    "seg": ([Term("seg")], lambda: [seg()]),
    "seg and pag": ([Term("seg"), Term("pag up", 1.5)], lambda: [seg(), pag_up(scale=1.5)]),
    "unconditional": ([Term("seg", branch="u")], lambda: [seg(formulation="unconditional")]),
    "projected": ([Term("seg", combine="project")], lambda: [seg(combine="project")]),
    "two steps": ([Term("seg", steps=(0, 1))], lambda: [seg(steps="begin")]),
    "every second": ([Term("seg", every=2)], lambda: [seg(every=2)]),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", CASES)
def test_the_guided_prediction_by_its_formula(protocol, case):
    terms, guidances = CASES[case]
    trace = traced(protocol, guidances())
    effect = 0.0
    for step, result in enumerate(guided(terms)):
        c, u, result = (flat(x) for x in (clean(step, "c"), clean(step, "u"), result))
        d = c - u
        delta = result - (u + G * d)
        effective = dot(result - u, d) / dot(d, d)
        parallel = dot(delta, d) / np.linalg.norm(d, axis=1)
        orthogonal = np.linalg.norm(delta - (dot(delta, d) / dot(d, d))[:, None] * d, axis=1)
        norm = np.linalg.norm(delta, axis=1)
        expected = {
            "effective_cfg_scale": effective,
            "correction_norm": norm,
            "correction_relative_norm": norm / np.linalg.norm(c, axis=1),
            "correction_parallel": parallel,
            "correction_orthogonal": orthogonal,
            "text_norm": np.linalg.norm(d, axis=1),
            "prediction_norm": np.linalg.norm(c, axis=1),
        }
        for name, values in expected.items():
            np.testing.assert_allclose(
                column(trace, name)[step], values, rtol=REL, atol=1e-5, err_msg=name
            )
        effect = max(effect, float(abs(effective - G).max()))
    assert effect > 0.05, "the guidance changes the effective scale too little for a test"
    assert set(column(trace, "cfg_scale").ravel()) == {G}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_guidance_by_its_own_predictions(protocol):
    trace = traced(protocol, [seg(), pag_up(scale=1.5, formulation="unconditional")])
    for name, method, branch, scale in (("seg", "seg", "c", 3.0), ("pag", "pag up", "u", 1.5)):
        cosines = []
        for step in range(COUNT):
            s, other = flat(clean(step, branch)), flat(perturbed(method, step, branch))
            lengths = np.linalg.norm(s, axis=1), np.linalg.norm(other, axis=1)
            expected = {
                "cosine": dot(s, other) / (lengths[0] * lengths[1]),
                "relative_norm": lengths[1] / lengths[0],
                "correction_relative_norm": scale * np.linalg.norm(s - other, axis=1) / lengths[0],
            }
            for part, values in expected.items():
                found = column(trace, f"{name}.{part}")[step]
                np.testing.assert_allclose(found, values, rtol=REL, err_msg=part)
            cosines.extend(expected["cosine"])
        assert min(cosines) < 1 - 10 * REL
        assert set(column(trace, f"{name}.scale").ravel()) == {scale}
    assert [type(one) for one in trace.guidances.values()] == [type(seg()), type(pag_up())]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("g", [7.3, 0.0, -1.5])
def test_plain_cfg_has_exactly_its_own_scale(protocol, g):
    if protocol == "guider":
        trace = traced(protocol, [], g=g)
    else:
        with Trace(unet(), layers=(), metrics=()) as trace, torch.no_grad():
            for step in range(COUNT):
                if protocol == "one batch":
                    trace.step(step, COUNT, conditional_rows=ROWS, cfg_scale=g)
                    x = sample(step)
                    predict(torch.cat([x, x]), step, torch.cat([TEXTS["u"], TEXTS["c"]]))
                    continue
                for branch, name in (("c", "conditional"), ("u", "unconditional")):
                    trace.step(step, COUNT, branch=name, cfg_scale=g)
                    predict(sample(step), step, TEXTS[branch])
    assert set(column(trace, "effective_cfg_scale").ravel()) == {g}
    assert set(column(trace, "correction_norm").ravel()) == {0.0}
    lengths = [np.linalg.norm(flat(clean(s, "c") - clean(s, "u")), axis=1) for s in range(COUNT)]
    np.testing.assert_allclose(column(trace, "text_norm"), lengths, rtol=REL)


@pytest.mark.parametrize("protocol", ["one batch", "guider"])
def test_without_cfg_there_is_a_correction_and_no_effective_scale(protocol):
    trace = traced(protocol, [seg()], g=1)
    for step in range(COUNT):
        c, other = flat(clean(step, "c")), flat(perturbed("seg", step, "c"))
        ratio = 3.0 * np.linalg.norm(c - other, axis=1) / np.linalg.norm(c, axis=1)
        found = column(trace, "correction_relative_norm")[step]
        np.testing.assert_allclose(found, ratio, rtol=REL)
    assert "effective_cfg_scale" not in trace.steps


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_where_a_rule_takes_cfg_away_the_scale_is_1_or_unknown(protocol):
    off = seg(steps="0:0.34")
    rule = GuidanceInterval("0.5:1")
    trace = traced(protocol, [rule, off])
    found = column(trace, "effective_cfg_scale")
    # Steps 0 to 2 are without CFG; seg acts in steps 0 to 2 of 0/6, 1/6, 2/6.
    acts = column(trace, "correction_norm") > 0
    assert acts[:3].all() and not acts[3:].any()
    assert np.isnan(found[:3]).all()
    assert set(found[3:].ravel()) == {G}
    assert trace.per_picture()["effective_cfg_scale"].isna().all()
    alone = traced(protocol, [rule])
    assert column(alone, "effective_cfg_scale").tolist() == [[1.0] * ROWS] * 3 + [[G] * ROWS] * 3
    assert alone.per_picture()["effective_cfg_scale"].tolist() == pytest.approx([(1 + G) / 2] * 2)


@pytest.mark.parametrize(
    ("guidances", "g", "expected"),
    [
        ([seg()], G, [3] * COUNT),
        ([seg(), pag_up()], G, [4] * COUNT),
        ([seg(every=3)], G, [3, 2, 2, 3, 2, 2]),
        ([seg(steps="begin")], G, [3, 3, 2, 2, 2, 2]),
        ([GuidanceInterval("0.5:1"), seg(steps="all")], G, [2, 2, 2, 3, 3, 3]),
    ],
)
@pytest.mark.parametrize("protocol", ["one batch", "two calls"])
def test_evaluations_are_counted(protocol, guidances, g, expected):
    trace = traced(protocol, guidances, g=g)
    assert column(trace, "evaluations")[:, 0].tolist() == expected
    table = trace.per_picture()
    assert table["evaluations"].tolist() == [sum(expected)] * ROWS
    assert table["steps"].tolist() == [COUNT] * ROWS
    assert (column(trace, "seconds") > 0).all()


def test_the_position_is_known_as_far_as_it_was_told():
    trace = traced("one batch", [seg()])
    assert column(trace, "index")[:, 0].tolist() == list(range(COUNT))
    assert set(column(trace, "count").ravel()) == {COUNT}
    assert (np.diff(column(trace, "sigma")[:, 0]) < 0).all()
    with Trace(unet(), layers=(), metrics=()) as untold, torch.no_grad():
        predict(sample(0), 0, TEXTS["c"])
    assert untold.steps[["index", "sigma", "cfg_scale"]].isna().all(axis=None)
    assert untold.steps["prediction_norm"].tolist() == pytest.approx(
        np.linalg.norm(flat(clean(0, "c")), axis=1).tolist(), rel=REL
    )


def test_samples_do_not_depend_on_what_is_beside_them():
    together = traced("one batch", [seg()])
    alone = {}
    for kept in range(ROWS):
        with Trace(unet(), layers="mid", metrics=["frobenius_norm"]) as trace:
            attachment = seg().attach(unet())
            for step in range(COUNT):
                attachment.step(step, COUNT, conditional_rows=1, cfg_scale=G)
                x, rows = sample(step)[kept : kept + 1], slice(kept, kept + 1)
                text = torch.cat([TEXTS["u"][rows], TEXTS["c"][rows]])
                with torch.no_grad():
                    predict(torch.cat([x, x]), step, text)
            attachment.detach()
        alone[kept] = trace.steps
    for kept, steps in alone.items():
        beside = together.steps[together.steps["sample"] == kept]
        for name in ("effective_cfg_scale", "correction_norm", "seg.cosine"):
            np.testing.assert_allclose(beside[name], steps[name], rtol=REL)
    scales = column(together, "effective_cfg_scale")
    assert abs(scales[:, 0] - scales[:, 1]).max() > 0.01


def test_means_of_a_picture_are_over_its_own_steps():
    trace = traced("one batch", [seg(steps="begin")])
    table = trace.per_picture()
    for row in range(ROWS):
        means = column(trace, "effective_cfg_scale")[:, row].mean()
        assert table["effective_cfg_scale"].iloc[row] == pytest.approx(means)
        norms = column(trace, "correction_relative_norm")[:, row]
        assert table["correction_relative_norm"].iloc[row] == pytest.approx(norms.mean())
        acted = column(trace, "seg.cosine")[:2, row]
        assert table["seg.cosine"].iloc[row] == pytest.approx(acted.mean())
    assert table["guided_steps"].tolist() == [2] * ROWS
    assert table.index.tolist() == [(0, row) for row in range(ROWS)]
    assert math.isnan(column(trace, "seg.cosine")[3, 0])
    summary = trace.summary()
    expected = table["effective_cfg_scale"]
    assert summary.loc["effective_cfg_scale", "mean"] == pytest.approx(expected.mean())
    assert summary.loc["effective_cfg_scale", "max"] == pytest.approx(expected.max())
