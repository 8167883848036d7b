"""Measurements of runs as tables: by step, by layer, and by picture."""

from __future__ import annotations

__all__ = ["Measurements"]

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .packages import pandas
from .plot import plot_lines

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: Columns of the table of steps that add up over a run; others are averaged.
_SUMS = ("seconds", "evaluations")
#: Columns whose mean is that of all steps, or unknown.
_EVERY_STEP = ("effective_cfg_scale", "correction_relative_norm")
_FACTS = ("index", "count", "sigma", "timestep")


class Measurements:
    """What a trace measured.

    Args:
        steps: A row for each run, step and sample.
        layers: A row for each run, step, sample, layer and branch.
    """

    def __init__(self, steps: pd.DataFrame, layers: pd.DataFrame) -> None:
        self._tables = steps, layers

    @property
    def steps(self) -> pd.DataFrame:
        """A row for each `run`, `step` and `sample`, in this order.

        `run` counts the calls of the pipeline, `step` the steps in one as they came, `sample` the
        pictures of its batch, all from 0. `index`, `count`, `sigma` and `timestep` are the step's
        place in the schedule; NaN if that is not known. `cfg_scale` is $g$, `evaluations` how often
        the denoiser ran for each sample, whole or in part, and `seconds` the time from the
        beginning of the step's first call to the end of its last, this trace included, of the whole
        batch. The rest is measured; see `guidance_measures`, and `latents.METRIC`.
        """
        return self._tables[0]

    @property
    def layers(self) -> pd.DataFrame:
        """A row for each `run`, `step`, `sample`, `layer` and `branch`.

        `layer` is a layer's name and `code` its plain code; see `families.layer_selection`.
        The branch is `"conditional"` or `"unconditional"`: under CFG both predictions are measured,
        without it there is one, the former.
        """
        return self._tables[1]

    def per_picture(self) -> pd.DataFrame:
        """A row for each `run` and `sample`: sums of costs, means over steps of everything else.

        `steps` counts the steps, `guided_steps` those with a correction. Columns of one guidance
        are averaged over the steps in which it acted. `effective_cfg_scale` is NaN if it is not
        known of every step.
        """
        groups = self.steps.drop(columns=["step", *_FACTS]).groupby(["run", "sample"])
        sums = [name for name in _SUMS if name in self.steps]
        table: pd.DataFrame = groups.mean()
        table[sums] = groups[sums].sum()
        for name in _EVERY_STEP:
            if name in self.steps:
                table[name] = table[name].where(groups[name].apply(_is_whole))
        acted = self.steps["correction_norm"] > 0
        keys = [self.steps["run"], self.steps["sample"]]
        table.insert(0, "steps", groups.size())
        table.insert(1, "guided_steps", acted.groupby(keys).sum())
        return table

    def summary(self) -> pd.DataFrame:
        """A row for each column of `steps`: its mean, least and greatest value over all pictures.

        Each picture counts once, with its mean over the steps (or its sum, for costs); `std` is
        that of pictures.
        """
        found: pd.DataFrame = self.per_picture().agg(["mean", "std", "min", "max"]).T
        found.index.name = "quantity"
        return found

    def plot(self, *columns: str, layers: str | Sequence[str] | None = None) -> Figure:
        """Lines by step: the mean over samples and runs, and a band from the least to the greatest.

        Args:
            columns: Columns of `steps`, or with `layers` of `layers`, each a panel; by default
                those that tell most.
            layers: Names of layers, or `"all"`: a line for each of them.

        Returns:
            A figure of matplotlib that no window shows; `savefig` writes it.

        Raises:
            ImportError: If matplotlib is not there.
            ValueError: If there is nothing to plot, or no such column or layer.
        """
        return plot_lines(self, columns, layers)

    def to_parquet(self, folder: str | Path) -> Path:
        """Write `steps.parquet` and `layers.parquet` into a folder, which is made if need be.

        Raises:
            ImportError: If pandas or pyarrow are not there.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in zip(("steps", "layers"), (self.steps, self.layers), strict=True):
            table.to_parquet(folder / f"{name}.parquet", engine="pyarrow", index=False)
        return folder

    @staticmethod
    def read(folder: str | Path) -> Measurements:
        """What `to_parquet` wrote.

        Raises:
            FileNotFoundError: If it is not there.
            ImportError: If pandas or pyarrow are not there.
        """
        pd = pandas()
        folder = Path(folder)
        paths = [folder / f"{name}.parquet" for name in ("steps", "layers")]
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} is not there; expected a folder that to_parquet of a trace wrote"
                )
        steps, layers = [pd.read_parquet(path, engine="pyarrow") for path in paths]
        return Measurements(steps, layers)


def _is_whole(column: Any) -> bool:
    return bool(column.notna().all())
