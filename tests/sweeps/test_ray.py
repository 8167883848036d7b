"""Workers of a real Ray cluster, which is this machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_sampler import FakeSource, small_sweep

from smoothed_energy.sweeps import SweepError, SweepStopped, plan, run
from smoothed_energy.sweeps.pictures import PictureFolder

ray = pytest.importorskip("ray")

HERE = Path(__file__).parent
SWEEP = small_sweep()


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two workers and a CPU that reads and writes."""
    with pytest.MonkeyPatch.context() as patch:
        # Actors import the fake sampler, too.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *filter(None, sys.path)]))
        ray.init(
            num_cpus=3,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            log_to_driver=False,
            logging_level="error",
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, content):
    marks, out = tmp_path_factory.mktemp("marks"), tmp_path_factory.mktemp("undisturbed")
    assert run(SWEEP, out, workers=1, source=FakeSource(str(marks))).complete
    return content(out)


def test_actors_draw_what_local_workers_do_though_one_is_killed(
    tmp_path, fake, undisturbed, content
):
    source = fake(kills=(1,), once=True)
    results = run(SWEEP, tmp_path / "out", workers=2, batch_size=1, source=source, ray="local")
    assert results.complete and results.failures.empty
    assert len(source.workers) >= 3 and len(source.drawn) == 18
    assert content(tmp_path / "out") == undisturbed
    assert results.timings["pictures"].sum() == 18 and {*results.timings["worker"]} == {"ray"}


def test_failures_of_actors_are_listed_with_their_reasons(tmp_path, fake):
    source = fake(raises=(2,), hopeless="scale=3")
    with pytest.warns(UserWarning, match="no luck"):
        results = run(SWEEP, tmp_path / "out", workers=2, source=source, ray="local")
    table = results.failures.set_index(["configuration", "seed"])
    assert {*table.loc["scale=3", "reason"]} == {"ConfigurationError: scale=3 doesn't fit"}
    assert {*table.loc["unguided", "reason"]} == {"RuntimeError: no luck with seed 2"}
    assert {*table.loc["unguided", "attempts"]} == {3}
    assert len(results.pictures) == 8 and len(results.failures) == 10


def test_a_cluster_without_room_is_refused(tmp_path, fake):
    with pytest.raises(SweepError, match="3 CPUs of the Ray cluster have no room for 3 workers"):
        run(SWEEP, tmp_path / "out", workers=3, source=fake(), ray="local")


def wait_for(what, seconds=120.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_driver_that_is_killed_goes_on_where_it_was(tmp_path, fake, undisturbed, content):
    out, source = tmp_path / "out", fake()
    command = [sys.executable, HERE / "run_fake.py", out, source.marks, "0.5", "2", "local"]
    driver = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    wait_for(lambda: len([*out.glob("pictures/*/*.png")]) >= 3)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not [pid for pid in source.workers if Path(f"/proc/{pid}").exists()])
    there = len([*out.glob("pictures/*/*.png")])
    assert 3 <= there < 18
    drawn = len(source.drawn)
    assert run(SWEEP, out, workers=2, source=source, ray="local").complete
    assert len(source.drawn) - drawn == 18 - there
    assert content(out) == undisturbed


def test_a_model_that_no_actor_can_open_ends_the_run(tmp_path, fake):
    with pytest.raises(SweepStopped, match="ValueError: the model is not there"):
        run(SWEEP, tmp_path / "out", workers=2, source=fake(opens=False), ray="local")


def test_a_full_disk_ends_the_run_of_actors(small_disk, fake):
    source, out = fake(side=128), small_disk / "out"
    with pytest.raises(SweepStopped, match="No space left on device"), pytest.warns(UserWarning):
        run(SWEEP, out, workers=2, batch_size=1, source=source, ray="local")
    folder, rows = PictureFolder(out), [*plan(SWEEP, drawn_by="fake").rows()]
    there = [row.id for row in rows if folder.read(row.id) is not None]
    assert 3 <= len(there) < 18
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    drawn = len(source.drawn)
    assert run(SWEEP, out, workers=2, source=source, ray="local").complete
    assert len(source.drawn) == drawn + 18 - len(there)
