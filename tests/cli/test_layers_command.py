"""``smoothed-energy layers`` on small pipelines."""

from __future__ import annotations

import json

import pytest
from tiny_sd3 import sd3

from smoothed_energy.families.registry import _families


def listing(run, *arguments):
    code, out, err = run("layers", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_every_layer_is_in_the_table_on_a_line(run, model):
    code, out, err = run("layers", model, "--size", "48x24")
    assert code == 0, err
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.split()}
    module = "mid_block.attentions.0.transformer_blocks.1.attn1"
    assert rows["m1"] == ["m1", "m0.1", "mid", module, "6x3", "18", "4", "32"]
    assert {"d0", "d1", "m0", "m1", "u0", "u3"} <= rows.keys()


def test_the_size_is_the_model_s_own_by_default(run, model):
    assert listing(run, model)["size"] == [32, 32]


def test_json_holds_what_the_table_holds(run, model):
    result = listing(run, model, "--size", "64x32")
    assert result["denoiser"] == "UNet2DConditionModel"
    assert [row["code"] for row in result["layers"]] == [
        "d0",
        "d1",
        "m0",
        "m1",
        "u0",
        "u1",
        "u2",
        "u3",
    ]
    assert result["layers"][-1] == {
        "code": "u3",
        "dotted": "u1.1",
        "part": "up",
        "module": "up_blocks.0.attentions.1.transformer_blocks.1.attn1",
        "grid": [8, 4],
        "tokens": 32,
        "heads": 4,
        "width": 32,
    }


def test_a_selection_lists_only_its_layers(run, model):
    rows = listing(run, model, "--select", "mid,d1")["layers"]
    assert [row["code"] for row in rows] == ["d1", "m0", "m1"]


def test_a_pipeline_without_autoencoder_has_pixels_for_cells(run, unconditional_model):
    result = listing(run, unconditional_model)
    assert result["size"] == [16, 16]
    assert result["layers"][0]["grid"] == [8, 8]


def test_no_weights_are_read(run, model, tmp_path):
    import shutil

    folder = tmp_path / "shape"
    shutil.copytree(model, folder)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    assert listing(run, folder)["layers"] == listing(run, model)["layers"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "30x30"), "multiples of 8"),
        (("--select", "x"), "'x'"),
    ],
)
def test_mistakes_are_one_line(run, model, arguments, message):
    code, out, err = run("layers", model, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_model_without_self_attention_is_refused(run, convolutional_model):
    code, _, err = run("layers", convolutional_model)
    assert code == 2
    assert "no self-attention" in err


def test_a_folder_that_is_no_pipeline_is_refused(run, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = run("layers", "./empty")
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_an_index_of_another_form_is_refused(run, tmp_path):
    (tmp_path / "model_index.json").write_text("[]")
    code, _, err = run("layers", ".")
    assert code == 2
    assert err == "error: .: model_index.json is not an object with the model's parts\n"


def test_no_name_is_no_model(run):
    code, _, err = run("layers", "")
    assert code == 2
    assert err.startswith("error: no model '': ")


@pytest.mark.parametrize("name", ["-owner/name", "owner/.name", "owner/name/part", "owner/"])
def test_what_is_no_hub_id_is_no_model(run, name):
    code, _, err = run("layers", "--", name)
    assert code == 2
    assert err.startswith(f"error: no model {name!r}: ")


@pytest.fixture(scope="module")
def transformer_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd3")
    sd3(dual=True).save_pretrained(folder)
    return str(folder)


def test_transformers_have_blocks_and_thirds(run, transformer_model):
    result = listing(run, transformer_model, "--size", "96x64")
    assert [row["code"] for row in result["layers"]] == ["b0", "b1", "b2", "b3", "b4", "b5"]
    assert [row["dotted"] for row in result["layers"]][:4] == ["b0.0", "b0.1", "b1.0", "b1.1"]
    assert [row["part"] for row in result["layers"]] == ["down"] * 4 + ["mid", "up"]
    assert result["layers"][3] == {
        "code": "b3",
        "dotted": "b1.1",
        "part": "down",
        "module": "transformer_blocks.1.attn2",
        "grid": [6, 4],
        "tokens": 24,
        "heads": 4,
        "width": 32,
    }


def test_frames_of_a_model_of_pictures_are_refused(run, transformer_model):
    code, _, err = run("layers", transformer_model, "--frames", "3")
    assert code != 0
    assert "--frames 3" in err


def test_a_denoiser_of_no_family_is_looked_at(run, unconditional_model, registries):
    known = listing(run, unconditional_model)["layers"]
    _families.clear()
    code, out, err = run("layers", unconditional_model, "--json")
    assert code == 0, err
    assert "no family knows a UNet2DModel" in err
    found = {row["module"]: row["grid"] for row in json.loads(out)["layers"]}
    assert found.items() <= {row["module"]: row["grid"] for row in known}.items()
    assert found


def test_what_can_t_be_looked_at_is_refused(run, model, registries, monkeypatch):
    _families.clear()
    code, _, err = run("layers", model)
    assert code != 0
    assert "it can't be called with sample, timestep, encoder_hidden_states alone" in err
    monkeypatch.setattr("smoothed_energy.cli.looked_at.MOST_PARAMETERS", 10)
    code, _, err = run("layers", model)
    assert code != 0
    assert "too large to be looked at here" in err
