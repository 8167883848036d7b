"""Hostile options and files: each is one line on standard error and exit code 2, and soon."""

from __future__ import annotations

import json
import re
import shutil
import signal
from contextlib import contextmanager

import numpy as np
import pytest
from hostile import bomb, damaged, image_with, pipe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from smoothed_energy.cli import main
from smoothed_energy.cli.generate_settings import OPTIONS
from smoothed_energy.settings.printable import one_line, printable
from smoothed_energy.settings.text import join_settings, split_settings

_TOO_LONG = 60  # seconds; all of them take far less than one
HUGE = 10**400
SWEEP = "name: a\nmodel: avatars\n"


class HangError(BaseException):
    """It takes too long; no command catches this."""


@contextmanager
def in_time():
    def stop(*_):
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_TOO_LONG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_refused(code, out, err, message):
    assert (code, out) == (2, ""), (code, out, err)
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    assert err[:-1].isprintable(), err
    assert len(err) < 2200
    assert re.search(message, err), err


def stored(message, **values):
    """``--from`` an image that remembers these."""
    return (
        lambda folder: image_with(folder / "a.png", values),
        ("generate", "--from", "a.png"),
        message,
    )


def chunk(message, text):
    return (
        lambda folder: image_with(folder / "a.png", text),
        ("generate", "--from", "a.png"),
        message,
    )


def picture(make, message):
    """Each option that reads a picture."""
    for option in ("--from", "--control", "--canny"):
        yield lambda folder: make(folder / "a.png"), ("generate", option, "a.png"), message


def options(message, *arguments):
    return (lambda folder: None, ("generate", *arguments), message)


def sweep(message, text):
    def make(folder):
        (folder / "a.yaml").write_text(text)
        pipe(folder / "pipe")

    return (make, ("sweep", "a.yaml", "--dry-run"), message)


def evaluate(make, message, *arguments):
    def make_all(folder):
        (folder / "pictures").mkdir()
        make(folder / "pictures" / "a.png")

    return (make_all, ("evaluate", "pictures", "--against", "pictures", *arguments), message)


def small(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)).save(path)


