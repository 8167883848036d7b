"""``smoothed-energy generate`` on small pipelines with random weights."""

from __future__ import annotations

import errno
import json
import os
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smoothed_energy.cli.generate_settings import GenerateSettings
from smoothed_energy.cli.resolve import resolve_settings
from smoothed_energy.report import read_settings, save_image

FAST = ("--num-inference-steps", 3)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def drawn(run, model, tmp_path):
    """Two guided images with a prompt."""
    code, _, err = run("generate", "a red cat", "--model", model, "--count", 2, *FAST)
    assert code == 0, err
    return tmp_path / "out"


class TestImages:
    def test_each_seed_has_a_file_named_after_the_prompt(self, drawn):
        assert files(drawn) == ["a-red-cat-seed0.png", "a-red-cat-seed1.png"]

    def test_the_paths_are_printed(self, run, model):
        code, out, _ = run("generate", "--model", model, "--seed", 7, *FAST)
        assert code == 0
        assert out.split() == ["out/no-prompt-seed7.png"]

    def test_an_image_remembers_every_setting(self, drawn, model):
        settings = read_settings(drawn / "a-red-cat-seed1.png")
        made_with = settings.pop("made_with")
        assert made_with.keys() == {"smoothed-energy", "diffusers", "torch"}
        assert settings == {
            "model": model,
            "prompt": "a red cat",
            "negative_prompt": "",
            "method": "seg",
            "blur": "gaussian:10",
            "scale": 3.0,
            "layers": "mid",
            "steps": "begin",
            "formulation": "conditional",
            "stack": [],
            "cfg": 5.0,
            "num_inference_steps": 3,
            "seed": 1,
            "count": 1,
            "size": None,
            "compare": False,
            "dtype": "auto",
        }

    def test_a_seed_is_the_same_picture_in_any_batch(self, run, model, tmp_path):
        for batch_size in (1, 2, 3):
            code, _, err = run(
                *("generate", "--model", model, "--count", 3, "--batch-size", batch_size),
                *("--steps", "all", "--out", f"batch{batch_size}", *FAST),
            )
            assert code == 0, err
        for seed in range(3):
            one, two, three = (
                pixels(tmp_path / f"batch{size}" / f"no-prompt-seed{seed}.png")
                for size in (1, 2, 3)
            )
            assert abs(one - two).max() <= 1
            assert abs(one - three).max() <= 1

    def test_adaptive_steps_do_not_make_an_image_depend_on_others(self, run, model, tmp_path):
        # The predictions of the first seed agree to more than this in the first step, the others'
        # to less: together they would be guided on.
        steps = ("--steps", "adaptive:0.99993", "--scale", 100, "--num-inference-steps", 4)
        arguments = ("generate", "--model", model, "--batch-size", 3, *steps)
        code, _, err = run(*arguments, "--count", 3, "--out", "three")
        assert code == 0, err
        code, _, err = run(
            "generate", "--from", "three/no-prompt-seed0.png", "--trust", "--out", "one"
        )
        assert code == 0, err
        code, _, err = run(*arguments, "--steps", "all", "--out", "all")
        assert code == 0, err
        three, one, throughout = (
            pixels(tmp_path / folder / "no-prompt-seed0.png") for folder in ("three", "one", "all")
        )
        assert (three == one).all()
        assert abs(three - throughout).max() > 1

    @pytest.mark.parametrize(
        ("options", "sizes"),
        [
            (("--steps", "begin"), [2, 1]),
            (("--steps", "begin+adaptive:0.9"), [1, 1, 1]),
            (("--stack", "pag; steps=adaptive:0.9"), [1, 1, 1]),
            (("--method", "seg; refresh=drift:0.2"), [1, 1, 1]),
            (("--stack", "interval; steps=begin"), [2, 1]),
        ],
    )
    def test_images_with_adaptive_steps_are_drawn_one_by_one(
        self, run, model, monkeypatch, options, sizes
    ):
        from smoothed_energy.cli import generation

        draw, drawn = generation.draw_batch, []

        def note(pipeline, arguments, prompt, seeds, advance):
            drawn.append(len(seeds))
            return draw(pipeline, arguments, prompt, seeds, advance)

        monkeypatch.setattr(generation, "draw_batch", note)
        arguments = ("--model", model, "--count", 3, "--batch-size", 2, *options, *FAST)
        code, _, err = run("generate", *arguments)
        assert code == 0, err
        assert drawn == sizes

    def test_guidance_changes_the_picture_and_scale_zero_does_not(self, run, model, tmp_path):
        for scale in (0, 3, -1):
            code, _, err = run(
                "generate", "--model", model, "--scale", scale, "--out", f"s{scale}", *FAST
            )
            assert code == 0, err
        run("generate", "--model", model, "--compare", "--out", "both", *FAST)
        plain, guided, alone = (
            pixels(tmp_path / f"s{scale}/no-prompt-seed0.png") for scale in (0, 3, -1)
        )
        assert (plain != guided).any()
        assert (plain != alone).any()
        assert (plain == pixels(tmp_path / "both/no-prompt-seed0-unguided.png")).all()
        assert (guided == pixels(tmp_path / "both/no-prompt-seed0-guided.png")).all()

    def test_the_last_seed_of_torch_is_a_seed(self, run, model, tmp_path):
        last = 2**64 - 1
        code, _, err = run("generate", "--model", model, "--seed", last, *FAST)
        assert code == 0, err
        assert files(tmp_path / "out") == [f"no-prompt-seed{last}.png"]

    def test_sizes_are_height_by_width(self, run, model, tmp_path):
        code, _, err = run("generate", "--model", model, "--size", "48x24", *FAST)
        assert code == 0, err
        assert pixels(tmp_path / "out/no-prompt-seed0.png").shape == (48, 24, 3)

    def test_a_pipeline_without_prompts_draws_too(self, run, unconditional_model, tmp_path):
        code, _, err = run("generate", "--model", unconditional_model, "--count", 2, *FAST)
        assert code == 0, err
        assert files(tmp_path / "out") == ["no-prompt-seed0.png", "no-prompt-seed1.png"]

    def test_cfg_is_off_without_a_prompt_unless_asked_for(self, run, model, tmp_path):
        run("generate", "--model", model, *FAST)
        run("generate", "--model", model, "--cfg", 2, "--out", "asked", *FAST)
        assert read_settings(tmp_path / "out/no-prompt-seed0.png")["cfg"] == 1
        assert read_settings(tmp_path / "asked/no-prompt-seed0.png")["cfg"] == 2

    def test_cfg_of_zero_and_of_one_are_both_off(self, run, model, tmp_path):
        for cfg in (0, 1):
            code, _, err = run(
                "generate", "cat", "--model", model, "--cfg", cfg, "--out", cfg, *FAST
            )
            assert code == 0, err
        zero, one = (pixels(tmp_path / folder / "cat-seed0.png") for folder in "01")
        assert (zero == one).all()

    def test_a_negative_prompt_changes_the_picture(self, run, model, tmp_path):
        run("generate", "cat", "--model", model, *FAST)
        run("generate", "cat", "--model", model, "--negative-prompt", "x", "--out", "n", *FAST)
        plain, negative = (pixels(tmp_path / folder / "cat-seed0.png") for folder in ("out", "n"))
        assert (plain != negative).any()


