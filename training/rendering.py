"""Drawings that travel: packed as SVG on one machine, rendered on another that has no Node.js.

    python -m training.rendering --train 100000 --heldout 2000 --to .drawings

writes packs, and `render_split` makes of them the files that `training.drawing` would have made.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from .drawing import SPLITS, described, drawer, install_drawer, jobs, rasterize, seed_of
from .packing import packed_records, write_pack
from .places import default_folder
from .styles import STYLES

__all__ = ["pack_drawings", "render_split"]

MANIFEST = "drawings.json"
#: Drawings in one pack, and in one request to the drawing script.
PACK, REQUEST = 10_000, 1000


def _spoken(style: str, attributes: Mapping[str, object]) -> dict[str, object]:
    """The attributes that captions can speak of."""
    named = STYLES[style]
    kept = {*named.phrases, *named.colors, "primaryBackgroundColor"}
    return {key: value for key, value in attributes.items() if key in kept}


def _pack(task: tuple[Path, Path, str, int, int, tuple[str, ...], int]) -> int:
    install, path, split, start, stop, styles, seed = task
    records: list[dict[str, object]] = []
    for first in range(start, stop, REQUEST):
        wanted = jobs(split, first, min(first + REQUEST, stop), styles, seed)
        for drawn in drawer(install, {"jobs": wanted}):
            attributes = drawn["attributes"]
            assert isinstance(attributes, dict)
            style = str(drawn["style"])
            # Not the seed: it is random, and follows from the portrait's number.
            records.append(
                {"style": style, "svg": drawn["svg"], "attributes": _spoken(style, attributes)}
            )
    return write_pack(path, records)


def pack_drawings(
    target: Path,
    counts: Mapping[str, int],
    *,
    install: Path,
    styles: Sequence[str] = tuple(STYLES),
    seed: int = 0,
    processes: int = 2,
) -> int:
    """Draws splits into packs below ``target``; packs that are there already are kept.

    Args:
        target: Gets the packs and a manifest.
        counts: Portraits of each split.
        install: The folder of the drawing script.
        styles: As in `drawing.jobs`.
        seed: As in `drawing.jobs`.
        processes: How many draw at once.

    Returns:
        The bytes of all packs.

    Raises:
        ValueError: If ``target`` has packs of other portraits.
    """
    manifest = {"styles": list(styles), "seed": seed, "pack": PACK, "counts": dict(counts)}
    known = target / MANIFEST
    if known.exists():
        found = json.loads(known.read_text())
        if found != manifest:
            raise ValueError(f"{known} is of {found}; expected {manifest}, or another folder")
    target.mkdir(parents=True, exist_ok=True)
    known.write_text(json.dumps(manifest) + "\n")
    install_drawer(install)
    tasks = []
    for split, count in counts.items():
        for start in range(0, count, PACK):
            path = _pack_path(target, split, start)
            if not path.exists():
                stop = min(start + PACK, count)
                tasks.append((install, path, split, start, stop, tuple(styles), seed))
    with ProcessPoolExecutor(processes) as pool:
        for task, size in zip(tasks, pool.map(_pack, tasks), strict=True):
            print(f"{task[1].name}: {size / 1e6:.2f} MB", flush=True)
    return sum(path.stat().st_size for path in target.glob("*.pack"))


def _pack_path(folder: Path, split: str, start: int) -> Path:
    return folder / f"{split}-{start:07d}.pack"


def _render(task: tuple[str, int]) -> np.ndarray:
    svg, size = task
    return rasterize(svg, size)


def render_split(
    drawings: Path, folder: Path, split: str, *, size: int, processes: int = 2
) -> Path:
    """Renders a packed split into ``folder``, as `drawing.draw_split` writes it.

    A split that is there already is left alone.

    Raises:
        ValueError: If the packs are not all there.
        RuntimeError: If resvg-py is missing.
    """
    array, lines = folder / f"{split}-{size}.npy", folder / f"{split}-{size}.jsonl"
    if array.exists() and lines.exists():
        return array
    if importlib.util.find_spec("resvg_py") is None:
        raise RuntimeError(
            "rendering needs resvg-py, which is not installed: carry its wheel along (pip "
            "download --no-deps resvg-py) and install it from there"
        )
    manifest = _manifest(drawings)
    count = manifest["counts"].get(split, 0)
    if not count:
        raise ValueError(f"{drawings} has no split {split!r}; it has {list(manifest['counts'])}")
    folder.mkdir(parents=True, exist_ok=True)
    new_array, new_lines = array.with_suffix(".partial"), lines.with_suffix(".lines")
    pixels = np.lib.format.open_memmap(
        new_array, mode="w+", dtype=np.uint8, shape=(count, size, size, 3)
    )
    with ProcessPoolExecutor(processes) as pool, new_lines.open("w") as out:
        for start in range(0, count, manifest["pack"]):
            records = packed_records(_pack_path(drawings, split, start))
            tasks = [(str(record["svg"]), size) for record in records]
            rendered = pool.map(_render, tasks, chunksize=64)
            for index, image in enumerate(rendered, start):
                pixels[index] = image
            drawn = [
                record | {"seed": seed_of(split, index, manifest["seed"])}
                for index, record in enumerate(records, start)
            ]
            out.write("\n".join(described(drawn, split, start, manifest["seed"])) + "\n")
            print(f"{split}: {start + len(records)} of {count}", flush=True)
    pixels.flush()
    new_lines.replace(lines)
    new_array.replace(array)
    return array


def _manifest(drawings: Path) -> dict[str, dict[str, int]] | dict[str, int]:
    path = drawings / MANIFEST
    if not path.exists():
        raise ValueError(f"{drawings} has no {MANIFEST}; expected a folder of training.rendering")
    manifest = json.loads(path.read_text())
    missing = [
        found.name
        for split, count in manifest["counts"].items()
        for start in range(0, count, manifest["pack"])
        if not (found := _pack_path(drawings, split, start)).exists()
    ]
    if missing:
        raise ValueError(f"{drawings} lacks {', '.join(missing)}; pack the drawings again")
    assert isinstance(manifest, dict)
    return manifest


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True, help="folder of the packs")
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--train", type=int, default=100_000, help="training portraits")
    parser.add_argument("--heldout", type=int, default=2000, help="held-out portraits")
    parser.add_argument("--seed", type=int, default=0, help="another number, other portraits")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    counts = dict(zip(SPLITS, (options.train, options.heldout), strict=True))
    try:
        size = pack_drawings(
            options.to,
            counts,
            install=options.folder / "dicebear",
            seed=options.seed,
            processes=options.processes,
        )
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    print(f"{options.to}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
