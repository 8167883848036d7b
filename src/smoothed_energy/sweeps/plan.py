"""The plan of a sweep: its configurations, and its rows one by one.

A row is a configuration, a prompt and a seed, and stands for one picture. Rows are made when they
are asked for: a plan of 600,000 holds prompts, seeds and configurations only.
"""

from __future__ import annotations

__all__ = ["Plan", "Row", "plan"]

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .axes import configurations
from .configuration import Configuration
from .file import Sweep, SweepError
from .identity import PIPELINE, Identity, configuration_digest, identity_of, row_id
from .layer_check import check_guidances


@dataclass(frozen=True, slots=True)
class Row:
    """One picture that is to be drawn.

    Args:
        index: Its number in the plan.
        id: The digest of all that determines it.
        configuration: The number of its configuration.
        prompt: Its prompt; an empty one is none.
        seed: Its seed.
    """

    index: int
    id: str
    configuration: int
    prompt: str
    seed: int


@dataclass(frozen=True)
class Plan:
    """All rows of a sweep, sorted by configuration, prompt and seed.

    Args:
        sweep: The sweep.
        identity: What its pictures depend on beside their settings.
        configurations: Its configurations, with their digests.
    """

    sweep: Sweep
    identity: Identity
    configurations: tuple[Configuration, ...]

    @property
    def pictures_each(self) -> int:
        """How many pictures a configuration has."""
        prompts, seeds = self.sweep.prompts, self.sweep.seeds
        return len(seeds) if self.sweep.pairs == "zip" else len(prompts) * len(seeds)

    def __len__(self) -> int:
        return len(self.configurations) * self.pictures_each

    def row(self, index: int) -> Row:
        """The row of a number from 0."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index}: the plan has {len(self)}")
        configuration, pair = divmod(index, self.pictures_each)
        seeds = self.sweep.seeds
        first, second = (pair, pair) if self.sweep.pairs == "zip" else divmod(pair, len(seeds))
        prompt, seed = self.sweep.prompts[first], seeds[second]
        digest = self.configurations[configuration].digest
        return Row(index, row_id(digest, prompt, seed), configuration, prompt, seed)

    def rows(self) -> Iterator[Row]:
        """All rows in order."""
        return map(self.row, range(len(self)))

    def configuration(self, label: str | int | Configuration) -> Configuration:
        """A configuration by its label or number.

        Raises:
            KeyError: If there is none.
        """
        if isinstance(label, Configuration):
            label = label.label
        for configuration in self.configurations:
            if label in (configuration.label, configuration.index):
                return configuration
        known = ", ".join(repr(configuration.label) for configuration in self.configurations)
        raise KeyError(f"no configuration {label!r}; there are {known}")


def plan(sweep: Sweep, *, identity: Identity | None = None, drawn_by: str = PIPELINE) -> Plan:
    """The plan of a sweep.

    Args:
        sweep: The sweep.
        identity: What its pictures depend on; by default as it is on this machine.
        drawn_by: The name of what draws, where it is not a pipeline.

    Raises:
        SweepError: If a text in it is not understood, the model is not there, or a picture would be
            drawn twice.
    """
    _check_pairs(sweep)
    found = configurations(sweep)
    _check_control(sweep, found)
    if identity is None:
        identity = identity_of(sweep, [one.settings for one in found], drawn_by)
        if drawn_by == PIPELINE:
            check_guidances(sweep.model, found)
    return Plan(
        sweep,
        identity,
        tuple([replace(one, digest=configuration_digest(identity, one.settings)) for one in found]),
    )


def _check_control(sweep: Sweep, found: tuple[Configuration, ...]) -> None:
    for one in found:
        if (one.settings.control is None) != (sweep.controlnet is None):
            raise SweepError(
                f"configuration {one.label!r} has control={one.settings.control!r} with "
                f"controlnet={sweep.controlnet!r}; expected both or neither"
            )


def _check_pairs(sweep: Sweep) -> None:
    """Refuse prompts and seeds that don't pair, or pair twice."""
    prompts, seeds = sweep.prompts, sweep.seeds
    if sweep.pairs == "zip":
        if len(prompts) != len(seeds):
            raise SweepError(
                f"pairs: zip needs as many seeds as prompts; there are {len(prompts)} prompts and "
                f"{len(seeds)} seeds"
            )
        return
    first: dict[str, int] = {}
    for number, prompt in enumerate(prompts, start=1):
        if prompt in first:
            raise SweepError(
                f"the prompt {prompt!r} comes twice ({first[prompt]} and {number}), and with the "
                "same seeds; expected each once, or `pairs: zip`, where each has a seed of its own"
            )
        first[prompt] = number
