"""Workers of this machine: what is missing is drawn, whatever dies."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_sampler import picture, small_sweep
from PIL import Image

from smoothed_energy.sweeps import Results, SweepError, SweepStopped, plan, run
from smoothed_energy.sweeps.local import KeptWorkers
from smoothed_energy.sweeps.pictures import PictureFolder

SWEEP = small_sweep()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, content):
    from fake_sampler import FakeSource

    marks, out = tmp_path_factory.mktemp("marks"), tmp_path_factory.mktemp("undisturbed")
    results = run(SWEEP, out, workers=1, source=FakeSource(str(marks)))
    assert results.complete
    return content(out)


class Notes:
    """A progress that keeps what it is told."""

    def __init__(self):
        self.lines, self.advanced, self.began = [], 0, None

    def begin(self, total, done):
        self.began = total, done

    def advance(self, pictures):
        self.advanced += pictures

    def note(self, line):
        self.lines.append(line)

    def end(self):
        self.ended = True


def test_every_row_is_drawn_once_and_is_what_the_sampler_drew(tmp_path, fake):
    source = fake()
    results = run(SWEEP, tmp_path / "out", workers=2, batch_size=2, source=source)
    assert len(results.pictures) == 18 and results.complete and results.missing.empty
    assert sorted(Counter(source.drawn).values()) == [1] * 18
    assert len(source.workers) == 2
    for row in results.pictures.itertuples():
        settings = results.plan.configuration(row.configuration).settings
        with Image.open(tmp_path / "out" / row.path) as image:
            assert (np.asarray(image) == np.asarray(picture(settings, row.prompt, row.seed))).all()
        assert row.seed_mod == row.seed % 7
    order = [(row.configuration, row.prompt, row.seed) for row in results.pictures.itertuples()]
    labels = ["scale=1", "scale=3", "unguided"]
    assert order == [(label, p, s) for label in labels for p in ("", "a cat") for s in range(3)]
    assert results.paths("scale=3") == [
        tmp_path / "out" / path for path in results.pictures["path"][6:12]
    ]


def test_a_second_run_draws_nothing_and_writes_the_same(tmp_path, fake, content):
    run(SWEEP, tmp_path / "out", workers=1, source=fake())
    before = content(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/pictures/*/*")}
    source, notes = fake(), Notes()
    drawn = len(source.drawn)
    run(SWEEP, tmp_path / "out", workers=1, source=source, progress=notes)
    assert len(source.drawn) == drawn
    assert notes.began == (18, 18) and notes.advanced == 0
    assert content(tmp_path / "out") == before
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/pictures/*/*")}


def test_an_amended_sweep_keeps_what_still_applies(tmp_path, fake):
    source = fake()
    run(SWEEP, tmp_path / "out", workers=1, source=source)
    amended = small_sweep(name="other", seeds="1-3", axes=[{"guidance.scale": [3, 5]}])
    results = run(amended, tmp_path / "out", workers=1, source=source)
    assert results.complete and len(results.pictures) == 18
    new = Counter(source.drawn)
    # Of the first sweep: scale 3 and unguided with the seeds 1 and 2.
    assert len(source.drawn) == 18 + 18 - 2 * 2 * 2
    assert all(count == 1 for count in new.values())


def test_a_limit_is_kept_and_the_rest_follows(tmp_path, fake, undisturbed, content):
    source = fake()
    results = run(SWEEP, tmp_path / "out", workers=1, limit=5, source=source)
    assert len(results.pictures) == 5 and len(results.missing) == 13 and not results.complete
    assert results.failures.empty
    run(SWEEP, tmp_path / "out", workers=1, source=source)
    assert content(tmp_path / "out") == undisturbed


def damage(path, how):
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "without its last byte":
        path.write_bytes(data[:-1])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "a flipped bit":
        path.write_bytes(data[:-40] + bytes([data[-40] ^ 1]) + data[-39:])
    elif how == "another picture":
        others = [other for other in path.parents[1].glob("*/*.png") if other != path]
        path.write_bytes(others[0].read_bytes())
    elif how == "foreign":
        Image.new("RGB", (8, 8)).save(path)


@pytest.mark.parametrize(
    "how",
    ["truncated", "without its last byte", "empty", "a flipped bit", "another picture", "foreign"],
)
def test_a_damaged_picture_is_drawn_again(how, tmp_path, fake, undisturbed, content):
    source = fake()
    run(SWEEP, tmp_path / "out", workers=1, source=source)
    damage(next((tmp_path / "out").glob("pictures/*/*.png")), how)
    results = run(SWEEP, tmp_path / "out", workers=1, source=source)
    assert results.complete and len(source.drawn) == 19
    assert content(tmp_path / "out") == undisturbed


def test_a_worker_that_is_killed_loses_nothing(tmp_path, fake, undisturbed, content):
    source, notes = fake(kills=(1,), once=True), Notes()
    results = run(SWEEP, tmp_path / "out", workers=2, source=source, progress=notes)
    assert results.complete and results.failures.empty
    assert any("SIGKILL, perhaps out of memory" in line for line in notes.lines)
    assert len(source.workers) >= 3
    assert content(tmp_path / "out") == undisturbed


def test_a_picture_that_kills_every_worker_is_listed_and_others_are_drawn(tmp_path, fake, content):
    source, notes = fake(kills=(1,)), Notes()
    results = run(SWEEP, tmp_path / "out", workers=2, source=source, progress=notes)
    assert len(results.pictures) == 12
    assert [*results.failures["seed"]] == [1] * 6 == [*results.missing["seed"]]
    assert [*results.failures["attempts"]] == [3] * 6
    assert all("SIGKILL" in reason for reason in results.failures["reason"])
    healed = run(SWEEP, tmp_path / "out", workers=1, source=fake())
    assert healed.complete and healed.failures.empty


def test_an_error_is_tried_again_and_then_listed_with_its_reason(tmp_path, fake):
    results = run(SWEEP, tmp_path / "out", workers=1, source=fake(raises=(2,)), progress=Notes())
    assert [*results.failures["seed"]] == [2] * 6
    assert {*results.failures["reason"]} == {"RuntimeError: no luck with seed 2"}
    assert [*results.failures["attempts"]] == [3] * 6
    assert len(results.pictures) == 12


def test_a_configuration_that_does_not_fit_is_tried_once(tmp_path, fake):
    notes = Notes()
    results = run(
        SWEEP, tmp_path / "out", workers=1, source=fake(hopeless="scale=3"), progress=notes
    )
    assert {*results.failures["configuration"]} == {"scale=3"} and len(results.failures) == 6
    assert len([line for line in notes.lines if "doesn't fit" in line]) == 1
    assert len(results.pictures) == 12


def test_a_model_that_no_worker_can_open_ends_the_run(tmp_path, fake):
    with pytest.raises(
        SweepStopped, match="no worker can open the model: ValueError: the model is"
    ):
        run(SWEEP, tmp_path / "out", workers=2, source=fake(opens=False))
    assert Results.open(tmp_path / "out").pictures.empty


def test_two_runs_at_once_into_one_folder_end_with_one_result(tmp_path, undisturbed, content):
    script = Path(__file__).with_name("run_fake.py")
    out, marks = tmp_path / "out", tmp_path / "marks"
    marks.mkdir()
    runs = [subprocess.Popen([sys.executable, script, out, marks, "0.02", "1"]) for _ in range(2)]
    assert [run.wait(120) for run in runs] == [0, 0]
    assert content(out) == undisturbed
    assert not [*out.glob("**/*.unfinished")]


def wait_for(what, seconds=60.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_driver_that_is_killed_leaves_pictures_and_no_workers(
    tmp_path, fake, undisturbed, content
):
    script = Path(__file__).with_name("run_fake.py")
    out, source = tmp_path / "out", fake()
    driver = subprocess.Popen([sys.executable, script, out, source.marks, "0.2", "2"])
    wait_for(lambda: len([*out.glob("pictures/*/*.png")]) >= 3)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not [pid for pid in source.workers if Path(f"/proc/{pid}").exists()])
    there = {path.stem for path in out.glob("pictures/*/*.png")}
    assert 3 <= len(there) < 18
    with pytest.raises(SweepError, match="run the sweep again"):
        Results.open(out)
    drawn = len(source.drawn)
    results = run(SWEEP, out, workers=1, source=source)
    assert results.complete and len(source.drawn) == drawn + 18 - len(there)
    assert content(out) == undisturbed


def test_a_full_disk_ends_the_run_and_keeps_what_is_drawn(small_disk, tmp_path, fake, content):
    source = fake(side=128)  # 48 kB each: not all of them fit
    out = small_disk / "out"
    with pytest.raises(SweepStopped, match="No space left on device"):
        run(SWEEP, out, workers=2, batch_size=1, source=source, progress=Notes())
    folder, rows = PictureFolder(out), [*plan(SWEEP, drawn_by="fake").rows()]
    there = [row.id for row in rows if folder.read(row.id) is not None]
    assert 3 <= len(there) < 18
    assert len([*out.glob("pictures/*/*")]) == len(there)  # and nothing half written
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    drawn = len(source.drawn)
    assert run(SWEEP, out, workers=2, batch_size=1, source=source).complete
    assert len(source.drawn) == drawn + 18 - len(there)
    run(SWEEP, tmp_path / "other", workers=1, source=replace(source))
    assert content(out) == content(tmp_path / "other")


def test_a_full_disk_is_told_where_none_can_be_mounted(tmp_path, fake, monkeypatch):
    """The same with a writer that fails, in this process."""
    from smoothed_energy.sweeps.todo import Todo
    from smoothed_energy.sweeps.work import Trouble, draw_unit

    planned, folder = plan(SWEEP, drawn_by="fake"), PictureFolder(tmp_path / "out")
    todo = Todo(planned, range(18), 4)
    unit = todo.take()
    write, count = PictureFolder.write, iter(range(100))

    def full(self, *given):
        if next(count) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, *given)

    monkeypatch.setattr(PictureFolder, "write", full)
    outcome = draw_unit(fake().open(0), folder, unit, planned.identity)
    assert outcome.trouble is Trouble.DISK_FULL and len(outcome.drawn) == 2
    todo.report(unit, outcome)
    assert todo.take() is None and "No space left" in todo.stopped


def test_a_folder_that_takes_no_files_is_refused(tmp_path, fake):
    (tmp_path / "out").write_text("")
    with pytest.raises(SweepError, match="out"):
        run(SWEEP, tmp_path / "out", workers=1, source=fake())
    for wrong in ({"workers": 0}, {"batch_size": 0}):
        with pytest.raises(SweepError, match="expected 1 or more"):
            run(SWEEP, tmp_path / "new", source=fake(), **wrong)


def is_there(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_kept_workers_draw_the_next_run_too(tmp_path, fake):
    source, kept = fake(), KeptWorkers()
    more = small_sweep(seeds="3-5")
    try:
        first = run(SWEEP, tmp_path / "out", workers=2, source=source, kept=kept)
        started = set(source.workers)
        second = run(more, tmp_path / "out", workers=2, source=source, kept=kept)
        assert first.complete and second.complete
        assert len(source.drawn) == 36
        assert set(source.workers) == started and len(started) == 2
        # Nothing is to do: they stay.
        run(more, tmp_path / "out", workers=2, source=source, kept=kept)
        # Another folder, other workers.
        run(SWEEP, tmp_path / "other", workers=1, source=source, kept=kept)
        assert len(source.workers) == 3
        assert not any(is_there(process) for process in started)
    finally:
        kept.close()
    assert not any(is_there(process) for process in source.workers)


def test_a_kept_worker_that_died_is_replaced(tmp_path, fake):
    source, kept = fake(), KeptWorkers()
    try:
        run(SWEEP, tmp_path / "out", workers=1, source=source, kept=kept)
        (process,) = source.workers
        os.kill(process, signal.SIGKILL)
        results = run(
            small_sweep(seeds="3-5"), tmp_path / "out", workers=1, source=source, kept=kept
        )
        assert results.complete and len(source.workers) == 2
    finally:
        kept.close()


def test_workers_are_not_kept_by_a_run_that_ends_early(tmp_path, fake):
    class Broken(Notes):
        def advance(self, pictures):
            raise KeyboardInterrupt

    source, kept = fake(), KeptWorkers()
    with pytest.raises(KeyboardInterrupt):
        run(
            SWEEP,
            tmp_path / "out",
            workers=1,
            batch_size=1,
            source=source,
            kept=kept,
            progress=Broken(),
        )
    assert not any(is_there(process) for process in source.workers)
    kept.close()
