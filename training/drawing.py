"""Draws the data set: portraits as pixels, attributes and captions, reproducible from seeds.

Every seed begins with the name of its split. Training and held-out portraits therefore never
share a seed, whatever the sizes of the splits and the ``--seed``.
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

__all__ = [
    "SPLITS",
    "described",
    "draw_split",
    "drawer",
    "install_drawer",
    "jobs",
    "rasterize",
    "seed_of",
]

SPLITS = ("train", "heldout")
CHUNK = 1000
CAPTIONS_PER_IMAGE = 4


def _series(split: str, seed: int) -> str:
    """The name of a split's portraits; the embedded model was trained on seed 0's."""
    return f"{split}-{seed}" if seed else split


def seed_of(split: str, index: int, seed: int = 0) -> str:
    """The drawing seed of a portrait, for instance ``"train-3f0c5a..."``.

    The index is hashed: DiceBear's generator gives correlated attributes for similar seeds.
    """
    series = _series(split, seed)
    return f"{series}-{hashlib.sha256(f'{series}-{index}'.encode()).hexdigest()[:16]}"


def jobs(
    split: str, start: int, stop: int, styles: Sequence[str], seed: int = 0
) -> list[dict[str, object]]:
    """The drawing jobs of portraits ``start`` to ``stop`` (exclusive) of a split.

    Args:
        split: ``"train"`` or ``"heldout"``; part of every seed.
        start: First index.
        stop: One past the last index.
        styles: Names of styles; portrait ``i`` takes style ``i mod len(styles)``.
        seed: Another number gives other portraits.

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
            "seed": seed_of(split, i, seed),
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
    try:
        import resvg_py
    except ImportError as error:
        raise RuntimeError(
            "rendering needs resvg-py, which is not installed: pip install resvg-py, or from its "
            "wheel where there is no network"
        ) from error

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    return np.asarray(image, dtype=np.uint8)


def described(
    drawn: Sequence[dict[str, object]], split: str, start: int, seed: int = 0
) -> list[str]:
    """The JSON lines of drawn portraits, captions included.

    Args:
        drawn: The drawing script's answers.
        split: Their split.
        start: Number of the first.
        seed: As in `jobs`.
    """
    lines = []
    for index, d in enumerate(drawn, start):
        rng = random.Random(f"{_series(split, seed)}-{index}")
        attributes = d["attributes"]
        assert isinstance(attributes, dict)
        texts = [caption(str(d["style"]), attributes, rng) for _ in range(CAPTIONS_PER_IMAGE)]
        record = {"style": d["style"], "seed": d["seed"], "captions": texts}
        lines.append(json.dumps(record | {"attributes": attributes}))
    return lines


def _draw_chunk(
    task: tuple[str, str, int, int, int, tuple[str, ...], int],
) -> tuple[int, np.ndarray, list[str]]:
    folder, split, start, stop, size, styles, seed = task
    drawn = drawer(Path(folder), {"jobs": jobs(split, start, stop, styles, seed)})
    pixels = np.stack([rasterize(str(d["svg"]), size) for d in drawn])
    return start, pixels, described(drawn, split, start, seed)


def _check_drawn(lines_path: Path, split: str, drawn: int, styles: Sequence[str], seed: int) -> int:
    """How many bytes describe the first ``drawn`` portraits, which must be those of the settings.

    Raises:
        ValueError: If one of them is another portrait, or is not described.
    """
    wanted = jobs(split, 0, drawn, styles, seed)
    described = length = 0
    if lines_path.exists():
        with lines_path.open("rb") as lines:
            for job, line in zip(wanted, lines, strict=False):
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:  # cut off as it was written
                    break
                if (record["style"], record["seed"]) != (job["style"], job["seed"]):
                    raise ValueError(
                        f"{lines_path} has other portraits: number {described} is "
                        f"{record['style']} {record['seed']}, and styles "
                        f"{', '.join(styles)} with seed {seed} make it {job['style']} "
                        f"{job['seed']}; give the styles and the seed it was drawn with, or "
                        "another folder"
                    )
                described, length = described + 1, length + len(line)
    if described < drawn:
        raise ValueError(
            f"{lines_path} describes {described} of the {drawn} portraits beside it; move both "
            "files away, or give another folder"
        )
    return length


def draw_split(
    folder: Path,
    split: str,
    count: int,
    *,
    size: int,
    styles: Sequence[str],
    seed: int = 0,
    processes: int = 2,
) -> Path:
    """Draws a split into ``folder/<split>-<size>.npy`` and ``.jsonl``; returns the array's path.

    The array has shape ``(count, size, size, 3)``, uint8 RGB. The JSON lines hold each portrait's
    style, seed, attributes and captions. What is drawn already is kept: a split of at least
    ``count`` portraits is left alone, and a smaller one is continued.

    Raises:
        ValueError: If a number is below 1, or what is drawn already has other styles or seeds.
    """
    if min(size, count) < 1:
        raise ValueError(f"size and count must be at least 1; got {size} and {count}")
    array_path = folder / f"{split}-{size}.npy"
    lines_path = folder / f"{split}-{size}.jsonl"
    finished = np.load(array_path, mmap_mode="r") if array_path.exists() else None
    drawn = 0 if finished is None else len(finished)
    described = _check_drawn(lines_path, split, drawn, styles, seed) if drawn else 0
    if drawn >= count:
        return array_path
    install = install_drawer(folder / "dicebear")
    new_array, new_lines = array_path.with_suffix(".partial"), lines_path.with_suffix(".lines")
    pixels = np.lib.format.open_memmap(
        new_array, mode="w+", dtype=np.uint8, shape=(count, size, size, 3)
    )
    tasks = [
        (str(install), split, start, min(start + CHUNK, count), size, tuple(styles), seed)
        for start in range(drawn, count, CHUNK)
    ]
    with ProcessPoolExecutor(processes) as pool, new_lines.open("wb") as out:
        if finished is not None:
            pixels[:drawn] = finished
            out.write(lines_path.read_bytes()[:described])
        for start, chunk, lines in pool.map(_draw_chunk, tasks):
            pixels[start : start + len(chunk)] = chunk
            out.write(("\n".join(lines) + "\n").encode())
            print(f"{split}: {start + len(chunk)} of {count}", flush=True)
    pixels.flush()
    # The lines first: if this ends in between, the old array has all of its lines.
    new_lines.replace(lines_path)
    new_array.replace(array_path)
    return array_path


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: ``python -m training.drawing --size 64 --train 80000 --heldout 10000``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--train", type=int, default=80_000, help="training portraits")
    parser.add_argument("--heldout", type=int, default=12_000, help="held-out portraits")
    parser.add_argument(
        "--styles",
        nargs="+",
        choices=list(STYLES),
        default=list(STYLES),
        metavar="STYLE",
        help=f"of {', '.join(STYLES)}; all by default",
    )
    parser.add_argument("--seed", type=int, default=0, help="another number, other portraits")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("heldout", options.heldout), ("train", options.train)):
        try:
            path = draw_split(
                options.folder,
                split,
                count,
                size=options.size,
                styles=options.styles,
                seed=options.seed,
                processes=options.processes,
            )
        except (ValueError, RuntimeError) as error:
            parser.error(str(error))
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