class TestCompare:
    def test_every_seed_is_drawn_twice_and_shown_on_one_sheet(self, run, model, tmp_path):
        code, out, err = run(
            "generate", "cat", "--model", model, "--count", 3, "--batch-size", 2, "--compare", *FAST
        )
        assert code == 0, err
        assert out.split() == ["out/cat-compare.png"]
        assert files(tmp_path / "out") == sorted(
            ["cat-compare.png"]
            + [f"cat-seed{seed}-{kind}.png" for seed in range(3) for kind in ("guided", "unguided")]
        )
        sheet = pixels(tmp_path / "out/cat-compare.png")
        assert sheet.shape[1] > 3 * 144

    def test_a_stacked_guidance_alone_is_compared(self, run, model, tmp_path):
        arguments = ("--model", model, "--scale", 0, "--stack", "pag", "--compare", *FAST)
        code, _, err = run("generate", *arguments)
        assert code == 0, err
        plain = pixels(tmp_path / "out/no-prompt-seed0-unguided.png")
        assert (plain != pixels(tmp_path / "out/no-prompt-seed0-guided.png")).any()

    def test_an_unguided_image_remembers_that_it_is(self, run, model, tmp_path):
        run("generate", "--model", model, "--compare", *FAST)
        assert read_settings(tmp_path / "out/no-prompt-seed0-unguided.png")["scale"] == 0
        assert read_settings(tmp_path / "out/no-prompt-seed0-guided.png")["scale"] == 3


