"""What experiments compare the embedded model with: features and captions of held-out drawings.

    python -m training.reference --styles personas,toonHead,dylan

The features are those of EfficientNet-Lite0, as float16; the captions name the style, and of each
drawing's four phrasings the longest is taken. Both are written into the package.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from smoothed_energy.evaluation import FeatureSet, open_extractor
from smoothed_energy.experiments.reference import write_reference
from smoothed_energy.models import model_folder

from .places import default_folder
from .styles import STYLES

__all__ = ["main"]

_BATCH = 32


def _features(pictures: np.ndarray) -> FeatureSet:
    extractor = open_extractor("efficientnet-lite0")
    parts = []
    for start in range(0, len(pictures), _BATCH):
        batch = torch.from_numpy(np.array(pictures[start : start + _BATCH]))
        parts.append(extractor(batch.permute(0, 3, 1, 2)))
    return FeatureSet(
        torch.cat(parts),
        extractor.name,
        extractor.digest,
        f"{len(pictures)} held-out drawings of the embedded model's styles",
    )


def _captions(lines: Sequence[dict[str, object]], styles: Sequence[str], count: int) -> list[str]:
    """Captions that name their style, the styles in turn."""
    by_style: dict[str, list[str]] = {style: [] for style in styles}
    for line in lines:
        style = str(line["style"])
        texts = [str(text) for text in line["captions"]]  # type: ignore[attr-defined]
        longest = max(texts, key=lambda text: (len(text.split()), text))
        if f"a {STYLES[style].word} portrait" in longest:
            by_style[style].append(longest)
    each = -(-count // len(styles))
    for style, found in by_style.items():
        if len(found) < each:
            raise ValueError(f"{len(found)} captions of {style}; expected {each}")
    return [
        text
        for turn in zip(*(by_style[style][:each] for style in styles), strict=True)
        for text in turn
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--styles", default=",".join(STYLES), help="the model's styles")
    parser.add_argument("--drawings", type=int, default=2500)
    parser.add_argument("--captions", type=int, default=2001)
    options = parser.parse_args(arguments)
    styles = options.styles.split(",")
    pictures = np.load(options.folder / f"heldout-{options.size}.npy", mmap_mode="r")
    text = (options.folder / f"heldout-{options.size}.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    of_styles = [number for number, line in enumerate(lines) if line["style"] in styles]
    chosen = of_styles[: options.drawings]
    if len(chosen) < options.drawings:
        raise ValueError(f"{len(chosen)} drawings of {options.styles}; expected {options.drawings}")
    place = Path(model_folder("avatars")) / "reference"
    place.mkdir(exist_ok=True)
    write_reference(place / "drawings.safetensors", _features(pictures[chosen]))
    captions = _captions([lines[number] for number in of_styles], styles, options.captions)
    (place / "captions.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    print(f"{len(chosen)} drawings and {len(captions)} captions in {place}")


if __name__ == "__main__":
    main()
