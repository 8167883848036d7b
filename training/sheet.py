"""Contact sheets: rows of images under labels, in one PNG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["contact_sheet"]


def contact_sheet(
    images: np.ndarray, columns: int, *, zoom: int = 1, labels: Sequence[str] = ()
) -> Image.Image:
    """Images in rows.

    Args:
        images: ``(N, H, W, 3)`` uint8 RGB.
        columns: Images a row.
        zoom: Whole factor of enlargement, without smoothing.
        labels: One text for each row, drawn above it; none by default.
    """
    count, height, width = images.shape[:3]
    rows = -(-count // columns)
    band = 14 if labels else 0
    sheet = Image.new("RGB", (columns * width * zoom, rows * (height * zoom + band)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        tile = Image.fromarray(image).resize(
            (width * zoom, height * zoom), Image.Resampling.NEAREST
        )
        top = row * (height * zoom + band)
        sheet.paste(tile, (column * width * zoom, top + band))
        if column == 0 and row < len(labels):
            draw.text((2, top + 1), labels[row], fill="black")
    return sheet
