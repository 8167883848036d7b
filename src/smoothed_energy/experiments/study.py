"""A study: what experiments draw and measure with, for one subject and one folder."""

from __future__ import annotations

__all__ = ["Scope", "Study", "measuring_device"]

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image

from ..evaluation import Resampling
from ..files import whole_file
from ..models.edges import canny
from ..models.loading import placement
from ..sweeps import Plan, Sweep, run
from ..sweeps.local import KeptWorkers
from ..sweeps.pictures import PictureFolder
from ..sweeps.progress import Progress, Silence
from ..sweeps.weights import model_digest
from .drawn import Drawn, Sample
from .measured import Measured
from .measuring import Measuring
from .row import Row
from .subject import Subject

if TYPE_CHECKING:
    from ..report.page import Table

#: Seeds that choose settings are not among those that tables are made of.
SELECTION_SEED = 1_000_000
#: Nor are those by which the scale of a control is matched.
PILOT_SEED = 2_000_000


@dataclass(frozen=True)
class Scope:
    """How much a study draws, and with what.

    Args:
        samples: Samples of each row of a table.
        selection: Samples by which the best of a grid of scales is chosen.
        pilots: Samples by which the scale of a control is matched.
        resampling: How intervals are made.
        workers: Processes that draw; None is one a core.
        batch_size: Pictures that a worker draws at once; on a CPU it changes none.
        device: Where the model runs, and networks that measure where there is such a device.
        dtype: Of the model; "auto" suits the device.
        ray: The address of a Ray cluster whose nodes draw.
    """

    samples: int
    selection: int = 500
    pilots: int = 32
    resampling: Resampling = Resampling()  # noqa: RUF009 - immutable
    workers: int | None = None
    batch_size: int = 8
    device: str = "auto"
    dtype: str = "auto"
    ray: str | None = None


