"""The schedule of a `diffusers` scheduler, and the position of a timestep in it.

The schedule is the scheduler's own list of `timesteps` after `set_timesteps`. Some repeat timesteps
(Heun, PNDM, ...): each distinct one is one noise level, in order of appearance. Those that evaluate
the model *between* two noise levels (KDPM2, DPMSolverSDE) count the levels in between, too.
"""

from __future__ import annotations

__all__ = ["Schedule", "schedule_position"]

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .noise import numbers_of, scheduled_noise
from .position import StepPosition

#: What a schedule is read from, besides the configuration.
_LISTS = ("timesteps", "sigmas", "alphas_cumprod")


class _Source(NamedTuple):
    """One of a scheduler's lists, and its version or values, which tell of changes in place."""

    name: str
    list: Any
    version: int | None
    values: Sequence[float] | None


def _source_of(scheduler: Any, name: str) -> _Source:
    """A list as it is now; a tensor made in inference mode has no version."""
    source = getattr(scheduler, name, None)
    if source is None:
        return _Source(name, None, None, None)
    if isinstance(source, Tensor) and not source.is_inference():
        return _Source(name, source, source._version, None)
    return _Source(name, source, None, numbers_of(source))


class Schedule:
    """The distinct noise levels of a scheduler, read once.

    It keeps what it was read from, so that `is_of` can tell whether that is still in use. It does
    not keep the scheduler.

    Args:
        scheduler: Any object with `timesteps`.

    Raises:
        ValueError: If the scheduler has no timesteps.
    """

    def __init__(self, scheduler: Any) -> None:
        self._owner = type(scheduler).__name__
        self._config = getattr(scheduler, "config", None)
        # Before the values are read: a change in between then makes this schedule out of date.
        self._sources = [_source_of(scheduler, name) for name in _LISTS]
        timesteps = self._sources[0].list
        if timesteps is None or len(timesteps) == 0:
            raise ValueError(f"{self._owner} has no timesteps yet; call set_timesteps on it first")
        self._times = numbers_of(timesteps)
        if "DDPMWuerstchen" in self._owner:
            self._times = self._times[:-1]  # the last is that of the finished picture
        self._levels = _distinct(self._times)
        noise = scheduled_noise(scheduler, self._times)
        self._positions: dict[float, StepPosition] = {}
        for index, level in enumerate(self._levels):
            sigma = noise.at(self._times.index(level))
            self._positions[level] = StepPosition(index, len(self._levels), sigma, level)

    def is_of(self, scheduler: Any) -> bool:
        """Whether a scheduler still has the lists, unchanged, that this was read from.

        Changes of a tensor are known by its version, or by its values if it has none, such as one
        made in inference mode. The configuration counts as changed when it is another object.
        """
        for name, source, version, values in self._sources:
            now: Any = getattr(scheduler, name, None)
            if now is not source:
                return False
            if version is not None and now._version != version:
                return False
            if values is not None and numbers_of(now) != values:
                return False
        return getattr(scheduler, "config", None) is self._config

    def position(self, timestep: int | float | Tensor) -> StepPosition:
        """The position of a timestep.

        Args:
            timestep: The timestep given to the denoiser: a number, or a tensor of equal ones.
                Rounded ones (in half precision) match the nearest in the schedule.

        Raises:
            ValueError: If the tensor holds different timesteps, or the timestep is not in the
                schedule.
        """
        wanted = _one_value(timestep)
        known = self._positions.get(wanted)
        return self._positions[self._nearest(wanted)] if known is None else known

    def _nearest(self, wanted: float) -> float:
        """The noise level that a timestep was rounded from."""
        distances = [abs(level - wanted) for level in self._levels]
        distance = min(distances)
        nearest = self._levels[distances.index(distance)]
        gap = min([abs(level - nearest) for level in self._levels if level != nearest], default=0.0)
        # Half the gap, or what rounding to bfloat16 (8 bits) can do to the nearest.
        if not distance <= max(gap / 2, abs(nearest) * 2**-8):
            raise ValueError(
                f"timestep {wanted:g} is not in the schedule of {self._owner}, whose "
                f"{len(self._levels)} timesteps go from {self._levels[0]:g} to "
                f"{self._levels[-1]:g}"
            )
        return nearest


_SCHEDULES: WeakKeyDictionary[Any, Schedule] = WeakKeyDictionary()
# Reentrant, since collecting garbage may call anything while the lock is held.
_LOCK = threading.RLock()


def schedule_position(scheduler: Any, timestep: int | float | Tensor) -> StepPosition:
    """The position of a timestep in the schedule of a `diffusers` scheduler.

    The scheduler's lists are read again only when they are others, or have changed.

    Args:
        scheduler: Any object with `timesteps`.
        timestep: The timestep given to the denoiser: a number, or a tensor of equal ones. Rounded
            ones (in half precision) match the nearest in the schedule.

    Returns:
        The position; its `sigma` is None if the scheduler tells no noise levels.

    Raises:
        ValueError: If the scheduler has no timesteps, the tensor holds different ones, or the
            timestep is not in the schedule.
    """
    try:
        with _LOCK:
            schedule = _SCHEDULES.get(scheduler)
    except TypeError:  # It has no hash, or no weak references.
        return Schedule(scheduler).position(timestep)
    if schedule is None or not schedule.is_of(scheduler):
        schedule = Schedule(scheduler)
        with _LOCK:
            _SCHEDULES[scheduler] = schedule
    return schedule.position(timestep)


def _distinct(times: list[float]) -> list[float]:
    """The times in order of appearance, each once; computed ones may repeat up to rounding."""
    tolerance = 1e-6 * max(abs(time) for time in times)
    levels: list[float] = []
    for time in dict.fromkeys(times):
        if not levels or abs(time - levels[-1]) > tolerance:
            levels.append(time)
    return levels


def _one_value(timestep: int | float | Tensor) -> float:
    """The number that a timestep is, or that all entries of a tensor are."""
    if not isinstance(timestep, Tensor):
        return float(timestep)
    values = timestep.detach().to("cpu", torch.float64).flatten().tolist()
    if not values:
        raise ValueError("the timestep is an empty tensor")
    if min(values) != max(values):
        raise ValueError(
            f"the batch holds different timesteps, {min(values):g} to {max(values):g}; "
            "step selections need one for all rows"
        )
    return float(values[0])
