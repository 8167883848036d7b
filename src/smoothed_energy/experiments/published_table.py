"""A paper's own table, beside ours and apart from it."""

from __future__ import annotations

__all__ = ["published_table"]

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .published import Published

if TYPE_CHECKING:
    from ..report.page import Table


def published_table(rows: Sequence[Published], caption: str) -> Table:
    """A table of published numbers; columns that the paper does not have are left out."""
    from ..report.page import Column, Table  # noqa: PLC0415 - only when a page is made

    kinds = {
        "fid": ("FID", "published, Inception", "lower"),
        "clip": ("CLIP score", "published, cosine", "higher"),
        "lpips_vgg": ("LPIPS (vgg)", "published, to the unguided picture", None),
        "lpips_alex": ("LPIPS (alex)", "published, to the unguided picture", None),
    }
    there = [name for name in kinds if any(getattr(row, name) is not None for row in rows)]
    columns = [Column("row")]
    for name in there:
        title, kind, better = kinds[name]
        columns.append(Column(title, kind=kind, better=better))  # type: ignore[arg-type]
    values = [[row.label, *(getattr(row, name) for name in there)] for row in rows]
    return Table(
        columns,
        values,
        caption,
        "Stable Diffusion XL, 1024 x 1024 pixels, 30,000 samples, MS-COCO 2014 as reference: other "
        "pictures, another model and other features than the measured tables of this page.",
    )
