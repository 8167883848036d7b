"""Experiments run one after the other, their numbers in a file and all of it on a page."""

from __future__ import annotations

__all__ = ["Outcome", "reproduce"]

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import whole_file
from .experiment import EXPERIMENTS, Experiment
from .study import Study

if TYPE_CHECKING:
    from ..report.page import Page, Provenance, Section

_PARTS = {"SEG": "Smoothed Energy Guidance (NeurIPS 2024)", "[Re]": "[Re] SEG (MLRC 2025)"}

_PACKAGES = ("smoothed-energy", "torch", "diffusers", "transformers", "numpy", "scipy")


@dataclass(frozen=True)
class Outcome:
    """What came of some experiments.

    Args:
        page: The page.
        numbers: The file of numbers.
        failed: The names of experiments that could not be made, with the reason.
    """

    page: Path
    numbers: Path
    failed: dict[str, str]


def reproduce(
    experiments: Sequence[Experiment],
    study: Study,
    *,
    command: str = "",
    tell: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run experiments, and write their page and their numbers.

    Both are written after each experiment as `.unfinished` files, and take their names at the
    end, so an earlier page stays until this one is whole. What is drawn already is not drawn
    again, and features of networks are kept; other numbers are made anew. An experiment that can't
    be made (no reference, no captions, a package that is missing) is told on the page with its
    reason, and the others go on.

    Args:
        experiments: The experiments.
        study: What they draw and measure with.
        command: The command that made the page, told on it.
        tell: Is told which experiment begins, and which fail.
    """
    sections: list[Section] = []
    failed: dict[str, str] = {}
    named = "" if len(experiments) == len(EXPERIMENTS) else f"-{experiments[0].name}"
    if len(experiments) > 1 and named:
        named += f"-and-{len(experiments) - 1}"
    page, numbers = study.out / f"report{named}.html", study.out / f"numbers{named}.json"
    try:
        for number, experiment in enumerate(experiments, start=1):
            tell(f"{number}/{len(experiments)} {experiment.name}: {experiment.question}")
            study.begin(experiment.name)
            try:
                section = experiment.run(study)
            except Exception as error:  # whatever it is, the others can be made
                reason = " ".join(str(error).split()) or type(error).__name__
                if not isinstance(error, (ValueError, ImportError, RuntimeError, OSError)):
                    reason = f"{type(error).__name__}: {reason}"
                failed[experiment.name] = reason
                tell(f"{experiment.name} could not be made: {reason}")
                section = _missing(experiment, reason)
            sections.append(_in_part(section, experiment))
            _write(study, sections, failed, command, (_unfinished(page), _unfinished(numbers)))
    finally:
        study.close()
    _write(study, sections, failed, command, (page, numbers))
    for path in (page, numbers):
        _unfinished(path).unlink(missing_ok=True)
    return Outcome(page, numbers, failed)


def _missing(experiment: Experiment, reason: str) -> Section:
    from ..report.page import Section, literal  # noqa: PLC0415 - only when a page is made

    return Section(
        experiment.question,
        f"**Not made.** {literal(reason)}",
        anchor=experiment.name,
        source=experiment.source,
    )


def _in_part(section: Section, experiment: Experiment) -> Section:
    from ..report.page import Section  # noqa: PLC0415 - only when a page is made

    part = _PARTS.get(experiment.source.split(",")[0].split(" ")[0])
    text = f"*{experiment.question}*\n\n{section.text}"
    return Section(section.title, text, section.blocks, section.anchor, section.source, part)


def _write(
    study: Study,
    sections: Sequence[Section],
    failed: dict[str, str],
    command: str,
    paths: tuple[Path, Path],
) -> None:
    from ..report.page import write_page  # noqa: PLC0415 - only when a page is made

    provenance = _provenance(study, command)
    found: dict[str, Any] = {
        "model": study.subject.name,
        "samples": study.samples,
        "command": command,
        "versions": dict(provenance.versions),
        "hashes": dict(provenance.hashes),
        "verdicts": _verdicts(sections),
        "failed": failed,
        "experiments": study.numbers,
    }
    page, numbers = paths
    with whole_file(numbers) as file:
        file.write(f"{json.dumps(found, indent=1, ensure_ascii=False)}\n".encode())
    write_page(_page(study, sections, failed, provenance), page)


def _page(
    study: Study, sections: Sequence[Section], failed: dict[str, str], provenance: Provenance
) -> Page:
    from ..report.page import Page  # noqa: PLC0415 - only when a page is made

    scope = study.scope
    summary = (
        f"Tables and figures of the two papers, on {study.subject.title}: {scope.samples} "
        "samples a row of each table (a quarter of that in Figure 6 of SEG), and the same seeds in "
        "all rows. Published numbers stand beside them and are of another model and other "
        "features. A verdict is about this model: it rests on a paired difference whose 95 % "
        "interval leaves out 0, and says *can't be told* where it does not."
    )
    if failed:
        summary += f"\n\nNot made: {', '.join(failed)}; the reasons are in their sections."
    return Page(
        "Smoothed energy guidance, reproduced",
        f"{study.subject.title[0].upper()}{study.subject.title[1:]}, {scope.samples} samples a row",
        summary,
        sections,
        provenance,
    )


def _provenance(study: Study, command: str) -> Provenance:
    from ..report.page import Provenance  # noqa: PLC0415 - only when a page is made

    subject, scope = study.subject, study.scope
    hashes = {"weights": study.weights, **study.measuring.digests}
    return Provenance(
        command=command,
        versions={name: version(name) for name in _PACKAGES},
        hashes=hashes,
        hardware={
            "processor": platform.processor() or platform.machine(),
            "cores": str(os.cpu_count()),
            "device": scope.device,
        },
        settings={
            "model": subject.name,
            "steps": str(subject.num_inference_steps),
            "scheduler": subject.scheduler or "the model's own",
            "layers": subject.layers,
            "features": subject.features,
            "intervals": scope.resampling.text,
            "seeds of tables": f"0 to {scope.samples - 1}",
        },
    )


def _verdicts(sections: Sequence[Section]) -> list[dict[str, Any]]:
    from ..report.page import Verdict  # noqa: PLC0415 - only when a page is made

    found = []
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Verdict):
                interval = block.interval
                found.append(
                    {
                        "claim": block.claim,
                        "source": block.source,
                        "section": section.anchor,
                        "verdict": block.verdict,
                        "because": block.because,
                        "value": None if interval is None else interval.value,
                        "low": None if interval is None else interval.low,
                        "high": None if interval is None else interval.high,
                    }
                )
    return found


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.stem}.unfinished{path.suffix}")
