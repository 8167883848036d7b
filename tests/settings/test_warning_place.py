"""Warnings name a line of the user's code."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
import textwrap
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import smoothed_energy
from smoothed_energy.settings.warning_place import warn_caller

PACKAGE = smoothed_energy.__path__[0]


class PlaceWarning(UserWarning):
    """The warning of these tests."""


@pytest.fixture
def code(tmp_path):
    """A module of this source; its file lies in `folder` and it has the given name."""

    def code(source, name="users_script", folder=tmp_path):
        path = folder / f"{name.replace('.', '_')}.py"
        path.write_text(textwrap.dedent(source))
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return code


@pytest.fixture
def inner():
    """A function of this package that warns; its frame has a file of the package."""
    scope = {"__name__": "smoothed_energy.inner", "warn_caller": warn_caller, "W": PlaceWarning}
    source = "def inner(*arguments):\n    warn_caller('look here', W)\n"
    exec(compile(source, f"{PACKAGE}/inner.py", "exec"), scope)
    return scope["inner"]


def place_of(function, *arguments):
    """The file and the line's text to which the only warning points."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*arguments)
    (warning,) = caught
    assert (str(warning.message), warning.category) == ("look here", PlaceWarning)
    lines = Path(warning.filename).read_text().splitlines()
    return warning.filename, lines[warning.lineno - 1].strip()


def test_it_is_the_line_that_calls_this_package(code, inner):
    user = code(
        """
        def run(call):
            before = 1
            call()  # here
        """
    )
    assert place_of(user.run, inner) == (user.__file__, "call()  # here")


def test_frames_of_this_package_are_passed_however_many(code, inner):
    scope = {"__name__": "smoothed_energy.outer", "inner": inner}
    source = "def outer(n):\n    return outer(n - 1) if n else inner()\n"
    exec(compile(source, f"{PACKAGE}/deep/outer.py", "exec"), scope)
    user = code("def run(call):\n    call(5)  # here\n")
    assert place_of(user.run, scope["outer"]) == (user.__file__, "call(5)  # here")


def test_a_folder_that_begins_like_the_package_s_is_the_user_s(inner, tmp_path):
    scope = {"__name__": "users", "inner": inner}
    path = f"{PACKAGE}_of_mine/users.py"
    exec(compile("def run():\n    inner()\n", path, "exec"), scope)
    with pytest.warns(PlaceWarning) as caught:
        scope["run"]()
    assert (caught[0].filename, caught[0].lineno) == (path, 2)


def test_the_end_of_a_with_block_is_its_place(code, inner):
    @contextmanager
    def attached():
        yield
        inner()

    # The generator is one of this package's.
    attached.__wrapped__.__code__ = attached.__wrapped__.__code__.replace(
        co_filename=f"{PACKAGE}/attached.py"
    )
    user = code(
        """
        def run(attached):
            with attached():  # here
                pass
        """
    )
    assert place_of(user.run, attached) == (user.__file__, "with attached():  # here")


def test_modules_of_torch_are_passed(code, inner):
    class Denoiser(torch.nn.Module):
        pass

    denoiser = torch.nn.Sequential(Denoiser())
    denoiser[0].forward = inner
    user = code("def run(denoiser):\n    return denoiser(1)  # here\n")
    assert place_of(user.run, denoiser) == (user.__file__, "return denoiser(1)  # here")


def test_a_pipeline_is_passed_with_its_decorators(code, inner):
    library = code(
        """
        import torch

        class Pipeline:
            @torch.no_grad()
            def __call__(self, denoiser):
                return self.denoise(denoiser)

            def denoise(self, denoiser):
                return denoiser()
        """,
        name="diffusers.pipelines.pipeline",
    )
    wrapped = functools.singledispatch(inner)
    user = code("def run(pipe, denoiser):\n    pipe(denoiser)  # here\n")
    assert place_of(user.run, library.Pipeline(), lambda: inner()) != user.__file__
    found = place_of(user.run, library.Pipeline(), functools.partial(wrapped, 1))
    assert found == (user.__file__, "pipe(denoiser)  # here")


def test_a_library_with_a_name_that_begins_alike_is_the_user_s(code, inner):
    user = code("def run(call):\n    call()  # here\n", name="torchlike")
    assert place_of(user.run, inner) == (user.__file__, "call()  # here")


def test_code_without_a_module_is_the_user_s(inner):
    with pytest.warns(PlaceWarning) as caught:
        exec(compile("\n\ninner()", "<typed>", "exec"), {"inner": inner})
    assert (caught[0].filename, caught[0].lineno) == ("<typed>", 3)


def test_without_a_frame_of_the_user_s_it_is_the_outermost(inner, monkeypatch):
    monkeypatch.setattr("smoothed_energy.settings.warning_place._is_between", lambda frame: True)
    found = []

    def run():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            inner()
            found.extend(caught)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found[0].filename == threading.__file__


def test_a_place_warns_once_by_default_as_with_pythons_own(code, inner):
    user = code(
        """
        def run(call):
            for _ in range(3):
                call()
            call()
        """
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        user.run(inner)
        user.run(inner)
    assert [warning.lineno for warning in caught] == [4, 5]


def test_filters_by_module_see_the_user_s(code, inner):
    user = code("def run(call):\n    call()\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", module="users_script")
        with pytest.raises(PlaceWarning, match="look here"):
            user.run(inner)


def test_the_helper_needs_no_torch():
    source = "import sys, smoothed_energy.settings.warning_place; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
