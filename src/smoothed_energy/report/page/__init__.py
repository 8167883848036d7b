"""Reports as one HTML page: text, picture grids, tables, plots, verdicts and provenance."""

__all__ = [
    "PALETTE",
    "Block",
    "Cell",
    "Column",
    "Line",
    "Number",
    "Page",
    "PictureGrid",
    "Plot",
    "PlotAxes",
    "Points",
    "Provenance",
    "RowGroup",
    "Section",
    "Table",
    "Value",
    "Verdict",
    "interval_plot",
    "line_plot",
    "literal",
    "point_plot",
    "render_page",
    "table_text",
    "write_page",
]

from .document import Block, Page, Provenance, Section
from .drawing import interval_plot, line_plot, point_plot
from .number import Number
from .palette import PALETTE
from .picture_grid import Cell, PictureGrid
from .plot import Plot
from .series import Line, PlotAxes, Points
from .table import Column, RowGroup, Table, Value
from .table_text import table_text
from .text import literal
from .verdict import Verdict
from .write import render_page, write_page
