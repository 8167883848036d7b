"""Drawings as text that compresses well: about 22 bytes a portrait instead of 27,000 as pixels.

Portraits of one style are put together from the same elements. A pack holds every element once,
and each portrait as a list of their numbers. Pixels are then made where the training runs, on all
of its cores.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

__all__ = ["packed_records", "write_pack"]

#: Changes when older packs can no longer be read.
VERSION = 1
#: Where text is cut: after each element of an SVG, after each value of a JSON object.
_CUT = {"svg": re.compile(r"(?<=>)"), "line": re.compile(r"(?<=,)")}


def _numbered(texts: Sequence[str], cut: re.Pattern[str]) -> tuple[list[str], list[int], list[int]]:
    """The distinct pieces of texts, the pieces of each by number, and how many each has."""
    numbers: dict[str, int] = {}
    sequence, lengths = [], []
    for text in texts:
        pieces = cut.split(text)
        sequence += [numbers.setdefault(piece, len(numbers)) for piece in pieces]
        lengths.append(len(pieces))
    return list(numbers), sequence, lengths


def write_pack(path: Path, records: Sequence[dict[str, object]]) -> int:
    """Writes portraits, each with its ``svg`` and what else describes it; returns the bytes.

    Args:
        path: The file, replaced in one step.
        records: Objects that JSON can hold, with the drawing under ``"svg"``.
    """
    svgs = [str(record["svg"]) for record in records]
    lines = [json.dumps({k: v for k, v in record.items() if k != "svg"}) for record in records]
    header: dict[str, object] = {"version": VERSION, "count": len(records)}
    arrays = []
    for name, texts in (("svg", svgs), ("line", lines)):
        pieces, sequence, lengths = _numbered(texts, _CUT[name])
        header[name] = {"pieces": pieces, "numbers": len(sequence)}
        arrays += [np.asarray(sequence, "<u4"), np.asarray(lengths, "<u4")]
    # Bytes of the same rank together: most of the higher ones are zero.
    body = b"".join(array.view(np.uint8).reshape(-1, 4).T.tobytes() for array in arrays)
    text = json.dumps(header).encode()
    data = lzma.compress(len(text).to_bytes(8, "little") + text + body, preset=6)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(data)
    temporary.replace(path)
    return len(data)


def packed_records(path: Path) -> list[dict[str, object]]:
    """The portraits of a pack, as they were given to `write_pack`.

    Raises:
        ValueError: If it is no pack, or one of another version.
    """
    try:
        data = lzma.decompress(path.read_bytes())
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        version = header["version"]
    except (lzma.LZMAError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a pack of drawings: {error}") from error
    if version != VERSION:
        raise ValueError(f"{path} is a pack of version {version}; expected {VERSION}")
    position, texts = 8 + length, {}
    for name in ("svg", "line"):
        found = []
        for count in (header[name]["numbers"], header["count"]):
            planes = np.frombuffer(data, np.uint8, 4 * count, position).reshape(4, count)
            found.append(np.ascontiguousarray(planes.T).view("<u4").reshape(-1))
            position += 4 * count
        texts[name] = list(_joined(header[name]["pieces"], *found))
    return [
        {"svg": svg, **json.loads(line)}
        for svg, line in zip(texts["svg"], texts["line"], strict=True)
    ]


def _joined(pieces: Sequence[str], sequence: np.ndarray, lengths: np.ndarray) -> Iterator[str]:
    stop = 0
    for length in lengths.tolist():
        start, stop = stop, stop + length
        yield "".join(pieces[number] for number in sequence[start:stop].tolist())
