"""Draws the data set: portraits as pixels, attributes and captions, reproducible from seeds.

Every seed begins with the name of its split. Training and held-out portraits therefore never
share a seed, whatever the sizes of the splits.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from .captions import caption
from .places import default_folder
from .styles import STYLES

__all__ = ["SPLITS", "draw_split", "drawer", "install_drawer", "jobs", "rasterize", "seed_of"]

SPLITS = ("train", "heldout")
CHUNK = 1000
CAPTIONS_PER_IMAGE = 4


def seed_of(split: str, index: int) -> str:
    """The drawing seed of a portrait, for instance ``"train-3f0c5a..."``.

    The index is hashed: DiceBear's generator gives correlated attributes for similar seeds.
    """
    return f"{split}-{hashlib.sha256(f'{split}-{index}'.encode()).hexdigest()[:16]}"


def jobs(split: str, start: int, stop: int, styles: Sequence[str]) -> list[dict[str, object]]:
    """The drawing jobs of portraits ``start`` to ``stop`` (exclusive) of a split.

    Args:
        split: ``"train"`` or ``"heldout"``; part of every seed.
        start: First index.
        stop: One past the last index.
        styles: Names of styles; portrait ``i`` takes style ``i mod len(styles)``.

    Raises:
        ValueError: If the split or a style does not exist.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    for style in styles:
        if style not in STYLES:
            raise ValueError(f"style {style!r} is not described; available: {', '.join(STYLES)}")
    return [
        {
            "style": styles[i % len(styles)],
            "options": STYLES[styles[i % len(styles)]].drawing_options(),
            "seed": seed_of(split, i),
        }
        for i in range(start, stop)
    ]


def install_drawer(folder: Path) -> Path:
    """Copies the drawing script into ``folder`` and installs its two packages with npm."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise RuntimeError("drawing needs node and npm on the PATH (Node.js 18 or newer)")
    folder.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parent
    for name in ("draw.mjs", "package.json"):
        shutil.copy(here / name, folder / name)
    if not (folder / "node_modules" / "@dicebear" / "collection").exists():
        subprocess.run([npm, "install", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder


def drawer(folder: Path, request: dict[str, object]) -> list[dict[str, object]]:
    """Runs the drawing script on one request and returns its lines."""
    done = subprocess.run(
        ["node", "draw.mjs"],
        cwd=folder,
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def rasterize(svg: str, size: int) -> np.ndarray:
    """An SVG as ``(size, size, 3)`` uint8 RGB."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    return np.asarray(image, dtype=np.uint8)


def _draw_chunk(
    task: tuple[str, str, int, int, int, tuple[str, ...]],
) -> tuple[int, np.ndarray, list[str]]:
    folder, split, start, stop, size, styles = task
    drawn = drawer(Path(folder), {"jobs": jobs(split, start, stop, styles)})
    pixels = np.stack([rasterize(str(d["svg"]), size) for d in drawn])
    lines = []
    for index, d in zip(range(start, stop), drawn, strict=True):
        rng = random.Random(f"{split}-{index}")
        attributes = d["attributes"]
        assert isinstance(attributes, dict)
        texts = [caption(str(d["style"]), attributes, rng) for _ in range(CAPTIONS_PER_IMAGE)]
        record = {"style": d["style"], "seed": d["seed"], "captions": texts}
        lines.append(json.dumps(record | {"attributes": attributes}))
    return start, pixels, lines


def draw_split(
    folder: Path,
    split: str,
    count: int,
    *,
    size: int,
    styles: Sequence[str],
    processes: int = 2,
) -> Path:
    """Draws a split into ``folder/<split>-<size>.npy`` and ``.jsonl``; returns the array's path.

    The array has shape ``(count, size, size, 3)``, uint8 RGB. The JSON lines hold each portrait's
    style, seed, attributes and captions. A split already drawn at this count is left alone.
    """
    array_path = folder / f"{split}-{size}.npy"
    lines_path = folder / f"{split}-{size}.jsonl"
    if array_path.exists() and len(np.load(array_path, mmap_mode="r")) == count:
        return array_path
    install = install_drawer(folder / "dicebear")
    temporary = array_path.with_suffix(".partial")
    pixels = np.lib.format.open_memmap(
        temporary, mode="w+", dtype=np.uint8, shape=(count, size, size, 3)
    )
    tasks = [
        (str(install), split, start, min(start + CHUNK, count), size, tuple(styles))
        for start in range(0, count, CHUNK)
    ]
    with ProcessPoolExecutor(processes) as pool, lines_path.open("w") as out:
        for start, chunk, lines in pool.map(_draw_chunk, tasks):
            pixels[start : start + len(chunk)] = chunk
            out.write("\n".join(lines) + "\n")
            print(f"{split}: {start + len(chunk)} of {count}", flush=True)
    pixels.flush()
    temporary.replace(array_path)
    return array_path


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: ``python -m training.drawing --size 64 --train 80000 --heldout 10000``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--train", type=int, default=80_000, help="training portraits")
    parser.add_argument("--heldout", type=int, default=12_000, help="held-out portraits")
    parser.add_argument("--styles", nargs="+", default=list(STYLES))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("heldout", options.heldout), ("train", options.train)):
        path = draw_split(
            options.folder,
            split,
            count,
            size=options.size,
            styles=options.styles,
            processes=options.processes,
        )
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
