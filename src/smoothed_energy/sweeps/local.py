"""Workers on this machine: processes with one thread each, which may die without harm.

The driver and a worker talk over a pipe. A worker has one unit at a time; if it dies, killed or out
of memory, the driver sees the pipe end, notes that the unit failed and starts another worker. If
the driver dies, workers finish what they draw, write it, see the pipe end and leave.
"""

from __future__ import annotations

__all__ = ["KeptWorkers", "draw_locally", "worker_count"]

import multiprocessing
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from .identity import Identity
from .pictures import PictureFolder
from .sampler import SamplerSource
from .todo import Todo
from .work import Outcome, Trouble, Unit, draw_unit

#: Nothing of the driver is in a worker that it does not need: no threads, no GPU.
_START = "spawn"
_READY = "ready"
#: So many workers in a row may fail to open the model.
_OPENINGS = 3
_PATIENCE = 10.0


def worker_count(device: str) -> int:
    """As many workers as suit a device: one a GPU, or one a core."""
    if torch.device(device).type == "cuda":
        return max(torch.cuda.device_count(), 1)
    if torch.device(device).type == "cpu":
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    return 1


@dataclass
class _Worker:
    """A worker as the driver sees it.

    Attributes:
        number: Its number; one that takes the place of another has the same.
        process: The process.
        pipe: The driver's end of the pipe.
        is_open: Whether its model is open.
        unit: What it draws.
    """

    number: int
    process: BaseProcess
    pipe: Connection
    is_open: bool = False
    unit: Unit | None = None


class KeptWorkers:
    """Workers that stay for the next run: to open a model takes longer than to draw a few pictures.

    They stay while runs have the same source, folder and identity. Close it when no run follows.
    """

    def __init__(self) -> None:
        self._workers: list[_Worker] = []
        self._given: tuple[Any, ...] | None = None

    def take(self, given: tuple[Any, ...]) -> list[_Worker]:
        """The workers that were started with these; others leave."""
        if given != self._given:
            self.close()
        workers, self._workers = self._workers, []
        return workers

    def keep(self, given: tuple[Any, ...], workers: list[_Worker]) -> None:
        """Keep workers that are open and have no unit."""
        self._given, self._workers = given, workers

    def close(self) -> None:
        """Let all of them go."""
        _let_go(self._workers)


def draw_locally(  # noqa: PLR0913 - what drawing needs
    todo: Todo,
    source: SamplerSource,
    folder: PictureFolder,
    identity: Identity,
    workers: int,
    report: Any,
    kept: KeptWorkers | None = None,
) -> None:
    """Draw all that is to do.

    Args:
        todo: The rows.
        source: Opens the model in each worker.
        folder: Where pictures are written.
        identity: What they depend on.
        workers: How many processes.
        report: Is called with each unit, its outcome and the number of the worker.
        kept: Workers of earlier runs, and where those of this one stay if nothing goes wrong.
    """
    _Pool(todo, source, folder, identity, report).run(workers, kept)


class _Pool:
    def __init__(
        self,
        todo: Todo,
        source: SamplerSource,
        folder: PictureFolder,
        identity: Identity,
        report: Any,
    ) -> None:
        self._todo = todo
        self._given = (source, folder.root, identity)
        self._report = report
        self._context: Any = multiprocessing.get_context(_START)
        self._workers: list[_Worker] = []
        self._failed_openings = 0
        self._why = ""

    def run(self, count: int, kept: KeptWorkers | None) -> None:
        self._workers = [] if kept is None else kept.take(self._given)
        try:
            while self._todo.has_more or self._are_busy:
                self._hand_out(count)
                if self._are_busy:
                    for pipe in wait([worker.pipe for worker in self._workers]):
                        self._hear(next(one for one in self._workers if one.pipe is pipe))
                elif not self._workers and self._failed_openings >= _OPENINGS:
                    self._todo.stop(f"no worker can open the model: {self._why}")
            if kept is not None:
                kept.keep(self._given, self._workers)
                self._workers = []
        finally:
            _let_go(self._workers)

    @property
    def _are_busy(self) -> bool:
        """Whether a worker draws, or opens the model."""
        return any(worker.unit or not worker.is_open for worker in self._workers)

    def _hand_out(self, count: int) -> None:
        """Give units to workers that have none, and start workers while there are units."""
        for worker in self._workers:
            if worker.is_open and worker.unit is None:
                worker.unit = self._todo.take()
                if worker.unit is not None:
                    with suppress(BrokenPipeError, ConnectionError):  # the pipe tells of it next
                        worker.pipe.send(worker.unit)
        free = sorted({*range(count)} - {worker.number for worker in self._workers})
        if self._todo.has_more and free and self._failed_openings < _OPENINGS:
            # The first one shows whether the model can be opened at all.
            ready = any(worker.is_open for worker in self._workers)
            for number in free if ready else free[: not self._workers]:
                self._start(number)

    def _start(self, number: int) -> None:
        mine, others = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(others, number, *self._given), name=f"sweep-{number}", daemon=True
        )
        process.start()
        others.close()
        self._workers.append(_Worker(number, process, mine))

    def _hear(self, worker: _Worker) -> None:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if message == _READY:
            worker.is_open = True
            self._failed_openings = 0
        elif isinstance(message, Outcome) and worker.unit is not None:
            unit, worker.unit = worker.unit, None
            self._note(unit, message, worker.number)
        else:
            self._cannot_open(worker, str(message))

    def _bury(self, worker: _Worker) -> None:
        """Take a worker that died off, and note what it leaves."""
        worker.process.join(_PATIENCE)
        reason = f"its worker died ({_ending(worker.process.exitcode)})"
        if worker.unit is not None:
            self._remove(worker)
            outcome = Outcome(trouble=Trouble.FAILED, reason=reason)
            self._note(worker.unit, outcome, worker.number)
        elif worker.is_open:
            self._remove(worker)
        else:
            self._cannot_open(worker, reason)

    def _cannot_open(self, worker: _Worker, reason: str) -> None:
        self._remove(worker)
        self._failed_openings += 1
        self._why = reason

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.pipe.close()

    def _note(self, unit: Unit, outcome: Outcome, worker: int) -> None:
        self._todo.report(unit, outcome)
        self._report(unit, outcome, worker)


def _let_go(workers: list[_Worker]) -> None:
    """Let workers go; those that still draw are stopped."""
    for worker in workers:
        worker.pipe.close()
        if worker.unit is not None:
            worker.process.terminate()
    for worker in workers:
        worker.process.join(_PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
    workers.clear()


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, perhaps out of memory" if -code == signal.SIGKILL else name


def _work(
    pipe: Connection, number: int, source: SamplerSource, root: Path, identity: Identity
) -> None:
    """A worker's life: open the model, then draw units until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides
    torch.set_num_threads(1)
    try:
        sampler = source.open(number)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {' '.join(str(error).split())}")
        return
    folder = PictureFolder(root)
    try:
        pipe.send(_READY)
        while True:
            pipe.send(draw_unit(sampler, folder, pipe.recv(), identity))
    except (EOFError, ConnectionError):
        return  # the driver is done, or dead
