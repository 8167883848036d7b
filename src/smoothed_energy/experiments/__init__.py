"""The tables and figures of the two papers, as experiments on any model."""

from __future__ import annotations

from .experiment import EXPERIMENTS, Experiment, experiments_named, register_experiment
from .re_divergence import RE_APPENDIX_A2, RE_FIGURE_9
from .re_figures import RE_FIGURES
from .re_table_2 import RE_TABLE_2_EXPERIMENT
from .re_table_3 import RE_TABLE_3_EXPERIMENT
from .re_traces import RE_TRACES
from .seg_figure_4 import SEG_FIGURE_4_EXPERIMENT
from .seg_figure_6 import SEG_FIGURE_6_EXPERIMENT
from .seg_figures import SEG_FIGURES
from .seg_table_1 import SEG_TABLE_1_EXPERIMENT
from .seg_table_2 import SEG_TABLE_2_EXPERIMENT

__all__ = ["EXPERIMENTS", "Experiment", "experiments_named", "register_experiment"]

for _experiment in (
    SEG_TABLE_1_EXPERIMENT,
    SEG_TABLE_2_EXPERIMENT,
    *SEG_FIGURES[:2],
    SEG_FIGURE_4_EXPERIMENT,
    SEG_FIGURES[2],
    SEG_FIGURE_6_EXPERIMENT,
    *SEG_FIGURES[3:],
    *RE_FIGURES,
    RE_TABLE_2_EXPERIMENT,
    RE_TABLE_3_EXPERIMENT,
    *RE_TRACES,
    RE_FIGURE_9,
    RE_APPENDIX_A2,
):
    register_experiment(_experiment)