CASES = [
    *picture(bomb, "too large.*at most 100000000 pixels"),
    *picture(pipe, "a pipe or a device, not a regular file"),
    *picture(damaged, "damaged"),
    *picture(lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "not a picture|not an image"),
    *picture(lambda path: path.mkdir(), "Is a directory"),
    *picture(lambda path: None, "there is no such file"),
    options("File name too long", "--from", "x" * 300),
    options("File name too long", "--canny", "x" * 300),
    options("a pipe or a device", "--control", "/dev/zero"),
    chunk("cannot be read", "[" * 100_000 + "]" * 100_000),
    chunk("cannot be read", '{"version":' * 50_000),
    chunk("cannot be read", '{"version": 1, "cfg": ' + "9" * 5000 + "}"),
    stored("cfg=10+ cannot be read; expected a number", cfg=HUGE),
    stored("scale=-10+ cannot be read; expected a number or a text", scale=-HUGE),
    stored("--control-scale|control_scale", control_scale=HUGE),
    stored("--count 10+: expected at most 10000", count=HUGE),
    stored("--seed 10+: expected seeds of at most", seed=HUGE),
    stored("--num-inference-steps 10000000: expected at most 1000", num_inference_steps=10**7),
    stored("--count 10000000: expected at most 10000", count=10**7),
    stored("--size 8000000000x8: expected at most 16384", size=[8 * 10**9, 8]),
    stored(r"size=\[8, 8, 8\] cannot be read", size=[8, 8, 8]),
    stored("cfg='3' cannot be read; expected a number", cfg="3"),
    stored(r"prompt '\\ud800' is no text.*expected Unicode", prompt="\ud800"),
    stored(r"stack '\\udfff' is no text", stack=["\udfff"]),
    stored("has 1000000 characters; expected at most 20000", prompt="a" * 10**6),
    stored("is not a setting; expected name=value", method="seg;a" + " " * 3900),
    stored("100000 guidances; expected at most 16", stack=["pag"] * 100_000),
    stored("holds a NUL character", model="a\0b"),
    stored("unknown smoothing", blur="\x1b]0;title\x07"),
    stored("not known", layers="\u202emid"),
    stored("steps|nested", steps="(" * 3000),
    stored("steps", steps="1" * 3999 + ":"),
    stored("out of range", layers="d0-d99999999999"),
    stored(
        "asks to load the model 'owner/name'; expected --trust to allow that", model="owner/name"
    ),
    stored("asks to load the model './folder'; expected --trust", model="./folder"),
    stored(r"asks to load the model '\\x1b\[31mred'; expected --trust", model="\x1b[31mred"),
    stored("weak='o/n'; expected --trust", method="autoguidance; weak=o/n"),
    stored("weak='o/n'; expected --trust", stack=["autoguidance; weak=o/n"]),
    stored("the ControlNet 'o/n'; expected --trust", control=f"sha256:{0:064}", controlnet="o/n"),
    stored("'/etc/passwd', which is not kept in it", control="/etc/passwd", controlnet="canny"),
    stored("'/etc/passwd', which is not kept in it", canny="/etc/passwd", controlnet="canny"),
    stored("followed is not kept in it", control=f"sha256:{0:064}", controlnet="canny"),
    options("--count 10000000: expected at most 10000; .*sweep", "--count", 10**7),
    options("--count 300 with --compare: expected at most 256", "--compare", "--count", 300),
    options("--num-inference-steps 10000000: expected", "--num-inference-steps", 10**7),
    options("--seed 10+: expected seeds of at most", "--seed", HUGE),
    options("--size 99992x99992: expected at most 16384", "--size", "99992x99992"),
    options("--size 8192x8192: .*avatars draws pictures of 96x96", "--size", "8192x8192"),
    options("--cfg inf: expected a finite number", "--cfg", HUGE),
    options("scale=inf|finite", "--scale", "1e400"),
    *[
        options(f"--device {re.escape(name)} is not here; expected one of cpu", "--device", name)
        for name in ("hpu", "meta", "cpu:7", "xpu", "mkldnn", "privateuseone", "abacus")
    ],
    options("--device", "--device", ""),
    options("--control-scale 2 has nothing to act on", "--control-scale", 2),
    options("no model 'x+'", "--model", "x" * 300),
    options("no model 'x/y+'", "--model", "x/" + "y" * 300),
    options("File name too long", "--out", "y" * 300),
    options(r"PROMPT '\\udc80\\udcff' is no text", "\udc80\udcff"),
    options(r"--negative-prompt '\\udc80' is no text", "--negative-prompt", "\udc80"),
    options("PROMPT 'p+\\.\\.\\.' has 1000000 characters", "p" * 10**6),
    options("combine", "--stack", "seg; combine=" + "+" * 3000),
    sweep("more than 1000000 seeds", SWEEP + "seeds: 0-100000000000\n"),
    sweep("a number has 5000 digits", SWEEP + f"seeds: {'9' * 5000}\n"),
    sweep("nested too deeply", "[" * 100_000),
    sweep("or holds itself", "a: &a [*a]"),
    sweep("or holds itself", SWEEP + "seeds: 0\nbase: &b {cfg: 1, x: *b}\n"),
    sweep(
        "more than 1000000 values",
        "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)),
    ),
    sweep("a key is not a text", "? {a: 1}\n: 2\n"),
    sweep("could not determine a constructor", "!!python/object/apply:os.system ['true']"),
    sweep(
        "combinations; expected at most 100000",
        SWEEP
        + "seeds: 0\naxes:\n"
        + "".join(
            f"- {name}: {list(range(1, 200))}\n" for name in ("cfg", "size", "control_scale")
        ),
    ),
    sweep("cfg=9+: expected", SWEEP + f"seeds: 0\nbase: {{cfg: {'9' * 400}}}\n"),
    sweep("at most 1000", SWEEP + "seeds: 0\nbase: {num_inference_steps: 10000000}\n"),
    sweep("at most 16384", SWEEP + "seeds: 0\nbase: {size: 99999999x8}\n"),
    sweep("a pipe or a device", SWEEP + "seeds: 0\nprompts: pipe\n"),
    sweep("a pipe or a device", SWEEP + "seeds: 0\ncontrolnet: canny\nbase: {control: pipe}\n"),
    sweep("a pipe or a device", SWEEP + "seeds: 0\nmetrics: [frechet]\nagainst: pipe\n"),
    sweep("no text", SWEEP + 'seeds: 0\nprompts: ["\\uD800"]\n'),
    sweep(r"'\\x1b\[31m'", SWEEP + 'seeds: 0\nbase: {negative_prompt: "\\e[31m"}\n'),
    sweep("at most 80 characters", f"name: {'a' * 300}\nseeds: 0\n"),
    sweep("not a scheduler", SWEEP + f"seeds: 0\nbase: {{scheduler: {'D' * 100_000}}}\n"),
    (lambda folder: pipe(folder / "a.yaml"), ("sweep", "a.yaml"), "a pipe or a device"),
    (lambda folder: bomb(folder / "a.yaml"), ("sweep", "a.yaml"), "no sweep can be read"),
    evaluate(bomb, "too large"),
    evaluate(damaged, "damaged"),
    evaluate(pipe, "a pipe or a device"),
    evaluate(small, "--device hpu is not here", "--device", "hpu"),
    evaluate(small, "--square 1000000000: expected at most 4096", "--square", 10**9),
    evaluate(small, "--intervals 10000000: expected at most", "--intervals", 10**7),
    evaluate(small, "metrics", "--metrics", "m" * 10**5),
    (lambda folder: pipe(folder / "p"), ("evaluate", "p", "--against", "p"), "p is a pipe or a"),
    (lambda folder: None, ("reproduce", "all", "--samples", 10**10), "--samples .* at most"),
    (lambda folder: None, ("reproduce", "all", "--device", "hpu"), "--device hpu is not here"),
    (lambda folder: None, ("reproduce", "all", "--model", "\x1b[1m"), r"no model '\\x1b\[1m'"),
    (lambda folder: pipe(folder / "p"), ("reproduce", "all", "--captions", "p"), "a pipe or a"),
    (lambda folder: None, ("layers", "x" * 300), "no model|x+"),
    (lambda folder: None, ("layers", "--size", "99992x99992"), "at most 16384"),
]


