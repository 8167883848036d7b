"""Experiments: a table or a figure of a paper, asked as a question and answered by a section."""

from __future__ import annotations

__all__ = ["EXPERIMENTS", "Experiment", "experiments_named", "register_experiment"]

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..report.page import Section
    from .study import Study


@dataclass(frozen=True)
class Experiment:
    """A table or a figure of a paper, as something that can be run.

    Args:
        name: Its name on the command line, such as `"seg-table-2"`.
        source: What it is in its paper, such as `"SEG, Table 2"`.
        question: What it asks.
        run: Draws, measures, and returns the section of the report. What is drawn already is not
            drawn again.
    """

    name: str
    source: str
    question: str
    run: Callable[[Study], Section]


_experiments: dict[str, Experiment] = {}

#: Names to experiments, in the order of the papers: a view of those that are registered.
EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(_experiments)


def register_experiment(experiment: Experiment) -> Experiment:
    """Make an experiment known by its name.

    Raises:
        ValueError: If another one has the name.
    """
    if _experiments.get(experiment.name, experiment) is not experiment:
        raise ValueError(
            f"there are two experiments called {experiment.name!r}; expected a name of its own"
        )
    _experiments[experiment.name] = experiment
    return experiment


def experiments_named(names: Sequence[str]) -> list[Experiment]:
    """The experiments of these names, `"all"` for all of them, in the order of the papers.

    Raises:
        ValueError: If there is none of a name.
    """
    for name in names:
        if name != "all" and name not in EXPERIMENTS:
            near = difflib.get_close_matches(name, EXPERIMENTS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(
                f"no experiment {name!r}; {hint}expected all or some of {', '.join(EXPERIMENTS)}"
            )
    if "all" in names:
        return list(EXPERIMENTS.values())
    return [experiment for name, experiment in EXPERIMENTS.items() if name in names]
