"""A sweep's file: what it may hold, and what is said of mistakes."""

import json

import pytest

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.sweeps import Sweep, SweepError, plan, read_sweep

WHOLE = """
name: kernel-size
model: avatars
dtype: float32
device: cpu
prompts: prompts.txt
seeds: 0-2,9
pairs: product
base:
  guidance: seg; layers=mid
  guidance.steps: 0:0.33
  cfg: 3
  size: 96x64
  scheduler: EulerDiscreteScheduler
axes:
  - guidance.blur: ["gaussian:1", gaussian:inf]
  - guidance.scale: [1, 3]
    num_inference_steps: [10, 20]
list:
  - {guidance: none, guidance.steps: all, label: plain}
metrics: [frechet]
against: some/folder
trace: true
output: out/here
"""


def test_a_whole_file_is_read(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    path = tmp_path / "sweep.yaml"
    path.write_text(
        WHOLE.replace("{guidance: none, guidance.steps: all, label: plain}", "{cfg: 1}")
    )
    sweep = read_sweep(path)
    assert sweep.prompts == ("a cat", "a dog")
    assert sweep.seeds == (0, 1, 2, 9)
    assert (sweep.metrics, sweep.against, sweep.trace) == (("frechet",), "some/folder", True)
    found = plan(sweep)
    first, last = found.configurations[0].settings, found.configurations[3].settings
    assert str(first.guidance[0].steps) == str(SmoothedEnergyGuidance(steps="0:0.33").steps)
    assert (first.num_inference_steps, last.num_inference_steps) == (10, 20)
    assert (first.size, first.cfg, first.scheduler) == ((96, 64), 3.0, "EulerDiscreteScheduler")
    assert last.guidance[0] == SmoothedEnergyGuidance(
        scale=3, layers="mid", steps="0:0.33", blur="gaussian:inf"
    )
    assert len(found) == 5 * 2 * 4


def test_a_sweep_in_python_is_the_same_as_in_a_file(tmp_path):
    text = "name: a\nseeds: 0-1\naxes: [{guidance: [none, seg; scale=2]}]"
    guidance = SmoothedEnergyGuidance(scale=2)
    made = Sweep(name="a", seeds=[0, 1], axes=[{"guidance": ["none", guidance]}])
    assert plan(Sweep.from_yaml(text)).row(3).id == plan(made).row(3).id


def test_what_is_stored_reads_back(tmp_path):
    sweep = Sweep(name="a", prompts=["x"], seeds="0-9", list=[{"guidance": ["seg", "pag"]}])
    stored = json.loads(json.dumps(sweep.model_dump(mode="json", by_alias=True)))
    assert stored["seeds"] == "0-9"
    assert Sweep.model_validate(stored) == sweep


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1", "'seed' is not a key of a sweep; did you mean 'seeds'?"),
        ("axis: []", "'axis' is not a key of a sweep; did you mean 'axes'?"),
        ("name: a", "seeds: Field required"),
        ("name: a b\nseeds: 1", "name: String should match"),
        ("name: a\nseeds: x", "seeds: seeds='x': 'x' is no seed"),
        ("name: a\nseeds: 1\ndtype: half", "dtype: Input should be 'auto'"),
        ("name: a\nseeds: 1\npairs: both", "pairs: Input should be 'product' or 'zip'"),
        ("name: a\nseeds: 1\nprompts: []", "prompts: there are none"),
        ("name: a\nseeds: 1\nprompts: no.txt", "prompts: 'no.txt' is not a file of prompts"),
        ("name: a\nseeds: 1\ntrace: 3", "trace: Input should be a valid boolean"),
        (
            "name: a\nseeds: 1\nbase: {guidance.lairs: mid}",
            "base: 'guidance.lairs' is not a setting of a picture; did you mean 'guidance.layers'?",
        ),
        (
            "name: a\nseeds: 1\naxes: [{cfg: [1]}, {steps: [1]}]",
            "axes: 1: 'steps' is not a setting of a picture; did you mean 'guidance.steps'?",
        ),
        ("name: a\nseeds: 1\nlist: [{cgf: 1}]", "list: 0: 'cgf' is not a setting"),
        ("name: a\nseeds: 1\naxes: [{cfg: 3}]", "axes.0.cfg: Input should be a valid list; got 3"),
        ("- name", "expected keys and values"),
        ("", "expected keys and values"),
    ],
)
def test_a_mistake_is_told_with_its_place(text, message):
    with pytest.raises(SweepError) as caught:
        Sweep.from_yaml(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_blank_line_among_prompts_is_refused(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    with pytest.raises(SweepError, match=r"prompts.txt: line 2 is blank"):
        Sweep.from_yaml("name: a\nseeds: 1\nprompts: prompts.txt", tmp_path)


def test_a_wrong_key_in_python_is_told_too():
    with pytest.raises(ValueError, match="did you mean 'prompts'"):
        Sweep(name="a", seeds="1", prompt=["x"])