class TestWarnings:
    def test_a_warning_is_one_line_however_often_it_comes(self, run, model, tmp_path):
        code, out, err = run(
            *("generate", "--model", model, "--count", 3, "--steps", "sigma:1e6:1e7", *FAST)
        )
        assert code == 0
        assert len(out.split()) == 3
        lines = err.splitlines()
        warned = [line for line in lines if "none of the 3 denoising steps" in line]
        assert len(warned) == 1
        assert warned[0].startswith("warning: none of the 3 denoising steps")
        assert warned[0].endswith("so the result is unguided")
        assert ".py" not in err
        assert "GuidanceWarning" not in err
        assert len([line for line in lines if "3/3 images" in line]) == 1
        assert len(lines) == 2

    def test_every_warning_comes_before_the_error_that_ends_the_run(self, run, model, monkeypatch):
        from smoothed_energy.cli import generation

        def warn(*arguments):
            warnings.warn("one\n  thing", UserWarning, stacklevel=1)
            warnings.warn("[another]", UserWarning, stacklevel=1)
            raise ValueError("it ends")

        monkeypatch.setattr(generation, "draw_batch", warn)
        before = warnings.showwarning
        code, _, err = run("generate", "--model", model, *FAST)
        assert code == 2
        assert [line for line in err.splitlines() if "image" not in line] == [
            "warning: one thing",
            "warning: [another]",
            "error: it ends",
        ]
        assert warnings.showwarning is before


