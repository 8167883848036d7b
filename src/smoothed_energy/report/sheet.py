"""Contact sheets: several series of images of the same columns, one above the other."""

from __future__ import annotations

__all__ = ["Series", "contact_sheet"]

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

PAPER = "#ffffff"
INK = "#1d1d1f"
QUIET = "#6e6e73"

CELL_LEAST = 144  # the side of a cell that small images are enlarged to
CELL_MOST = 384  # and that large ones are reduced to
COLUMNS_MOST = 8
MARGIN = 32
GAP = 6
BAND_GAP = 30
LABEL_HEIGHT = 28  # over the images of a series
_MOST_LETTERS = 4000  # of a line; no sheet is as wide
TICK_HEIGHT = 20  # under the last series, for the labels of the columns


@dataclass(frozen=True)
class Series:
    """A row of a sheet.

    Args:
        label: What these images have in common, short and in heavier ink.
        images: The images, one for each column, all of one size.
        detail: More about them, in quieter ink.
    """

    label: str
    images: Sequence[Image.Image]
    detail: str = ""


def contact_sheet(
    series: Sequence[Series], columns: Sequence[str], title: str, subtitle: str = ""
) -> Image.Image:
    """One picture in which every column shows the same thing made in several ways.

    More columns than fit beside each other continue in a further band below.

    Args:
        series: The rows of every band.
        columns: The columns' labels.
        title: The first line.
        subtitle: The second line, in quieter ink.

    Raises:
        ValueError: If there is nothing to show, or a series has not one image for each column.
    """
    if not series or not columns:
        raise ValueError("a contact sheet needs at least one series and one column")
    for row in series:
        if len(row.images) != len(columns):
            raise ValueError(
                f"the series {row.label!r} has {len(row.images)} images for {len(columns)} columns"
            )

    cell = _cell_size(series[0].images[0].size)
    across = _columns_across(len(columns))
    bands = [range(start, len(columns))[:across] for start in range(0, len(columns), across)]

    title_font, text_font = _font(24), _font(15)
    width = max(
        2 * MARGIN + across * (cell[0] + GAP) - GAP,
        2 * MARGIN + 640,  # room for the text over a single small column
    )
    titles = _wrap(title, title_font, width - 2 * MARGIN)[:3]
    subtitles = _wrap(subtitle, text_font, width - 2 * MARGIN) if subtitle else []

    head = MARGIN + 32 * len(titles) + 22 * len(subtitles) + 12
    band = len(series) * (LABEL_HEIGHT + cell[1] + 6) + TICK_HEIGHT
    height = head + len(bands) * band + (len(bands) - 1) * BAND_GAP + MARGIN - 10

    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    y = MARGIN - 4
    for line in titles:
        draw.text((MARGIN, y), line, fill=INK, font=title_font)
        y += 32
    for line in subtitles:
        draw.text((MARGIN, y), line, fill=QUIET, font=text_font)
        y += 22
    for number, band_columns in enumerate(bands):
        labels = {column: columns[column] for column in band_columns}
        _draw_band(sheet, head + number * (band + BAND_GAP), series, labels, cell)
    return sheet


def _draw_band(
    sheet: Image.Image,
    y: int,
    series: Sequence[Series],
    labels: Mapping[int, str],
    cell: tuple[int, int],
) -> None:
    """Draw all series for some of the columns, with the columns' labels below.

    Args:
        sheet: The picture.
        y: The upper edge in it.
        series: All of them.
        labels: The labels of the columns that are shown, by their numbers.
        cell: Width and height of an image on the sheet.
    """
    draw = ImageDraw.Draw(sheet)
    text_font, small_font = _font(15), _font(13)
    for row in series:
        baseline = y + LABEL_HEIGHT - 9
        draw.text((MARGIN, baseline), row.label, fill=INK, font=text_font, anchor="ls")
        if row.detail:
            x = MARGIN + draw.textlength(row.label, font=text_font) + 10
            detail = _shorten(row.detail, small_font, sheet.width - MARGIN - x)
            draw.text((x, baseline), detail, fill=QUIET, font=small_font, anchor="ls")
        y += LABEL_HEIGHT
        for place, column in enumerate(labels):
            sheet.paste(_fit(row.images[column], cell), (MARGIN + place * (cell[0] + GAP), y))
        y += cell[1] + 6
    for place, label in enumerate(labels.values()):
        x = MARGIN + place * (cell[0] + GAP) + cell[0] / 2
        draw.text((x, y + 12), label, fill=QUIET, font=small_font, anchor="ms")


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    # Pillow carries this font, so that sheets look the same on every machine.
    return ImageFont.load_default(size)


def _columns_across(columns: int) -> int:
    """How many columns a band has, so that the last band is as full as can be."""
    bands = -(-columns // COLUMNS_MOST)
    return -(-columns // bands)


def _cell_size(size: tuple[int, int]) -> tuple[int, int]:
    longest = max(size)
    if longest < CELL_LEAST:
        factor = -(-CELL_LEAST // longest)  # whole, so that pixels stay even
        return size[0] * factor, size[1] * factor
    factor_down = min(1.0, CELL_MOST / longest)
    return max(1, round(size[0] * factor_down)), max(1, round(size[1] * factor_down))


def _fit(image: Image.Image, cell: tuple[int, int]) -> Image.Image:
    image = image.convert("RGB")
    if image.size == cell:
        return image
    enlarged = cell[0] > image.width
    return image.resize(cell, Image.Resampling.BICUBIC if enlarged else Image.Resampling.LANCZOS)


def _wrap(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return [_shorten(line, font, width) for line in lines]


def _shorten(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: float) -> str:
    text = text[:_MOST_LETTERS]
    if font.getlength(text) <= width:
        return text
    shown = bisect_left(
        range(len(text)), True, key=lambda end: font.getlength(text[: end + 1] + "…") > width
    )
    return text[:shown].rstrip() + "…"