@pytest.mark.parametrize(("make", "arguments", "message"), CASES)
def test_each_is_one_line_and_exit_code_two(run, tmp_path, make, arguments, message):
    make(tmp_path)
    with in_time():
        code, out, err = run(*arguments)
    check_refused(code, out, err, message)
    assert not (tmp_path / "out").exists()


def edited(part, **values):
    def edit(folder):
        file = folder / part
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return edit


def replaced(part, text):
    return lambda folder: (folder / part).write_text(text)


def piped(part):
    def edit(folder):
        (folder / part).unlink()
        pipe(folder / part)

    return edit


UNET, VAE = "unet/config.json", "vae/config.json"
MODELS = [
    (edited(UNET, sample_size="big"), {"generate", "layers"}),
    (edited(UNET, sample_size=10**9), {"generate", "layers"}),
    (edited(UNET, block_out_channels=3), {"generate", "layers"}),
    (edited(UNET, down_block_types=["Nope"]), {"generate", "layers"}),
    (edited(UNET, norm_num_groups=0), {"generate", "layers"}),
    (edited(UNET, cross_attention_dim=10**12), {"generate"}),
    (edited(VAE, block_out_channels=5), {"generate", "layers"}),
    (edited("scheduler/scheduler_config.json", num_train_timesteps="a"), {"generate"}),
    (edited("scheduler/scheduler_config.json", num_train_timesteps=10**11), {"generate"}),
    (edited("model_index.json", unet=[1, 2]), {"generate", "layers"}),
    (edited("model_index.json", unet=["os", "system"]), {"generate", "layers"}),
    (edited("model_index.json", vae=7), {"generate"}),
    (replaced("model_index.json", "[]"), {"generate", "layers"}),
    (replaced("model_index.json", '{"_class_name": 5}'), {"generate", "layers"}),
    (replaced("model_index.json", "[" * 100_000), {"generate", "layers"}),
    (replaced(UNET, "{"), {"generate", "layers"}),
    (replaced(UNET, "[" * 100_000), {"generate", "layers"}),
    (replaced(UNET, "[1]"), {"generate", "layers"}),
    (replaced(VAE, "5"), {"generate", "layers"}),
    (replaced("unet/diffusion_pytorch_model.safetensors", "x" * 100), {"generate"}),
    (piped(UNET), {"generate", "layers"}),
    (piped(VAE), {"generate", "layers"}),
    (piped("model_index.json"), {"generate", "layers"}),
    (piped("unet/diffusion_pytorch_model.safetensors"), {"generate"}),
]


