"""The files of ``generate``: never overwritten, gone on with, told as they are done."""

from __future__ import annotations

import json
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from smoothed_energy.cli import main
from smoothed_energy.cli.output import output_paths
from smoothed_energy.cli.progress import ImageProgress
from smoothed_energy.cli.resolve import resolve_settings
from smoothed_energy.report import read_settings, save_image

FAST = ("--num-inference-steps", 3)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def drawn_seeds(monkeypatch):
    """The seeds that are drawn, batch by batch."""
    from smoothed_energy.cli import generation

    draw, seen = generation.draw_batch, []

    def note(pipeline, arguments, prompt, seeds, advance):
        seen.append([*seeds])
        return draw(pipeline, arguments, prompt, seeds, advance)

    monkeypatch.setattr(generation, "draw_batch", note)
    return seen


class TestNames:
    def test_a_second_prompt_of_the_same_first_words_has_a_number(self, run, model, tmp_path):
        words = "a portrait of somebody with glasses and"
        for prompt in ("a hat", "a beard", "a scarf"):
            code, _, err = run("generate", f"{words} {prompt}", "--model", model, *FAST)
            assert code == 0, err
        stem = "a-portrait-of-somebody-with-glasses-and-a"
        prompts = {
            name: read_settings(tmp_path / "out" / name)["prompt"]
            for name in names(tmp_path / "out")
        }
        assert prompts == {
            f"{stem}-seed0.png": f"{words} a hat",
            f"{stem}-2-seed0.png": f"{words} a beard",
            f"{stem}-3-seed0.png": f"{words} a scarf",
        }

    def test_a_number_stays_that_of_its_prompt(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        there = {"cat-seed0": "cat", "cat-2-seed0": "Cat!", "cat-3-seed0": "cat 3"}
        for name, prompt in there.items():
            path = tmp_path / "out" / f"{name}.png"
            save_image(Image.new("RGB", (8, 8)), path, {"prompt": prompt})
        expected = {"cat": "cat", "Cat!": "cat-2", "cat 3": "cat-3", "CAT": "cat-4", "dog": "dog"}
        for prompt, stem in expected.items():
            settings = resolve_settings({"prompt": prompt, "seed": 7, "out": tmp_path / "out"}, {})
            (path,) = output_paths(settings).images.values()
            assert path.name == f"{stem}-seed7.png"


class TestOtherRuns:
    def race(self, monkeypatch, first, second):
        """Run two commands, the second while the first draws; returns their exit codes."""
        from smoothed_energy.cli import generation

        draw, codes = generation.draw_batch, {}

        def draw_after_the_second(*arguments):
            if "second" not in codes:
                codes["second"] = None
                codes["second"] = main([*map(str, second)])
            return draw(*arguments)

        monkeypatch.setattr(generation, "draw_batch", draw_after_the_second)
        codes["first"] = main([*map(str, first)])
        return codes["first"], codes["second"]

    def test_a_file_written_meanwhile_is_kept(self, model, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        command = ("generate", "--model", model, *FAST)
        assert self.race(monkeypatch, command, (*command, "--scale", 1)) == (2, 0)
        err = capsys.readouterr().err
        assert "no-prompt-seed0.png could not be written: another run has written a file" in err
        assert read_settings(tmp_path / "out/no-prompt-seed0.png")["scale"] == 1
        assert names(tmp_path / "out") == ["no-prompt-seed0.png"]

    def test_the_same_picture_written_meanwhile_is_no_mistake(self, model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        command = ("generate", "--model", model, *FAST)
        assert self.race(monkeypatch, command, command) == (0, 0)

    def test_writers_at_once_don_t_mix(self, tmp_path):
        """One temporary name for all would give files of one writer with settings of another."""
        images = [Image.new("RGB", (256, 256), (shade, 0, 0)) for shade in range(8)]

        def write(shade):
            for _ in range(10):
                save_image(images[shade], tmp_path / "a.png", {"shade": shade})

        threads = [threading.Thread(target=write, args=(shade,)) for shade in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pixels(tmp_path / "a.png")[0, 0, 0] == read_settings(tmp_path / "a.png")["shade"]
        assert names(tmp_path) == ["a.png"]


class TestGoingOn:
    def test_an_interrupted_run_goes_on_where_it_was(
        self, run, model, tmp_path, monkeypatch, drawn_seeds, capsys
    ):
        from smoothed_energy.cli import generation

        command = ("generate", "--model", model, "--count", 4, *FAST)
        draw = generation.draw_batch
        monkeypatch.setattr(
            generation,
            "draw_batch",
            lambda *arguments: sys.exit(1) if arguments[3] == [2] else draw(*arguments),
        )
        with pytest.raises(SystemExit):
            run(*command)
        assert capsys.readouterr().out.split() == [
            f"out/no-prompt-seed{seed}.png" for seed in range(2)
        ]
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
        assert len(before) == 2
        monkeypatch.setattr(generation, "draw_batch", draw)
        drawn_seeds.clear()
        code, out, err = run(*command)
        assert code == 0, err
        assert drawn_seeds == [[2], [3]]
        assert out.split() == [f"out/no-prompt-seed{seed}.png" for seed in range(4)]
        assert "4/4 images" in err
        assert "100 %" in err
        assert {path: path.stat().st_mtime_ns for path in before} == before
        code, _, err = run(*command)
        assert code == 2
        assert "out/no-prompt-seed0.png exists already, drawn with these settings" in err

    def test_a_comparison_goes_on_too(self, run, model, tmp_path, drawn_seeds):
        command = ("generate", "--model", model, "--count", 2, "--compare", *FAST)
        run(*command)
        whole = pixels(tmp_path / "out/no-prompt-compare.png")
        for name in ("no-prompt-compare", "no-prompt-seed1-guided"):
            (tmp_path / "out" / f"{name}.png").unlink()
        drawn_seeds.clear()
        code, out, err = run(*command)
        assert code == 0, err
        assert drawn_seeds == [[1]]
        assert out.split() == ["out/no-prompt-compare.png"]
        assert (pixels(tmp_path / "out/no-prompt-compare.png") == whole).all()

    def test_images_of_other_settings_are_not_gone_on_with(self, run, model, tmp_path, drawn_seeds):
        run("generate", "--model", model, *FAST)
        drawn_seeds.clear()
        code, _, err = run("generate", "--model", model, "--count", 2, "--scale", 1, *FAST)
        assert code == 2
        assert "no-prompt-seed0.png exists already, drawn with other settings" in err
        assert drawn_seeds == []


class TestTelling:
    def test_a_path_is_printed_when_its_image_is_done(self, model, tmp_path, monkeypatch, capsys):
        from smoothed_energy.cli import generation

        monkeypatch.chdir(tmp_path)
        draw, printed = generation.draw_batch, []

        def note(*arguments):
            printed.append(capsys.readouterr().out.split())
            return draw(*arguments)

        monkeypatch.setattr(generation, "draw_batch", note)
        command = ["generate", "--model", model, "--count", "3", "--num-inference-steps", "2"]
        assert main(command) == 0
        printed.append(capsys.readouterr().out.split())
        assert printed == [[], *[[f"out/no-prompt-seed{seed}.png"] for seed in range(3)]]

    def test_json_has_a_line_for_each_file(self, run, model, tmp_path):
        code, out, err = run(
            *("generate", "--model", model, "--count", 2, "--compare", "--json"), *FAST
        )
        assert code == 0, err
        found = [json.loads(line) for line in out.splitlines()]
        images = [one for one in found if one["kind"] == "image"]
        assert {(one["seed"], one["guided"]) for one in images} == {
            (seed, guided) for seed in range(2) for guided in (True, False)
        }
        assert found[-1] == {"path": "out/no-prompt-compare.png", "drawn": True, "kind": "sheet"}
        assert all((tmp_path / one["path"]).is_file() for one in found)

    @pytest.mark.parametrize("images", [1, 3, 7])
    @pytest.mark.parametrize("steps", [3, 7, 30])
    def test_progress_reaches_the_end_exactly(self, images, steps, capsys):
        progress = ImageProgress(images, steps)
        with progress:
            for _ in range(images * steps):
                progress.advance(1 / steps)
        assert progress._bar.finished
        assert f"{images}/{images} image" in capsys.readouterr().err

    def test_loading_is_told_on_a_terminal_and_leaves_nothing(self, monkeypatch, capsys):
        from smoothed_energy.cli.terminal import waiting

        monkeypatch.setenv("FORCE_COLOR", "1")
        with waiting("loading \x1b[31m[red]"):
            pass
        assert r"loading \x1b[31m[red]" in capsys.readouterr().err
        monkeypatch.delenv("FORCE_COLOR")
        with waiting("loading"):
            pass
        assert capsys.readouterr().err == ""

    def test_markup_in_names_is_shown_as_it_is(self, capsys):
        from smoothed_energy.cli.terminal import print_table

        print_table(["[red]a"], [["[bold]b[/bold]"], ["\x1b[1mc"]], title="[d]", caption="[/e]")
        out = capsys.readouterr().out
        for text in ("[red]a", "[bold]b[/bold]", r"\x1b[1mc", "[d]", "[/e]"):
            assert text in out
