"""A run of a sweep: it draws what is missing, and writes the tables of what is there."""

from __future__ import annotations

__all__ = ["BATCH_SIZE", "SweepStopped", "count_done", "output_folder", "run"]

import errno
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from .cluster import RayCluster, draw_on_ray
from .file import Sweep, SweepError
from .local import draw_locally, worker_count
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

    Returns:
        The results: what is there, what is missing and what failed.

    Raises:
        SweepError: If the sweep can't be run as it is.
        SweepStopped: If the disk is full, or no worker can open the model. Pictures that were drawn
            are kept.
    """
    for name, value in (("workers", workers), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise SweepError(f"{name}={value}: expected 1 or more")
    planned = plan(sweep, drawn_by="pipeline" if source is None else source.name)
    folder = PictureFolder(output_folder(sweep, out))
    _prepare(planned, folder)
    progress = progress or Silence()
    missing = array("I", _missing(planned, folder))
    done = len(planned) - len(missing)
    todo = Todo(planned, missing[:limit], batch_size)

    def tell(unit: Unit, outcome: Outcome) -> None:
        for note in outcome.notes:
            if note not in noted:
                noted.add(note)
                progress.note(f"warning: {unit.configuration.label}: {note}")
        if outcome.trouble is not None:
            progress.note(f"{unit.configuration.label}: {outcome.reason}")
        progress.advance(len(outcome.drawn) + outcome.found)

    def report(unit: Unit, outcome: Outcome, worker: int) -> None:
        tell(unit, outcome)
        try:
            log.add(unit, outcome, worker)
        except OSError as error:
            todo.stop(_reason(folder.root, error))

    noted: set[str] = set()
    log = TimingLog(folder.root)
    progress.begin(done + todo.total, done)
    try:
        source = source or _pipeline(planned, batch_size)
        if ray is None:
            count = min(workers or worker_count(planned.identity.device), todo.total)
            draw_locally(todo, source, folder, planned.identity, count, report)
        elif todo.total:
            for unit, outcome in draw_on_ray(todo, source, folder, planned, RayCluster(ray, workers)):
                tell(unit, outcome)
        try:
            write_tables(planned, folder, todo.failures())
        except OSError as error:
            todo.stop(_reason(folder.root, error))
    finally:
        progress.end()
        log.close()
    if todo.stopped is not None:
        raise SweepStopped(todo.stopped)
    return Results.open(folder.root)


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
