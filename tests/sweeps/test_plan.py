"""Rows and their ids: the digest of all that determines a picture, and of nothing else."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fake_sampler import small_sweep
from hypothesis import given
from hypothesis import strategies as st

from smoothed_energy.models import ModelError, model_folder
from smoothed_energy.sweeps import Sweep, SweepError, plan
from smoothed_energy.sweeps.identity import identity_of, row_id
from smoothed_energy.sweeps.weights import folder_digest, model_digest

BASE = {"name": "a", "seeds": "0-1", "prompts": ["x"], "base": {"guidance": "seg"}}


def ids(identity=None, **changes):
    return [row.id for row in plan(Sweep(**(BASE | changes)), identity=identity).rows()]


def test_rows_are_sorted_by_configuration_prompt_and_seed():
    found = plan(small_sweep(), drawn_by="fake")
    rows = [*found.rows()]
    assert len(found) == len(rows) == 18 and found.pictures_each == 6
    assert [(row.configuration, row.prompt, row.seed) for row in rows] == [
        (number, prompt, seed)
        for number in range(3)
        for prompt in ("", "a cat")
        for seed in range(3)
    ]
    assert [row.index for row in rows] == [*range(18)]
    assert len({row.id for row in rows}) == 18
    assert found.row(7) == rows[7]
    for wrong in (-1, 18):
        with pytest.raises(IndexError):
            found.row(wrong)


def test_pairs_can_be_zipped():
    sweep = small_sweep(prompts=["a", "b", "a"], pairs="zip")
    rows = [*plan(sweep, drawn_by="fake").rows()][:3]
    assert [(row.prompt, row.seed) for row in rows] == [("a", 0), ("b", 1), ("a", 2)]
    with pytest.raises(SweepError, match="there are 2 prompts and 3 seeds"):
        plan(small_sweep(pairs="zip"), drawn_by="fake")
    with pytest.raises(SweepError, match="the prompt 'a' comes twice"):
        plan(small_sweep(prompts=["a", "b", "a"]), drawn_by="fake")


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": ["y"]},
        {"seeds": "5-6"},
        {"dtype": "float64"},
        {"trace": True},
        {"controlnet": "canny", "base": {"guidance": "seg", "control": "edges.png"}},
        {"base": {"guidance": "seg; scale=2"}},
        {"base": {"guidance": "seg", "guidance.steps": "begin"}},
        {"base": {"guidance": ["seg", "pag"]}},
        {"base": {"guidance": "seg", "cfg": 2}},
        {"base": {"guidance": "seg", "num_inference_steps": 31}},
        {"base": {"guidance": "seg", "size": "64x96"}},
        {"base": {"guidance": "seg", "cfg": 2, "negative_prompt": "z"}},
        {"base": {"guidance": "seg", "scheduler": "EulerDiscreteScheduler"}},
    ],
)
def test_an_id_changes_with_what_the_picture_depends_on(changes, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("edges.png")
    assert not {*ids()} & {*ids(**changes)}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"output": "elsewhere"},
        {"metrics": ["frechet"]},
        {"base": {"guidance": "seg; scale=3.0; layers=mid"}},  # the defaults
        {"base": {"guidance": {"method": "seg"}, "cfg": 1}},
        {"base": {}, "axes": [{"guidance": ["seg"], "label": ["x"]}]},
        {"device": "cpu", "dtype": "float32"},
    ],
)
def test_an_id_does_not_change_with_names_and_forms(changes, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert ids() == ids(**changes)


def test_an_id_changes_with_versions_device_and_what_draws():
    sweep = Sweep(**BASE)
    usual = identity_of(sweep, [])
    others = [
        replace(usual, versions={**usual.versions, "diffusers": "0"}),
        replace(usual, device="cuda"),
        replace(usual, model="sha256:0"),
        replace(usual, drawn_by="fake"),
    ]
    found = [ids(identity)[0] for identity in (usual, *others)]
    assert len({*found}) == 5


def test_a_folder_of_the_same_weights_is_the_same_model(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(model_folder("avatars"), copy)
    assert model_digest(copy) == model_digest("avatars")
    assert ids() == ids(model=str(copy))
    (copy / "README.md").write_text("words")
    (copy / "controlnets" / "canny" / "config.json").write_text("{}")
    assert model_digest(copy) == model_digest("avatars")  # no part of the pipeline
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert model_digest(copy) != model_digest("avatars")
    assert not {*ids()} & {*ids(model=str(copy))}


def test_digests_of_large_files_are_remembered(tmp_path, monkeypatch):
    import hashlib

    first = model_digest("avatars")
    assert (tmp_path / "cache" / "smoothed-energy" / "digests.json").is_file()
    sizes = []
    sha256 = hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda *data: sizes.append(data) or sha256(*data))
    assert model_digest("avatars") == first
    # One of the whole, and the small files: no digest that is fed block by block for a large one.
    assert sum(not data for data in sizes) == 1


def test_a_control_picture_counts_by_its_content(tmp_path):
    from PIL import Image

    for name, colour in (("one", 0), ("same", 0), ("other", 255)):
        Image.new("L", (8, 8), colour).save(tmp_path / f"{name}.png")

    def with_control(name):
        base = {"guidance": "seg", "control": str(tmp_path / f"{name}.png")}
        return ids(controlnet="canny", base=base)

    assert with_control("one") == with_control("same") != with_control("other")
    with pytest.raises(SweepError, match="expected both or neither"):
        ids(controlnet="canny")


def test_a_weaker_denoiser_counts_by_its_content(tmp_path):
    for name in ("one", "same"):
        shutil.copytree(model_folder("avatars") / "unet", tmp_path / name)

    def with_weak(name):
        return ids(base={"guidance": f'autoguidance; weak="{tmp_path / name}"'})

    assert with_weak("one") == with_weak("same")
    (tmp_path / "same" / "config.json").write_text(
        (tmp_path / "one" / "config.json").read_text() + " "
    )
    assert with_weak("one") != with_weak("same")
    assert folder_digest(tmp_path / "one").startswith("sha256:")


def test_a_model_of_the_hub_counts_by_its_commit(tmp_path, monkeypatch):
    from huggingface_hub import HfApi, constants

    class Info:
        sha = "abc"

    monkeypatch.setattr(HfApi, "model_info", lambda self, name, timeout: Info)
    assert model_digest("owner/name") == "commit:abc"

    def unreachable(self, name, timeout):
        raise ConnectionError("no network")

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"'owner/name' is not known: .*no network"):
        model_digest("owner/name")
    refs = tmp_path / "models--owner--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("def\n")
    assert model_digest("owner/name") == "commit:def"


@given(
    st.tuples(st.text(), st.integers(0, 2**63 - 1)), st.tuples(st.text(), st.integers(0, 2**63 - 1))
)
def test_ids_are_equal_only_for_equal_rows(one, other):
    assert (row_id("d", *one) == row_id("d", *other)) == (one == other)
    assert len(row_id("d", *one)) == 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "nothing"}, "no model 'nothing'"),
        (
            {"base": {"guidance": "seg; layers=m99"}},
            "configuration 'base': layers: 'm99' is out of",
        ),
        ({"base": {"guidance": "autoguidance"}}, "needs a weaker denoiser"),
        ({"device": "gpu"}, "device: 'gpu' is none"),
        ({"device": "cuda", "dtype": "auto"}, "dtype: auto can't be told on this machine"),
        ({"controlnet": "canny"}, "expected both or neither"),
    ],
)
def test_what_can_t_be_drawn_is_refused(changes, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SweepError) as caught:
        ids(**changes)
    assert message in str(caught.value)


def test_versions_tell_the_code_that_draws(monkeypatch, tmp_path):
    """Files that draw are all there, and a change of one is another version."""
    from smoothed_energy.sweeps import code

    root = Path(code.__file__).parents[1]
    assert all((root / name).exists() for name in code._DRAWING)
    copy = tmp_path / "smoothed_energy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    monkeypatch.setattr(code, "__file__", str(copy / "sweeps" / "code.py"))
    digest = code.code_digest.__wrapped__
    before = digest()
    assert identity_of(Sweep(**BASE), []).versions["smoothed-energy"].endswith(before[:12])
    page = copy / "report" / "page" / "page.js"
    page.write_text(page.read_text() + "\n")
    assert digest() == before
    method = copy / "methods" / "momentum.py"
    method.write_text(method.read_text() + "\n")
    assert digest() != before
