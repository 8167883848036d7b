"""The GPU's command, rehearsed on a CPU: render, encode, train, resume, bring back, load."""

import dataclasses
import json
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers")
pytest.importorskip("resvg_py")

from safetensors.torch import save_file
from training.autoencoder import build_autoencoder
from training.checkpoint import load_checkpoint
from training.dataset import read_captions
from training.drawing import draw_split
from training.export import assemble_from, export
from training.networks import build_scheduler, build_text_encoder, build_unet, train_tokenizer
from training.packing import packed_records, write_pack
from training.recipes import RECIPES
from training.rendering import pack_drawings, render_split
from training.start import adopt, read_weights, write_weights
from training.styles import BACKGROUNDS, STYLES

from smoothed_energy.models import load
from training import autoencoder, drawing, gpu, rendering
from training import export as export_command
from training import train as training_command


def draw(folder, request):
    """What the drawing script answers: a circle on a ground, and the attributes they have."""
    drawn = []
    for job in request["jobs"]:
        style, rng = STYLES[job["style"]], random.Random(job["seed"])
        colors = {key: "#" + rng.choice(list(p.values())) for key, p in style.colors.items()}
        ground = "#" + rng.choice(list(BACKGROUNDS.values()))
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
            f'<rect width="32" height="32" fill="{ground}"/>'
            f'<circle cx="16" cy="16" r="10" fill="{colors[style.skin]}"/></svg>'
        )
        attributes = colors | {"primaryBackgroundColor": ground, "backgroundRotation": 7}
        drawn.append(
            {"style": style.name, "seed": job["seed"], "svg": svg, "attributes": attributes}
        )
    return drawn


@pytest.fixture
def no_node(monkeypatch):
    """Drawings without Node.js, in this process."""
    for module in (drawing, rendering):
        monkeypatch.setattr(module, "drawer", draw)
        monkeypatch.setattr(module, "install_drawer", lambda folder: folder)
        monkeypatch.setattr(module, "ProcessPoolExecutor", ThreadPoolExecutor)


@pytest.fixture
def packs(no_node, tmp_path, monkeypatch):
    monkeypatch.setattr(rendering, "PACK", 10)
    monkeypatch.setattr(rendering, "REQUEST", 4)
    counts = {"heldout": 8, "train": 24}
    pack_drawings(tmp_path / "packs", counts, install=tmp_path / "dicebear", processes=1)
    return tmp_path / "packs"


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    """A tiny pipeline of 32 pixels, of the recipe `tiny`."""
    recipe = dataclasses.replace(
        RECIPES["cpu"],
        image_size=32,
        autoencoder_channels=(8, 8, 16),
        channels=(16, 32),
        heads=1,
        down_layers=(1,),
        up_layers=(1, 1),
        text_width=64,
        batch=4,
    )
    monkeypatch.setitem(RECIPES, "tiny", recipe)
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a red mohawk, a teal background"] * 5, vocabulary=700)
    vae = build_autoencoder(recipe)
    vae.register_to_config(scaling_factor=0.5)
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=build_text_encoder(recipe, tokenizer),
        tokenizer_2=tokenizer,
        unet=build_unet(recipe),
        scheduler=build_scheduler(),
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    export(pipe, tmp_path / "pipeline")
    return tmp_path / "pipeline"


class TestPacks:
    def test_records_come_back_as_they_were(self, tmp_path):
        records = [
            {"svg": f"<svg><g fill='{i % 3}'/>é</svg>", "style": "dylan", "attributes": {"a": i}}
            for i in range(300)
        ]
        write_pack(tmp_path / "a.pack", records)
        assert packed_records(tmp_path / "a.pack") == records

    def test_drawings_of_the_same_elements_take_few_bytes(self, tmp_path):
        records = draw(None, {"jobs": drawing.jobs("train", 0, 1000, list(STYLES))})
        for record in records:
            del record["seed"]
        assert write_pack(tmp_path / "a.pack", records) < 20_000

    def test_another_file_is_refused(self, tmp_path):
        (tmp_path / "a.pack").write_bytes(b"<svg/>")
        with pytest.raises(ValueError, match=r"a\.pack is not a pack"):
            packed_records(tmp_path / "a.pack")

    def test_another_version_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr("training.packing.VERSION", 2)
        write_pack(tmp_path / "a.pack", [{"svg": "<svg/>"}])
        monkeypatch.undo()
        with pytest.raises(ValueError, match="version 2; expected 1"):
            packed_records(tmp_path / "a.pack")