class TestFrom:
    def test_an_image_is_drawn_again_from_its_file(self, run, drawn, tmp_path):
        code, _, err = run(
            "generate", "--from", drawn / "a-red-cat-seed1.png", "--trust", "--out", "again"
        )
        assert code == 0, err
        assert files(tmp_path / "again") == ["a-red-cat-seed1.png"]
        again = tmp_path / "again" / "a-red-cat-seed1.png"
        # It was one of a batch and is now alone, so that sums are in another order.
        assert abs(pixels(again) - pixels(drawn / "a-red-cat-seed1.png")).max() <= 1
        assert read_settings(again) == read_settings(drawn / "a-red-cat-seed1.png")

    def test_a_sheet_is_drawn_again_whole(self, run, model, tmp_path):
        arguments = ("--model", model, "--compare", "--count", 2, "--scale", 2, *FAST)
        run("generate", "cat", *arguments)
        code, _, err = run("generate", "--from", "out/cat-compare.png", "--trust", "--out", "again")
        assert code == 0, err
        assert files(tmp_path / "again") == files(tmp_path / "out")
        first, again = (pixels(tmp_path / f / "cat-compare.png") for f in ("out", "again"))
        assert (first == again).all()

    def test_options_override_what_the_image_remembers(self, run, drawn, tmp_path):
        image = drawn / "a-red-cat-seed1.png"
        code, _, err = run(
            "generate", "--from", image, "--trust", "--out", "b", "--scale", 1, "--seed", 5
        )
        assert code == 0, err
        settings = read_settings(tmp_path / "b" / "a-red-cat-seed5.png")
        before = read_settings(image)
        assert settings == {**before, "scale": 1.0, "seed": 5}

    @pytest.mark.parametrize(
        ("changed", "kind"),
        [
            ({"count": "2"}, "an integer >= 1"),
            ({"count": 0}, "an integer >= 1"),
            ({"num_inference_steps": 2.5}, "an integer >= 1"),
            ({"seed": "a"}, "an integer >= 0"),
            ({"seed": -1}, "an integer >= 0"),
            ({"seed": True}, "an integer >= 0"),
            ({"cfg": None}, "a number"),
            ({"size": 5}, "None or a list of height and width, multiples of 8"),
            ({"size": [31, 32]}, "None or a list of height and width, multiples of 8"),
            ({"stack": None}, "a list of texts"),
            ({"stack": [1]}, "a list of texts"),
            ({"stack": "pag"}, "a list of texts"),
            ({"prompt": None}, "a text"),
            ({"negative_prompt": 1}, "a text"),
            ({"model": None}, "a text"),
            ({"method": {}}, "a text"),
            ({"steps": None}, "a text"),
            ({"scale": None}, "a number or a text"),
            ({"layers": 3}, "a text or None"),
            ({"compare": "yes"}, "True or False"),
            ({"control": 1}, "a text or None"),
            ({"control_scale": "1"}, "a number"),
        ],
        ids=str,
    )
    def test_a_stored_setting_of_another_kind_is_named(self, run, tmp_path, changed, kind):
        save_image(Image.new("RGB", (8, 8)), tmp_path / "a.png", {"seed": 1, **changed})
        code, _, err = run("generate", "--from", "a.png")
        ((name, value),) = changed.items()
        assert code == 2
        assert err == (
            f"error: --from: the image's setting {name}={value!r} cannot be read; expected {kind}\n"
        )
        assert files(tmp_path) == ["a.png"]

    def test_an_unknown_stored_setting_is_named(self, run, tmp_path):
        save_image(Image.new("RGB", (8, 8)), tmp_path / "a.png", {"sharpness": 1})
        code, _, err = run("generate", "--from", "a.png")
        assert code == 2
        assert err == "error: --from: the image has an unknown setting 'sharpness'\n"

    def test_every_setting_that_an_image_remembers_is_read_again(self):
        remembered = GenerateSettings(
            **{**vars(resolve_settings({}, {})), "size": (48, 24), "stack": ("pag",)},
        )
        controlled = replace(remembered, control=f"sha256:{0:064}", controlnet="canny")
        for settings in (remembered, controlled):
            stored = json.loads(json.dumps(settings.to_dict()))
            assert resolve_settings({}, stored) == replace(settings, batch_size=8)

    def test_a_new_prompt_brings_cfg_back(self, run, model, tmp_path):
        run("generate", "--model", model, *FAST)
        run("generate", "cat", "--from", "out/no-prompt-seed0.png", "--trust")
        assert read_settings(tmp_path / "out/cat-seed0.png")["cfg"] == 5


