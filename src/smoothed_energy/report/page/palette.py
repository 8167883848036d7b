"""Colours of plots, which follow the theme of the page that they are shown in."""

from __future__ import annotations

__all__ = ["GRID", "INK", "MARKERS", "PALETTE", "QUIET", "THEME_COLOURS"]

#: Colours of lines, told apart by the colour-blind too (after Okabe and Ito), as on white paper.
#: Each has a contrast of at least 3 with white; `page.css` has their lighter selves for the dark.
PALETTE = ("#0b69a3", "#c2510a", "#0b7f5e", "#9b4a93", "#8a6a0f", "#5b6470")
#: Markers beside them, so that nothing is told by colour alone.
MARKERS = ("o", "s", "D", "^", "v", "P")

INK = "#1c1d21"  # text
QUIET = "#5f6168"  # axes and their labels
GRID = "#dcdde1"  # lines of the grid

#: From a colour in an SVG to what stands for it in a page.
THEME_COLOURS = {
    **{colour: f"var(--series-{place})" for place, colour in enumerate(PALETTE)},
    INK: "var(--ink)",
    QUIET: "var(--quiet)",
    GRID: "var(--line)",
}