class TestRendering:
    def test_packed_drawings_are_those_of_the_drawing_command(self, packs, tmp_path):
        drawn, rendered = tmp_path / "drawn", tmp_path / "rendered"
        drawn.mkdir()
        pixels = np.load(draw_split(drawn, "train", 24, size=32, styles=list(STYLES)))
        again = np.load(render_split(packs, rendered, "train", size=32, processes=1))
        assert np.array_equal(pixels, again)
        assert len(np.unique(again.reshape(24, -1), axis=0)) > 12
        for found, wanted in zip(
            read_captions(rendered / "train-32.jsonl"),
            read_captions(drawn / "train-32.jsonl"),
            strict=True,
        ):
            assert found == wanted

    def test_packs_of_other_portraits_are_not_mixed(self, packs, tmp_path):
        with pytest.raises(ValueError, match="'seed': 3"):
            pack_drawings(packs, {"heldout": 8, "train": 24}, install=tmp_path, seed=3)

    def test_a_missing_pack_is_named(self, packs, tmp_path):
        (packs / "train-0000010.pack").unlink()
        with pytest.raises(ValueError, match=r"lacks train-0000010\.pack"):
            render_split(packs, tmp_path / "rendered", "heldout", size=32)

    def test_a_missing_renderer_is_named(self, packs, tmp_path, monkeypatch):
        monkeypatch.setattr(rendering.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(RuntimeError, match="needs resvg-py, which is not installed"):
            render_split(packs, tmp_path / "rendered", "train", size=32)


class TestWeights:
    def test_many_files_are_read_as_one(self, tmp_path):
        weights = {
            name: {f"{name}.{i}": torch.full((50, 50), float(i)) for i in range(9)}
            for name in ("unet", "text_encoder")
        }
        files = write_weights(tmp_path, weights, limit=20_000)
        assert len(files) > 4
        assert max(path.stat().st_size for path in files) < 20_000
        for name, found in read_weights(tmp_path).items():
            assert found.keys() == weights[name].keys()
            for key, value in found.items():
                assert torch.equal(value, weights[name][key])
        write_weights(tmp_path, weights)
        assert len(list(tmp_path.rglob("*.safetensors"))) == 2, "no file of the first time is left"

    def test_a_tensor_above_the_limit_is_refused(self, tmp_path):
        weights = {"unet": {"a": torch.zeros(100, 100)}, "text_encoder": {}}
        with pytest.raises(ValueError, match="expected less than 5000"):
            write_weights(tmp_path, weights, limit=5000)

    def test_folders_without_weights_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="has no safetensors"):
            read_weights(tmp_path)

    def test_weights_of_another_size_name_a_tensor(self, pipeline):
        weights = read_weights(pipeline)
        weights["unet"]["conv_in.weight"] = torch.zeros(1)
        tokenizer = load(pipeline).tokenizer_2
        trainer = gpu.JointTrainer(RECIPES["tiny"], tokenizer)
        with pytest.raises(ValueError, match=r"1 tensors differ.*conv_in\.weight: expected \(16"):
            trainer.start_from(weights)

    def test_a_run_with_another_tokenizer_is_not_taken_over(self, pipeline, tmp_path):
        run = tmp_path / "run"
        adopt(pipeline, run)
        adopt(pipeline, run)
        (run / "tokenizer_2" / "vocab.json").write_text("{}")
        with pytest.raises(ValueError, match="another tokenizer"):
            adopt(pipeline, run)


def test_the_command_trains_in_pieces_and_brings_loadable_weights_back(
    packs, pipeline, tmp_path, monkeypatch, capsys
):
    def call(*more):
        settings = {
            "--recipe": "tiny",
            "--device": "cpu",
            "--processes": 1,
            "--measure": 6,
            "--drawings": packs,
            "--out": tmp_path / "out",
            "--folder": tmp_path / "training",
            "--from-pipeline": pipeline,
            "--time-budget": 2,
            "--piece": 0.4,
        }
        gpu.main([*(str(word) for pair in settings.items() for word in pair), *more])

    run = tmp_path / "training" / "tiny"
    monkeypatch.setattr(gpu, "RESERVE", 21.0)
    call()
    first = load_checkpoint(run / "latest.pt")
    assert first["step"] > 0
    assert 0 < first["elapsed"] < 30
    assert np.load(tmp_path / "training" / "train-32.npy").shape == (24, 32, 32, 3)
    assert np.load(run / "latents.npy").shape == (24, 4, 8, 8)
    averaged = read_weights(tmp_path / "out" / "averaged")

    call()
    assert f"resumed at step {first['step']}" in capsys.readouterr().out
    second = load_checkpoint(run / "latest.pt")
    assert second["step"] > first["step"]
    assert second["elapsed"] > first["elapsed"]

    out = tmp_path / "out"
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) <= gpu.FILES
    assert max(path.stat().st_size for path in files) < gpu.FILE_BYTES
    assert {"loss.jsonl", "heldout.jsonl"} >= {p.name for p in files if p.suffix == ".jsonl"}
    assert (out / "heldout.jsonl").exists()
    later = read_weights(out / "averaged")
    assert any(not torch.equal(later["unet"][k], v) for k, v in averaged["unet"].items())

    export(assemble_from(pipeline, out / "averaged"), tmp_path / "made")
    pipe = load(tmp_path / "made", device="cpu")
    value = pipe.unet.state_dict()["conv_in.weight"]
    assert torch.equal(value, later["unet"]["conv_in.weight"])
    images = pipe("a portrait", num_inference_steps=2, output_type="np").images
    assert images.shape == (1, 32, 32, 3)
    assert np.isfinite(images).all()

    # A machine that kept nothing starts from what came back.
    monkeypatch.setattr(gpu, "train", lambda trainer, *rest, **settings: None)
    call("--folder", str(tmp_path / "fresh"), "--weights", str(out / "weights"))
    raw = second["unet"]["conv_in.weight"].half().float()
    assert torch.equal(read_weights(out / "averaged")["unet"]["conv_in.weight"], raw)


