"""A run of a sweep: it draws what is missing, and writes the tables of what is there."""

from __future__ import annotations

__all__ = ["BATCH_SIZE", "SweepStopped", "count_done", "output_folder", "run"]

import errno
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from ..models.device import check_device
from .cluster import RayCluster, draw_on_ray
from .file import Sweep, SweepError
from .identity import PIPELINE
from .local import KeptWorkers, draw_locally, worker_count
from .pictures import PictureFolder
from .pipeline_sampler import PipelineSource
from .plan import Plan, Row, plan
from .progress import Progress, Silence
from .results import Results, stored_sweep
from .sampler import SamplerSource
from .tables import SWEEP, TimingLog, write_tables, write_text
from .todo import Todo
from .work import Outcome, Unit

#: How many pictures a worker draws at a time.
BATCH_SIZE = 4
_CHECKED_AT_ONCE = 2048
_READERS = 8


class SweepStopped(RuntimeError):  # noqa: N818 - not a mistake: what is drawn is kept
    """A run that ended before it had tried everything; what was drawn is kept."""


def run(  # noqa: PLR0913 - what a run can be told
    sweep: Sweep,
    out: str | Path | None = None,
    *,
    workers: int | None = None,
    batch_size: int = BATCH_SIZE,
    limit: int | None = None,
    progress: Progress | None = None,
    source: SamplerSource | None = None,
    ray: str | None = None,
    kept: KeptWorkers | None = None,
) -> Results:
    """Draw what is missing of a sweep.

    Workers are processes that import the calling script anew: in a script, call this under
    `if __name__ == "__main__":`.

    Args:
        sweep: The sweep.
        out: The folder; by default the one that the sweep names, or `out/NAME`.
        workers: How many processes; by default one a core, or one a GPU.
        batch_size: How many pictures a worker draws at a time. On the CPU it changes none of them.
        limit: Draw so many pictures at most.
        progress: Is told how it goes.
        source: What draws, in place of a pipeline.
        ray: The address of a Ray cluster whose nodes draw, or `"local"`.
        kept: Workers of this machine that stay for the next run.

    Returns:
        The results: what is there, what is missing and what failed.

    Raises:
        SweepError: If the sweep can't be run as it is.
        SweepStopped: If the disk is full, or no worker can open the model. Pictures that were drawn
            are kept.
    """
    _check_counts(workers=workers, batch_size=batch_size)
    planned = plan(sweep, drawn_by=PIPELINE if source is None else source.name)
    if source is None and ray is None and sweep.device != "auto":
        check_device(sweep.device, "device: ")
    source = source or _pipeline(planned, batch_size)
    folder = PictureFolder(output_folder(sweep, out))
    _prepare(planned, folder)
    missing = array("I", _missing(planned, folder))
    todo = Todo(planned, missing[:limit], batch_size)
    reporter = _Reporter(todo, folder, progress or Silence())
    reporter.begin(len(planned) - len(missing))
    try:
        if ray is None:
            count = min(workers or worker_count(planned.identity.device), todo.total)
            draw_locally(todo, source, folder, planned.identity, count, reporter.log, kept)
        elif todo.total:
            for outcome in draw_on_ray(todo, source, folder, planned, RayCluster(ray, workers)):
                reporter.tell(*outcome)
        reporter.write_tables(planned)
    finally:
        reporter.end()
    if todo.stopped is not None:
        raise SweepStopped(todo.stopped)
    # Not what another run may have left in the folder meanwhile.
    return Results(folder.root, planned)


class _Reporter:
    """What a run says of itself while it goes on: to its user, to the log, and in tables."""

    def __init__(self, todo: Todo, folder: PictureFolder, progress: Progress) -> None:
        self._todo = todo
        self._root = folder.root
        self._folder = folder
        self._progress = progress
        self._noted: set[str] = set()
        self._timings = TimingLog(folder.root)

    def begin(self, done: int) -> None:
        self._progress.begin(done + self._todo.total, done)

    def tell(self, unit: Unit, outcome: Outcome) -> None:
        label = unit.configuration.label
        lines = [f"warning: {label}: {note}" for note in outcome.notes]
        for line in lines:
            if line not in self._noted:
                self._progress.note(line)
        self._noted.update(lines)
        if outcome.trouble is not None:
            self._progress.note(f"{label}: {outcome.reason}")
        self._progress.advance(len(outcome.drawn) + outcome.found)

    def log(self, unit: Unit, outcome: Outcome, worker: int) -> None:
        self.tell(unit, outcome)
        try:
            self._timings.add(unit, outcome, worker)
        except OSError as error:
            self._todo.stop(_reason(self._root, error))

    def write_tables(self, planned: Plan) -> None:
        try:
            write_tables(planned, self._folder, self._todo.failures())
        except OSError as error:
            self._todo.stop(_reason(self._root, error))

    def end(self) -> None:
        self._progress.end()
        self._timings.close()


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and value < 1:
            raise SweepError(f"{name}={value}: expected 1 or more")


def output_folder(sweep: Sweep, out: str | Path | None = None) -> Path:
    """The folder of a sweep: the given one, the one that it names, or `out/NAME`."""
    return Path(out or sweep.output or Path("out") / sweep.name).expanduser()


def count_done(plan: Plan, out: str | Path) -> list[int]:
    """How many pictures of each configuration are there and whole.

    Args:
        plan: The plan.
        out: The folder of the sweep.
    """
    counts = [plan.pictures_each] * len(plan.configurations)
    for index in _missing(plan, PictureFolder(out)):
        counts[index // plan.pictures_each] -= 1
    return counts


def _pipeline(plan: Plan, batch_size: int) -> PipelineSource:
    sweep, identity = plan.sweep, plan.identity
    # A device with a number is one of this machine's.
    device = sweep.device if ":" in sweep.device else identity.device
    return PipelineSource(
        sweep.model, device, identity.dtype, sweep.controlnet, sweep.trace, batch_size
    )


def _prepare(plan: Plan, folder: PictureFolder) -> None:
    """Prepare a sweep's folder.

    Raises:
        SweepError: If no files can be written there.
        SweepStopped: If its disk is full.
    """
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        write_text(folder.root / SWEEP, stored_sweep(plan))
        folder.forget_unfinished()
    except OSError as error:
        kind = SweepStopped if error.errno in (errno.ENOSPC, errno.EDQUOT) else SweepError
        raise kind(_reason(folder.root, error)) from error


def _missing(plan: Plan, folder: PictureFolder) -> Iterator[int]:
    """The numbers of the rows whose pictures are not there, or not whole."""
    there = {path.name for path in (folder.root / "pictures").glob("??")}

    def is_missing(row: Row) -> bool:
        return row.id[:2] not in there or folder.read(row.id) is None

    rows = plan.rows()
    with ThreadPoolExecutor(_READERS) as readers:  # they wait for the disk
        while chunk := list(islice(rows, _CHECKED_AT_ONCE)):
            for row, missing in zip(chunk, readers.map(is_missing, chunk), strict=True):
                if missing:
                    yield row.index


def _reason(folder: Path, error: OSError) -> str:
    return f"{folder}: {error.strerror or error}; what was drawn is kept"