class TestMethods:
    def test_every_method_draws_something_else(self, run, model, tmp_path):
        def draw(name, *arguments):
            code, _, err = run(
                "generate",
                "cat",
                "--model",
                model,
                "--steps",
                "all",
                "--out",
                name,
                *arguments,
                "--num-inference-steps",
                4,
            )
            assert code == 0, err
            return pixels(tmp_path / name / "cat-seed0.png")

        pictures = [
            draw("plain", "--scale", 0),
            draw("seg"),
            draw("keys", "--method", "seg; on=key"),
            draw("pag", "--method", "pag"),
            draw("ramp", "--method", "pag", "--scale", "linear:3:0"),
            draw("erg", "--method", "erg; temperature=9"),
            draw("sag", "--method", "sag"),
            draw("slg", "--method", "slg"),
            draw("tpg", "--method", "tpg"),
            draw("swg", "--method", "swg; window=0.75"),
            draw("two", "--method", "pag", "--stack", "seg; scale=2; layers=up"),
            draw("interval", "--scale", 0, "--stack", "interval; steps=begin"),
        ]
        for index, one in enumerate(pictures):
            for other in pictures[:index]:
                assert (one != other).any()

    def test_it_is_remembered(self, run, model, tmp_path):
        method = "pag; adaptive_scale=0.001; combine=project"
        arguments = ("--model", model, "--method", method + "; scale=2; layers=up", *FAST)
        code, _, err = run(
            "generate", *arguments, "--stack", "seg; scale=1", "--stack", "interval; steps=mid"
        )
        assert code == 0, err
        settings = read_settings(tmp_path / "out/no-prompt-seed0.png")
        assert settings["method"] == method
        assert (settings["blur"], settings["scale"], settings["layers"]) == (None, 2.0, "up")
        assert settings["stack"] == ["seg; scale=1", "interval; steps=mid"]
        code, _, err = run(
            "generate", "--from", "out/no-prompt-seed0.png", "--trust", "--out", "again"
        )
        assert code == 0, err
        first, again = (pixels(tmp_path / f / "no-prompt-seed0.png") for f in ("out", "again"))
        assert (first == again).all()

    def test_another_method_than_the_image_remembers(self, run, drawn, tmp_path):
        image = drawn / "a-red-cat-seed0.png"
        for method, blur in (("pag", None), ("seg; on=key", "gaussian:10")):
            code, _, err = run(
                *("generate", "--from", image, "--trust", "--method", method),
                *("--overwrite", "--out", "b"),
            )
            assert code == 0, err
            image = tmp_path / "b" / "a-red-cat-seed0.png"
            settings = read_settings(image)
            assert (settings["method"], settings["blur"]) == (method, blur)

    def test_a_comparison_names_all_guidances(self, run, model, tmp_path):
        code, _, err = run(
            "generate", "--model", model, "--method", "pag", "--stack", "erg", "--compare", *FAST
        )
        assert code == 0, err
        assert read_settings(tmp_path / "out/no-prompt-seed0-unguided.png")["stack"] == []
        assert read_settings(tmp_path / "out/no-prompt-seed0-guided.png")["stack"] == ["erg"]


class TestExistingFiles:
    def test_they_are_never_replaced_silently(self, run, drawn, model):
        before = {path: path.read_bytes() for path in drawn.iterdir()}
        code, _, err = run("generate", "a red cat", "--model", model, "--seed", 1, *FAST)
        assert code == 2
        assert "a-red-cat-seed1.png exists already" in err
        assert "--overwrite" in err
        assert before == {path: path.read_bytes() for path in drawn.iterdir()}

    def test_they_are_replaced_when_asked(self, run, drawn, model):
        arguments = ("--model", model, "--seed", 1, "--scale", 1, "--overwrite", *FAST)
        code, _, err = run("generate", "a red cat", *arguments)
        assert code == 0, err
        assert read_settings(drawn / "a-red-cat-seed1.png")["scale"] == 1