def test_an_autoencoder_of_its_own_goes_with_no_weights(tmp_path, capsys):
    with pytest.raises(SystemExit):
        gpu.main(
            ["--drawings", "a", "--out", "b", "--autoencoder", "1", "--weights", str(tmp_path)]
        )
    assert "another autoencoder" in capsys.readouterr().err


def test_a_folder_without_packs_is_answered_in_a_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--drawings", str(tmp_path), "--out", str(tmp_path), "--folder", str(tmp_path)])
    assert "has no drawings.json" in capsys.readouterr().err.splitlines()[-1]


def test_too_many_weights_to_bring_back_are_refused(pipeline, tmp_path, monkeypatch):
    trainer = gpu.JointTrainer(RECIPES["tiny"], load(pipeline).tokenizer_2)
    trainer.start_from(read_weights(pipeline))
    size = sum(p.stat().st_size for p in gpu.bring_back(trainer, tmp_path, tmp_path / "a"))
    monkeypatch.setattr(gpu, "BYTES", size - 1)
    gpu.bring_back(trainer, tmp_path, tmp_path / "b")
    assert not (tmp_path / "b" / "weights").exists(), "the averages come first"
    assert (tmp_path / "b" / "averaged").exists()
    monkeypatch.setattr(gpu, "BYTES", 1000)
    with pytest.raises(ValueError, match="to bring back; expected at most 8 of 1000"):
        gpu.bring_back(trainer, tmp_path, tmp_path / "c")


def test_weights_of_a_pipeline_folder_are_read_where_they_are_split(pipeline, tmp_path):
    whole = read_weights(pipeline)
    place = pipeline / "unet"
    (place / "diffusion_pytorch_model.safetensors").unlink()
    names = list(whole["unet"])
    for number, part in enumerate((names[:5], names[5:])):
        save_file({n: whole["unet"][n] for n in part}, place / f"{number}.safetensors")
    assert read_weights(pipeline)["unet"].keys() == whole["unet"].keys()


def test_a_run_is_started_from_a_pipeline_and_its_weights_are_taken_along(
    pipeline, no_node, tmp_path, capsys
):
    """The commands of `training/checkpoint`: encode, train, write weights, go on from these."""
    folder = tmp_path / "training"
    folder.mkdir()
    for split, count in (("train", 12), ("heldout", 6)):
        draw_split(folder, split, count, size=32, styles=list(STYLES), processes=1)
    common = ["--recipe", "tiny", "--folder", str(folder)]
    started = ["--from-pipeline", str(pipeline)]
    autoencoder.main([*common, *started, "--device", "cpu", "--encode", "12"])
    assert json.loads((folder / "tiny" / "latents.json").read_text())["std"] == 2.0
    assert len(np.load(folder / "tiny" / "latents.npy")) == 12

    budget = ["--device", "cpu", "--time-budget", "0.01", "--measure", "6"]
    training_command.main([*common, *started, *budget])
    export_command.main([*common, "--weights-only", "--to", str(tmp_path / "weights")])
    found = read_weights(tmp_path / "weights")
    state = load_checkpoint(folder / "tiny" / "latest.pt")
    trainer = gpu.JointTrainer(RECIPES["tiny"], load(pipeline).tokenizer_2)
    trainer.load_state(state)
    trainer.average.swap()
    expected = trainer.unet.state_dict()["conv_in.weight"].half().float()
    assert torch.equal(found["unet"]["conv_in.weight"], expected)

    for name in ("latest.pt", "plateau.pt", "heldout.jsonl"):
        (folder / "tiny" / name).unlink(missing_ok=True)
    capsys.readouterr()
    training_command.main([*common, *started, *budget, "--weights", str(tmp_path / "weights")])
    assert f"started from the weights in {tmp_path / 'weights'}" in capsys.readouterr().out
    first = json.loads((folder / "tiny" / "heldout.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0
    export_command.main([*common, "--to", str(tmp_path / "made")])
    images = load(tmp_path / "made", device="cpu")(
        "a portrait", num_inference_steps=1, output_type="np"
    ).images
    assert np.isfinite(images).all()


def test_weights_and_their_pipeline_are_given_together(tmp_path, capsys):
    for command in (training_command, export_command):
        with pytest.raises(SystemExit):
            command.main(
                ["--weights", str(tmp_path), *(["--to", "a"] * (command is export_command))]
            )
        assert "--from-pipeline" in capsys.readouterr().err
