"""Workers on a Ray cluster: a pool of actors that draw units and write each picture themselves.

Only numbers of rows travel to the actors, and a few lines on each unit come back, which Ray writes
as Parquet. Pictures go from an actor to the folder, which all nodes must see under one path.

References:
    https://docs.ray.io/en/latest/data/api/doc/ray.data.Dataset.map_batches.html
"""

from __future__ import annotations

__all__ = ["RayCluster", "draw_on_ray"]

import importlib
import os
import secrets
import tempfile
import warnings
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .file import SweepError
from .identity import current_versions
from .pictures import PictureFolder
from .plan import Plan
from .sampler import SamplerSource
from .tables import UNITS, pyarrow, read_units
from .todo import Todo
from .work import Outcome, Trouble, Unit, draw_unit

LOCAL = "local"
#: How often a task whose actor died is given to another one, within one round.
_TASK_RETRIES = 1
_BLOCKS = 1000
#: So many bytes must find room on a disk that is not full.
_PROBE = 2**18
# Nothing but rows' numbers and outcomes is kept in it.
_OBJECT_STORE = 200 * 2**20


@dataclass(frozen=True)
class RayCluster:
    """A cluster, and how much of it a sweep may take.

    Args:
        address: What `ray.init` takes, such as `"auto"` on one of its nodes, or `"local"` for one
            on this machine that ends with the run. If Ray is initialised already, that is used.
        workers: How many actors; by default one a GPU, or one a CPU apart from one that reads and
            writes.
    """

    address: str
    workers: int | None = None


def draw_on_ray(
    todo: Todo, source: SamplerSource, folder: PictureFolder, plan: Plan, cluster: RayCluster
) -> Iterator[tuple[Unit, Outcome]]:
    """Draw all that is to do, in rounds: what failed in one is tried again in the next.

    Args:
        todo: The rows.
        source: Opens the model in each actor.
        folder: Where pictures are written.
        plan: The plan.
        cluster: The cluster.

    Yields:
        Each unit and what came out of it, at the end of its round.

    Raises:
        SweepError: If the cluster has not what it takes.
    """
    with _connected(cluster) as ray:
        actors = _actors(ray, plan, cluster)
        folder = PictureFolder(folder.root.resolve())
        drawer = ray.put((plan, source, folder))
        while units := [array("I", [row.index for row in unit.rows]) for unit in _all(todo)]:
            place = folder.root / UNITS / secrets.token_hex(6)
            try:
                _draw(ray, units, drawer, plan, actors, place)
            except Exception as error:  # of many kinds, and the pictures are there
                todo.stop(_first_line(error))
            outcomes = _outcomes(place)
            unheard = Outcome() if len(outcomes) == len(units) else _no_answer(folder.root)
            for number, indices in enumerate(units):
                rows = tuple(map(plan.row, indices))
                unit = Unit(plan.configurations[rows[0].configuration], rows)
                outcome = outcomes.get(number, unheard)
                todo.report(unit, outcome)
                yield unit, outcome


def _all(todo: Todo) -> Iterator[Unit]:
    while (unit := todo.take()) is not None:
        yield unit


def _draw(
    ray: Any, units: Sequence[array[int]], drawer: Any, plan: Plan, actors: int, place: Path
) -> None:
    """One round: every unit goes through an actor, and what comes out of it to a Parquet file."""
    pa = pyarrow()
    size = -(-len(units) // _BLOCKS)
    blocks = [
        pa.table({"unit": [*numbers], "rows": [units[number].tolist() for number in numbers]})
        for start in range(0, len(units), size)
        for numbers in [range(start, min(start + size, len(units)))]
    ]
    on_gpu = plan.identity.device == "cuda"
    with _retries(ray):  # a data set remembers how it was when it was made
        outcomes = ray.data.from_arrow(blocks).map_batches(
            _Drawer,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                size=min(actors, len(blocks)), max_tasks_in_flight_per_actor=2
            ),
            fn_constructor_args=(drawer,),
            num_cpus=1,
            num_gpus=1 if on_gpu else 0,
            max_restarts=-1,  # Ray's own limit of retries would be none
            max_task_retries=_TASK_RETRIES,
        )
        outcomes.write_parquet(str(place))


@contextmanager
def _retries(ray: Any) -> Iterator[None]:
    """What Ray tries again by itself, as long as a round takes."""
    context = ray.data.DataContext.get_current()
    wanted = {
        "actor_init_retry_on_errors": True,
        "actor_init_max_retries": _TASK_RETRIES,
        "actor_task_retry_on_errors": True,
        "max_errored_blocks": -1,  # what is missing afterwards is tried in the next round
    }
    # Not all versions know all of them.
    before = {name: getattr(context, name) for name in wanted if hasattr(context, name)}
    try:
        for name in before:
            setattr(context, name, wanted[name])
        with warnings.catch_warnings():
            # Ray 2.60 says so of the limits of retries, for which there is no other way yet.
            warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
            yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