class Study:
    """What experiments draw and measure with.

    All draw into one folder of pictures, where a picture that two of them need is drawn once.

    Args:
        subject: The model and its settings.
        out: The folder.
        scope: How much is drawn.
        progress: Is told how the drawing goes.
    """

    def __init__(
        self, subject: Subject, out: Path, scope: Scope, progress: Progress | None = None
    ) -> None:
        self.subject = subject
        self.out = out
        self.scope = scope
        self.progress = progress or Silence()
        self.measuring = Measuring(
            subject, out / "features", scope.resampling, measuring_device(scope.device)
        )
        #: The numbers of every experiment, as JSON values.
        self.numbers: dict[str, Any] = {}
        self._name = ""
        self._workers = KeptWorkers()

    def close(self) -> None:
        """Let the processes that draw go; the next drawing starts others."""
        self._workers.close()

    @property
    def samples(self) -> int:
        """Samples of each row of a table."""
        return self.scope.samples

    @cached_property
    def weights(self) -> str:
        """The digest of the model's weights."""
        return model_digest(self.subject.name, None)

    @property
    def pair_metric(self) -> str:
        """The metric of a picture beside the unguided one of its sample."""
        return "deep-feature-distance" if self.subject.attributes else "lpips-alex"

    @property
    def text_metric(self) -> str:
        """The metric of a picture and its prompt."""
        return "attribute-accuracy" if self.subject.attributes else "clip-similarity"

    def draw(
        self,
        name: str,
        rows: Sequence[Row],
        *,
        seeds: Sequence[int] | None = None,
        prompts: Sequence[str] | None = None,
        control: Path | None = None,
    ) -> Drawn:
        """Draw the same samples in several ways.

        Args:
            name: What the progress calls them.
            rows: The ways, with different labels.
            seeds: Seeds of the samples; by default as many as a table has, from 0.
            prompts: Every prompt is drawn with every seed. By default there is none.
            control: A picture that the subject's ControlNet follows.
        """
        seeds = range(self.samples) if seeds is None else seeds
        return self._drawn(name, rows, seeds, list(prompts or [""]), "product", control)

    def draw_captioned(self, name: str, rows: Sequence[Row], seeds: Sequence[int]) -> Drawn:
        """Draw samples with a caption of the subject's for each.

        Args:
            name: What the progress calls them.
            rows: The ways.
            seeds: Seeds of the samples; each goes with the next caption.
        """
        captions = self.subject.read_captions(len(seeds))
        return self._drawn(name, rows, seeds, captions, "zip", None)

    def _drawn(
        self,
        name: str,
        rows: Sequence[Row],
        seeds: Sequence[int],
        prompts: list[str],
        pairs: Literal["product", "zip"],
        control: Path | None,
    ) -> Drawn:
        subject = self.subject
        base: dict[str, Any] = {"num_inference_steps": subject.num_inference_steps}
        if subject.size is not None:
            base["size"] = list(subject.size)
        if control is not None:
            base["control"] = str(control)
        sweep = Sweep.model_validate(
            {
                "name": name,
                "model": subject.name,
                "device": self.scope.device,
                "dtype": self.scope.dtype,
                "controlnet": None if control is None else subject.controlnet,
                "prompts": prompts,
                "seeds": list(seeds),
                "pairs": pairs,
                "base": base,
                "list": [_configuration(row, subject) for row in rows],
                "trace": True,
            }
        )
        folder = PictureFolder(self.out / "drawn")
        results = run(
            sweep,
            folder.root,
            workers=self.scope.workers,
            batch_size=self.scope.batch_size,
            progress=self.progress,
            ray=self.scope.ray,
            kept=self._workers,
        )
        if not results.complete:
            failed = results.failures
            reason = "" if failed.empty else f": {failed.iloc[0]['reason']}"
            raise RuntimeError(f"{name}: {len(results.missing)} pictures are missing{reason}")
        return _found(results.plan, folder, rows)

    def check_tables(self, *, captions: bool = False) -> None:
        """Refuse what lacks something for a table before anything is drawn for it.

        Args:
            captions: Whether the table needs captions.

        Raises:
            ValueError: If there is no reference, or there are no captions.
            ImportError: If a package is missing.
        """
        names = [self.pair_metric]
        if captions:
            self.subject.read_captions(1)
            names.append(self.text_metric)
        self.measuring.check(names)

    def measure(self, drawn: Drawn) -> Measured:
        """All metrics of an experiment's rows; its numbers are kept."""
        measured = self.measuring.measure(drawn, self.pair_metric, self.text_metric)
        self.keep("table", measured.to_json())
        return measured

    def side_effects(self, drawn: Drawn) -> Table:
        """Side effects alone, which need no real pictures and few samples."""
        return self.measuring.side_effects(drawn).table("Side effects.", compared=False)

    def edges(self, picture: Path) -> Path:
        """The edges of a picture, in a file."""
        place = self.out / "edges" / picture.name
        if not place.exists():
            with Image.open(picture) as image:
                pixels = np.asarray(image.convert("RGB"))
            with whole_file(place) as file:
                Image.fromarray(canny(pixels)).save(file, format="png")
        return place

    def begin(self, name: str) -> None:
        """Numbers that are kept from now on are of this experiment."""
        self._name = name

    def keep(self, what: str, numbers: Any) -> None:
        """Keep numbers of the experiment that runs, to be written beside the page.

        Args:
            what: What they are.
            numbers: JSON values.
        """
        json.dumps(numbers)  # refuses what is not JSON here, where it is known what it is
        self.numbers.setdefault(self._name, {})[what] = numbers


def measuring_device(device: str) -> str:
    """Where networks that measure run: on the device that draws, if this machine has it."""
    if device == "auto":
        return str(placement(None, None)[0])
    try:
        torch.empty(1, device=device)
    except (AssertionError, NotImplementedError, RuntimeError):
        return "cpu"  # the driver of a cluster
    return device


def _found(plan: Plan, folder: PictureFolder, rows: Sequence[Row]) -> Drawn:
    """The pictures of a plan by its rows, read from their files: tables may be of another run."""
    samples = [Sample(row.seed, row.prompt) for row in islice(plan.rows(), plan.pictures_each)]
    paths: dict[str, list[Path]] = {row.label: [] for row in rows}
    facts: dict[str, list[Mapping[str, Any]]] = {row.label: [] for row in rows}
    for row in plan.rows():
        label = plan.configurations[row.configuration].label
        picture = folder.read(row.id)
        if picture is None:
            raise RuntimeError(f"{folder.path(row.id)} is gone or damaged; run this again")
        paths[label].append(folder.path(row.id))
        facts[label].append(picture.facts)
    return Drawn(tuple(rows), tuple(samples), paths, facts)


def _configuration(row: Row, subject: Subject) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "label": row.label,
        "guidance": list(row.guidance),
        "cfg": row.cfg,
    }
    scheduler = row.scheduler or subject.scheduler
    if scheduler is not None:
        settings["scheduler"] = scheduler
    return settings
