"""Folders for sweeps, and what is in them."""

import multiprocessing
import os
import subprocess

import pytest
from fake_sampler import FakeSource


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Digests of weights are remembered for the test only."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session", autouse=True)
def _fast_workers():
    """Workers fork from a server that has torch; `test_embedded.py` has them as they are."""
    multiprocessing.set_forkserver_preload(["smoothed_energy.sweeps.local"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smoothed_energy.sweeps.local._START", "forkserver")
        yield


@pytest.fixture
def fake(tmp_path):
    """Makes a source that keeps its marks in a folder of the test."""
    marks = tmp_path / "marks"
    marks.mkdir()
    return lambda **given: FakeSource(str(marks), **given)


@pytest.fixture(scope="session")
def content():
    """What determines a folder's results: bytes of pictures, and rows of its tables."""
    import pandas as pd

    def content(folder):
        pictures = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.glob("pictures/*/*.png"))
        }
        tables = {
            name: pd.read_parquet(folder / f"{name}.parquet").to_dict("records")
            for name in ("pictures", "configurations")
        }
        return pictures, repr(tables)

    return content


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with room for some pictures."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = (
        os.name == "posix"
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", place], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting a small file system is not permitted here")
    yield place
    subprocess.run(["umount", place], check=True)