@pytest.mark.parametrize(("edit", "commands"), MODELS)
def test_a_model_whose_files_are_not_what_they_should_be(run, model, tmp_path, edit, commands):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    edit(folder)
    for command in commands:
        arguments = ("--model", "model") if command == "generate" else ("model",)
        with in_time():
            code, out, err = run(command, *arguments)
        check_refused(code, out, err, "model|out of memory")


def test_a_unet_is_no_controlnet(run, model, tmp_path):
    small(tmp_path / "a.png")
    code, out, err = run("generate", "--control", "a.png", "--controlnet", f"{model}/unet")
    check_refused(code, out, err, "it is a UNet2DConditionModel, not a ControlNetModel")


def test_out_of_memory_is_one_line(run, model, monkeypatch):
    from smoothed_energy.cli import generation

    def fail(*arguments):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(generation, "draw_batch", fail)
    code, out, err = run("generate", "--model", model)
    check_refused(
        code, out, err, "out of memory while drawing 1 at once; expected a smaller --size"
    )


def test_an_error_of_this_package_is_one_line(run, model, monkeypatch):
    from smoothed_energy.cli import generation
    from smoothed_energy.intercept.attention import AttentionBackendError

    def fail(*arguments):
        raise AttentionBackendError("no such backend")

    monkeypatch.setattr(generation, "draw_batch", fail)
    code, out, err = run("generate", "--model", model)
    check_refused(code, out, err, "error: no such backend")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    values=st.dictionaries(
        st.sampled_from([*OPTIONS, "other"]) | st.text(max_size=5),
        JSON | st.just(HUGE),
        min_size=1,
        max_size=4,
    )
)
def test_whatever_an_image_remembers_is_refused_in_one_line_or_drawn(
    values, tmp_path, capsys, monkeypatch
):
    """No settings of any kind give a traceback, or load anything that was not trusted."""
    from smoothed_energy.cli import generation

    monkeypatch.chdir(tmp_path)

    def stop(settings):
        raise ValueError(f"it would be drawn by {settings.model}")

    monkeypatch.setattr(generation, "open_pipeline", stop)
    image_with(tmp_path / "a.png", json.dumps({"version": 1, **values}))
    with in_time():
        code = main(["generate", "--from", "a.png"])
    captured = capsys.readouterr()
    check_refused(code, captured.out, captured.err, ".")
    assert "drawn by" not in captured.err or "drawn by avatars" in captured.err


@given(text=st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Lu"])))
def test_what_is_printed_can_be_seen(text):
    assert not re.search(
        r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", printable(text)
    )
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert printable(line) == line


@given(
    name=st.from_regex(r"[a-z]{1,5}", fullmatch=True),
    values=st.dictionaries(
        st.from_regex(r"[a-z_]{1,5}", fullmatch=True),
        st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(st.characters(exclude_categories=["Cs"])),
        max_size=4,
    ),
)
def test_settings_as_text_are_read_again(name, values):
    assert split_settings(join_settings(name, values)) == (name, values)