class TestFolder:
    @pytest.fixture
    def never_draws(self, monkeypatch):
        from smoothed_energy.cli import generation

        def fail(*arguments):
            raise AssertionError("something was drawn")

        monkeypatch.setattr(generation, "draw_batch", fail)

    @pytest.fixture
    def refused(self, run, model, never_draws):
        """The only line about a folder that takes no files."""

        def refused(folder):
            code, out, err = run("generate", "--model", model, "--out", folder, *FAST)
            assert (code, out) == (2, "")
            assert err.count("\n") == 1
            assert err.startswith(f"error: --out {folder}")
            assert err.endswith("expected a folder, which may be new\n")
            return err

        return refused

    def test_a_file_is_no_folder(self, refused, tmp_path):
        (tmp_path / "picture.png").write_text("mine")
        assert "is a file" in refused("picture.png")
        assert "Not a directory" in refused("picture.png/new")
        assert (tmp_path / "picture.png").read_text() == "mine"

    def test_a_name_that_is_too_long_is_no_folder(self, refused):
        assert "name too long" in refused("x" * 300)

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
    def test_a_folder_that_cannot_be_made(self, refused):
        assert "no files can be written there" in refused("/proc/new")

    @pytest.mark.skipif(
        getattr(os, "geteuid", lambda: 0)() == 0, reason="an administrator may write anywhere"
    )
    @pytest.mark.parametrize("mode", [0o500, 0o000])
    def test_a_folder_without_permission(self, refused, tmp_path, mode):
        (tmp_path / "locked").mkdir(mode=mode)
        assert "Permission denied" in refused("locked")

    def test_a_folder_that_takes_no_files(self, refused, tmp_path, monkeypatch):
        def fail(*arguments, **options):
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr("tempfile.TemporaryFile", fail)
        assert "Read-only file system" in refused("out")

    def test_a_new_folder_may_lie_in_new_folders(self, run, model, tmp_path):
        code, _, err = run("generate", "--model", model, "--out", "a/b/c", *FAST)
        assert code == 0, err
        assert files(tmp_path / "a/b/c") == ["no-prompt-seed0.png"]

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_a_file_that_cannot_be_written_keeps_no_drawn_image_back(
        self, run, model, tmp_path, batch_size
    ):
        in_the_way = tmp_path / "out" / "no-prompt-seed1.png"
        in_the_way.mkdir(parents=True)
        code, out, err = run(
            *("generate", "--model", model, "--count", 3, "--batch-size", batch_size),
            *("--overwrite", *FAST),
        )
        seeds = [0, 1, 2] if batch_size == 3 else [0, 1]
        written = [f"out/no-prompt-seed{seed}.png" for seed in seeds if seed != 1]
        assert (code, out.split()) == (2, written)
        assert err.splitlines()[-1].startswith(
            "error: out/no-prompt-seed1.png could not be written: "
        )
        assert files(tmp_path / "out") == [f"no-prompt-seed{seed}.png" for seed in seeds]
        assert read_settings(tmp_path / "out/no-prompt-seed0.png")["seed"] == 0

    def test_a_full_disk_is_one_line(self, run, model, tmp_path, monkeypatch):
        def fail(*arguments, **options):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Image.Image, "save", fail)
        arguments = ("--model", model, "--count", 3, "--batch-size", 2)
        code, _, err = run("generate", *arguments, *FAST)
        assert code == 2
        assert err.splitlines()[-1] == (
            "error: out/no-prompt-seed0.png could not be written, nor 1 more: "
            "No space left on device"
        )
        assert files(tmp_path / "out") == []


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--layers", "middle"), r"'middle'.*down, mid, up"),
            (("--layers", "d9"), r"'d9'.*down \(d0-d1\), mid \(m0-m1\), up \(u0-u3\)"),
            (("--blur", "gaussian:-1"), "-1"),
            (("--blur", "gaussian:3,kernel=4"), "4"),
            (("--blur", "box:4"), "4"),
            (("--blur", "median:3"), "median.*gaussian"),
            (("--scale", "nan"), "nan"),
            (("--scale", "-2"), "-2"),
            (("--scale", "much"), "scale='much'"),
            (("--scale", "linear:3"), "linear:3.*linear:START:STOP"),
            (("--method", "gag"), "--method gag: expected one of seg, pag"),
            (("--method", "pag", "--blur", "box:3"), "--blur box:3: pag has no such setting"),
            (("--method", "swg", "--layers", "mid"), "--layers mid: swg has no such.*window"),
            (("--method", "autoguidance"), "needs a weaker denoiser"),
            (("--method", "autoguidance; weak=/none"), "weak='/none' is not a folder that exists"),
            (("--stack", "autoguidance; weak=/none", "--compare"), "weak='/none' is not a folder"),
            (("--method", "pag; sharpness=1"), "'sharpness' is not a setting"),
            (("--method", "pag; adaptive_scale"), "'adaptive_scale'.*name=value"),
            (("--method", "interval"), "--method interval makes no correction.*--stack"),
            (("--stack", "pag; scale=nan"), "nan"),
            (("--stack", "gag"), "gag.*seg, pag"),
            (("--steps", "0.7:0.2"), "0.7"),
            (("--steps", "later"), "later"),
            (("--formulation", "both"), "both.*conditional.*unconditional"),
            (("--cfg", "nan"), "nan"),
            (("--cfg", "0.5"), r"--cfg 0.5: expected a finite number >= 1 \(1 or 0 is off\)"),
            (("cat", "--cfg", "-1"), "--cfg -1"),
            (("--compare", "--scale", "0"), "--compare.*--scale 0 is no guidance.*--stack"),
            (("--compare", "--scale", "0.0", "--stack", "pag; scale=0"), "--scale 0 is no guid"),
            (("--compare", "--blur", "gaussian:0"), "--blur gaussian:0 is no guidance"),
            (("--compare", "--method", "erg; temperature=1"), "--method erg; temperature=1"),
            (("--size", "31x32"), "31x32.*multiples of 8"),
            (("--size", "64"), "64.*HEIGHTxWIDTH"),
            (("--size", "0x64"), "0x64"),
            (("--count", 0), "--count"),
            (("--batch-size", -1), "--batch-size"),
            (("--num-inference-steps", 0), "--num-inference-steps"),
            (("--seed", -3), "--seed"),
            (("--seed", 2**64), f"--seed {2**64}: expected seeds of at most {2**64 - 1}"),
            (("--seed", 2**64 - 1, "--count", 2), f"--seed {2**64 - 1} with --count 2: expected"),
            (("--dtype", "int8"), "int8.*float32"),
            (("--device", "abacus"), "abacus.*cpu"),
            (("--negative-prompt", "x"), "--negative-prompt.*--cfg"),
            (("--nonsense",), "--nonsense"),
            (("--model", ""), "no model '': .*available: avatars.*folder.*owner/name"),
            (("--from", "missing.png"), "missing.png.*no such file"),
        ],
        ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
    )
    def test_each_is_one_line_and_exit_code_two(self, run, model, tmp_path, arguments, message):
        code, out, err = run("generate", "--model", model, *arguments)
        assert code == 2
        assert out == ""
        lines = err.strip().splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("error: ")
        assert re.search(message, lines[0]), lines[0]
        assert not (tmp_path / "out").exists()

    def test_a_pipeline_without_self_attention_is_refused(self, run, convolutional_model, tmp_path):
        code, _, err = run("generate", "--model", convolutional_model)
        assert code == 2
        assert "no self-attention" in err
        assert len(err.strip().splitlines()) == 1

    def test_a_pipeline_that_no_guidance_can_attach_to_is_refused(self, run, model, monkeypatch):
        from smoothed_energy import SmoothedEnergyGuidance

        def refuse(self, pipeline):
            raise RuntimeError("it has a guidance of its own")

        monkeypatch.setattr(SmoothedEnergyGuidance, "attach", refuse)
        code, _, err = run("generate", "--model", model)
        assert code == 2
        assert err.endswith("tiny cannot be guided: it has a guidance of its own\n")

    @pytest.mark.parametrize("options", [(), ("--compare",)])
    def test_a_pipeline_with_guidance_of_its_own_is_refused_before_it_draws(
        self, run, perturbed_attention_model, tmp_path, options
    ):
        code, out, err = run("generate", "cat", "--model", perturbed_attention_model, *options)
        assert (code, out) == (2, "")
        assert err.startswith(
            f"error: {perturbed_attention_model} cannot be guided: StableDiffusionXLPAGPipeline "
            "runs perturbed-attention guidance in the same batch"
        )
        assert err.count("\n") == 1
        assert not (tmp_path / "out").exists()

    def test_a_prompt_for_a_pipeline_without_prompts_is_refused(self, run, unconditional_model):
        code, _, err = run("generate", "cat", "--model", unconditional_model)
        assert code == 2
        assert "takes no prompt" in err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--cfg", 4), r"--cfg 4: .* a DDIMPipeline, which has no classifier-free guidance; "),
            (("--cfg", 4, "--negative-prompt", "ugly"), "--negative-prompt ugly: .* takes no prom"),
        ],
    )
    def test_options_of_prompts_for_a_pipeline_without_prompts_are_refused(
        self, run, unconditional_model, tmp_path, arguments, message
    ):
        code, _, err = run("generate", "--model", unconditional_model, *arguments)
        assert code == 2
        assert re.search(message, err), err
        assert err.count("\n") == 1
        assert not (tmp_path / "out").exists()

    def test_cfg_can_be_switched_off_for_a_pipeline_without_prompts(self, run, unconditional_model):
        code, _, err = run("generate", "--model", unconditional_model, "--cfg", 1, *FAST)
        assert code == 0, err

    def test_a_size_for_a_pipeline_of_one_size_is_refused(self, run, unconditional_model):
        code, _, err = run("generate", "--model", unconditional_model, "--size", "16x16")
        assert code == 2
        assert "one size" in err

    def test_a_folder_with_pickled_weights_is_refused(self, run, model, tmp_path):
        import shutil

        import torch

        folder = tmp_path / "pickled"
        shutil.copytree(model, folder)
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        weights.unlink()
        torch.save({}, weights.with_name("diffusion_pytorch_model.bin"))
        code, _, err = run("generate", "--model", folder)
        assert code == 2
        assert "safetensors" in err
        assert len(err.strip().splitlines()) == 1

    def test_a_folder_whose_pipeline_is_not_of_diffusers_is_refused(self, run, tmp_path):
        (tmp_path / "model_index.json").write_text('{"_class_name": "NoSuchPipeline"}')
        code, _, err = run("generate", "--model", ".")
        assert code == 2
        assert err.startswith("error: cannot load '.': _class_name='NoSuchPipeline'")
        assert err.count("\n") == 1

    def test_a_model_that_is_nowhere_is_refused(self, run):
        code, _, err = run("generate", "--model", "./no/such/model")
        assert code == 2
        assert "no/such/model" in err
        assert len(err.strip().splitlines()) == 1

    def test_an_interrupted_run_keeps_what_is_done_and_says_so(self, run, model, monkeypatch):
        from smoothed_energy.cli import generation

        draw, calls = generation.draw_batch, []

        def draw_once(*arguments):
            if calls:
                raise KeyboardInterrupt
            calls.append(arguments)
            return draw(*arguments)

        monkeypatch.setattr(generation, "draw_batch", draw_once)
        code, _, err = run("generate", "--model", model, "--count", 2, *FAST)
        assert code == 130
        assert err.strip().splitlines()[-1] == "stopped"


class TestNotANumber:
    @pytest.mark.parametrize("steps", [1, 3])
    @pytest.mark.parametrize(
        "given",
        [("--scale", "1e30"), ("--cfg", "1e30"), ("--cfg", "1e30", "--scale", 0)],
        ids=["scale", "cfg", "cfg alone"],
    )
    def test_it_is_one_line_and_no_picture(self, run, model, tmp_path, given, steps):
        code, out, err = run(
            *("generate", "a cat", "--model", model, "--num-inference-steps", steps),
            *("--steps", "all", *given),
        )
        assert code == 2
        assert out == ""
        assert [line for line in err.splitlines() if "error" in line] == [err.splitlines()[-1]]
        assert re.match("error: the .* not finite.*1e\\+30", err.splitlines()[-1])
        assert files(tmp_path / "out") == []

    def test_neither_is_the_unguided_half_of_a_comparison(self, run, model, tmp_path):
        code, _, err = run(
            *("generate", "a cat", "--model", model, "--compare", "--cfg", "1e30", *FAST),
        )
        assert code == 2
        assert "classifier-free guidance at scale 1e+30" in err
        assert files(tmp_path / "out") == []