class _Drawer:
    """An actor: it opens the model once, and draws a unit at each call."""

    def __init__(self, drawer: Any) -> None:
        plan, source, folder = importlib.import_module("ray").get(drawer)
        self._plan: Plan = plan
        self._folder: PictureFolder = folder
        self._hopeless: dict[int, Outcome] = {}
        self._disk_full: Outcome | None = None
        here, wanted = current_versions(), dict(plan.identity.versions)
        if here != wanted:
            raise RuntimeError(f"this node has {here}; the sweep was planned with {wanted}")
        torch.set_num_threads(1)
        self._sampler = source.open(0)

    def __call__(self, batch: Any) -> Any:
        outcomes = [self._drawn(unit["unit"], unit["rows"]) for unit in batch.to_pylist()]
        return pyarrow().Table.from_pylist(outcomes, schema=_schema())

    def _drawn(self, number: int, indices: Sequence[int]) -> dict[str, Any]:
        rows = tuple(map(self._plan.row, indices))
        unit = Unit(self._plan.configurations[rows[0].configuration], rows)
        # The driver hears of it at the end of the round only.
        outcome = self._disk_full or self._hopeless.get(unit.configuration.index)
        if outcome is None:
            outcome = draw_unit(self._sampler, self._folder, unit, self._plan.identity)
            if outcome.trouble is Trouble.HOPELESS:
                self._hopeless[unit.configuration.index] = Outcome(
                    trouble=outcome.trouble, reason=outcome.reason
                )
            elif outcome.trouble is Trouble.DISK_FULL:
                self._disk_full = Outcome(trouble=outcome.trouble, reason=outcome.reason)
        return {
            "unit": number,
            "configuration": unit.configuration.label,
            "first": rows[0].id,
            "drawn": list(outcome.drawn),
            "found": outcome.found,
            "seconds": outcome.seconds,
            "trouble": "" if outcome.trouble is None else outcome.trouble.value,
            "reason": outcome.reason,
            "notes": list(outcome.notes),
        }


def _schema() -> Any:
    pa = pyarrow()
    texts = pa.list_(pa.string())
    return pa.schema(
        [
            ("unit", pa.int64()),
            ("configuration", pa.string()),
            ("first", pa.string()),
            ("drawn", texts),
            ("found", pa.int64()),
            ("seconds", pa.float64()),
            ("trouble", pa.string()),
            ("reason", pa.string()),
            ("notes", texts),
        ]
    )


def _outcomes(place: Path) -> dict[int, Outcome]:
    """What Ray wrote of the units of a round."""
    return {
        row["unit"]: Outcome(
            tuple(row["drawn"]),
            row["found"],
            row["seconds"],
            Trouble(row["trouble"]) if row["trouble"] else None,
            row["reason"],
            tuple(row["notes"]),
        )
        for row in read_units(place)
    }


def _no_answer(root: Path) -> Outcome:
    """The outcome of units of which nothing was heard: their actor died, or could not write."""
    try:
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Outcome(trouble=Trouble.DISK_FULL, reason=f"{root}: {error.strerror or error}")
    return Outcome(
        trouble=Trouble.FAILED, reason="its actor died, perhaps out of memory, or its node was lost"
    )


def _actors(ray: Any, plan: Plan, cluster: RayCluster) -> int:
    """How many actors the pool has.

    Raises:
        SweepError: If the cluster has no room for them, or GPUs that would idle.
    """
    there = ray.cluster_resources()
    gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    if plan.identity.device == "cuda":
        if not gpus:
            raise SweepError("device: cuda, and the Ray cluster has no GPU")
        return cluster.workers or gpus
    if gpus and plan.sweep.device == "auto":
        raise SweepError(
            f"the Ray cluster has {gpus} GPUs, and on this machine device: auto is "
            f"{plan.identity.device}; write device and dtype in the file"
        )
    actors = cluster.workers or cpus - 1
    if not 0 < actors < cpus:
        raise SweepError(
            f"{cpus} CPUs of the Ray cluster have no room for {max(actors, 1)} workers and for one "
            "that reads and writes; expected fewer workers"
        )
    return actors


@contextmanager
def _connected(cluster: RayCluster) -> Iterator[Any]:
    """Ray, connected to the cluster; what was not connected before is afterwards not, either.

    Raises:
        ImportError: If Ray is not installed.
        SweepError: If there is no cluster at the address.
    """
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise ImportError(
            "sweeps on a cluster need Ray: pip install 'smoothed-energy[ray]'"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False}
    if cluster.address == LOCAL:
        options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
        if cluster.workers is not None:
            options["num_cpus"] = cluster.workers + 1
    try:
        ray.init(address=cluster.address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SweepError(f"no Ray cluster at {cluster.address!r}: {_first_line(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Ray puts an error of an actor last, after a traceback.
    return lines[-1] if lines else repr(error)
