"""The embedded model, drawn by workers as they are: pictures don't depend on how they are drawn."""

import json
import random

import pytest

from smoothed_energy.report import read_settings
from smoothed_energy.sweeps import Results, Sweep, run

SWEEP = Sweep(
    name="embedded",
    prompts=["", "a portrait of someone with glasses"],
    seeds="0-1",
    base={"num_inference_steps": 2, "size": "48x48"},
    axes=[{"cfg": [1, 4]}, {"guidance": ["none", "seg; blur=gaussian:inf; layers=mid"]}],
    trace=True,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, content):
    """The folders of a run with two workers and batches of 4, and of one with one and singles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smoothed_energy.sweeps.local._START", "spawn")
        folders = []
        for workers, batch_size in ((2, 4), (1, 1)):
            folders.append(tmp_path_factory.mktemp("run"))
            assert run(SWEEP, folders[-1], workers=workers, batch_size=batch_size).complete
    return folders


def test_workers_and_batch_size_change_no_byte(runs, content):
    first, second = map(content, runs)
    assert len(first[0]) == 16
    assert first == second
    assert (runs[0] / "pictures.parquet").read_bytes() == (
        runs[1] / "pictures.parquet"
    ).read_bytes()
    assert len({*first[0].values()}) == 16


def test_a_run_that_was_cut_anywhere_ends_the_same(runs, content):
    """Pictures that are missing are drawn in other company than the first time."""
    before = content(runs[1])
    paths = sorted(runs[1].glob("pictures/*/*.png"))
    chosen = random.Random(0).sample(paths, 5)
    for path in chosen[:3]:
        path.unlink()
    for path in chosen[3:]:
        path.write_bytes(path.read_bytes()[:-100])
    assert run(SWEEP, runs[1], workers=1, batch_size=3).complete
    assert content(runs[1]) == before


def test_results_tell_what_was_drawn(runs):
    results = Results.open(runs[0])
    table = results.pictures
    assert [*table.columns] == [
        "id",
        "configuration",
        "cfg",
        "guidance",
        "prompt",
        "seed",
        "path",
        "width",
        "height",
        "effective_cfg_scale",
        "guided_steps",
        "relative_correction",
    ]
    assert {*table["width"]} == {48}
    guided = table["guidance"] != "none"
    assert {*table.loc[guided, "guided_steps"]} == {2}
    plain = table[~guided & (table["prompt"] != "")]
    assert {*plain.loc[plain["cfg"] == 4, "effective_cfg_scale"]} == {4.0}
    assert plain.loc[plain["cfg"] == 1, "effective_cfg_scale"].isna().all()  # there is no CFG
    assert (table.loc[guided, "relative_correction"] > 0).all()
    assert [*results.configurations["configuration"]] == [
        one.label for one in results.plan.configurations
    ]
    label = results.plan.configurations[3].label
    paths = results.paths(label)
    assert paths == results.paths(3) == results.paths(results.plan.configurations[3])
    memory = [read_settings(path) for path in paths]
    assert [(one["prompt"], one["seed"]) for one in memory] == [
        (prompt, seed) for prompt in SWEEP.prompts for seed in SWEEP.seeds
    ]
    assert memory[0]["settings"]["cfg"] == 4.0 and memory[0]["made_with"]["device"] == "cpu"
    with pytest.raises(KeyError, match="no configuration 'x'; there are"):
        results.paths("x")
    assert json.loads((runs[0] / "sweep.json").read_text())["sweep"]["seeds"] == "0-1"
