"""Starting from the weights of a pipeline folder: the checkpoints of its training may be gone.

The tokenizer and the autoencoder are taken over as they are. The tokenizer can encode all text, so
that new styles need no new tokens; and with the same encoder old and new latents agree.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["PARTS", "adopt", "latents_std", "read_weights", "write_weights"]

#: Folder in a pipeline, and name in checkpoints, of the networks that are trained.
PARTS: Mapping[str, str] = {"unet": "unet", "text_encoder_2": "text_encoder"}


def adopt(pipeline: Path, run: Path) -> None:
    """Copies the tokenizer and the autoencoder of a pipeline into a run's folder, once.

    Raises:
        ValueError: If the run was begun with another tokenizer or autoencoder.
    """
    for part in ("tokenizer_2", "vae"):
        source, target = pipeline / part, run / part
        if not source.is_dir():
            raise ValueError(f"{pipeline} has no {part}; expected a pipeline folder")
        if not target.exists():
            temporary = run / f"{part}.partial"
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(source, temporary)
            temporary.replace(target)
        for path in sorted(p for p in source.iterdir() if p.is_file()):
            if part == "tokenizer_2" and (target / path.name).read_bytes() != path.read_bytes():
                raise ValueError(
                    f"{target} differs from {source} in {path.name}: this run was begun with "
                    "another tokenizer; give another folder"
                )


def latents_std(pipeline: Path) -> float:
    """Standard deviation of the latents that the pipeline's U-Net was trained on."""
    config = json.loads((pipeline / "vae" / "config.json").read_text())
    return 1.0 / float(config["scaling_factor"])


def read_weights(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The weights of the trained networks in a folder, float32, by their name in checkpoints.

    Args:
        folder: A pipeline folder, or one of `write_weights`.
    """
    found = {}
    for part, name in PARTS.items():
        files = sorted((folder / part).glob("*.safetensors"))
        if not files:
            raise ValueError(f"{folder / part} has no safetensors; expected those of the {name}")
        weights: dict[str, Tensor] = {}
        for path in files:
            weights.update(load_file(path))
        found[name] = {key: value.float() for key, value in weights.items()}
    return found


def write_weights(
    folder: Path, weights: Mapping[str, Mapping[str, Tensor]], *, limit: int = 16_000_000
) -> list[Path]:
    """Writes weights as float16 safetensors, in as many files as keep each below a size.

    Args:
        folder: Gets a folder for each network, as a pipeline has it.
        weights: State dictionaries by their name in checkpoints.
        limit: Bytes that no file may reach.

    Returns:
        The files.
    """
    written = []
    for part, name in PARTS.items():
        place = folder / part
        place.mkdir(parents=True, exist_ok=True)
        for old in place.glob("*.safetensors"):
            old.unlink()
        pieces: list[dict[str, Tensor]] = [{}]
        size = 0
        for key, value in weights[name].items():
            tensor = value.detach().to("cpu", torch.float16).contiguous()
            header = len(key) + 120  # generous: names, shapes and offsets are text
            if pieces[-1] and size + tensor.nbytes + header >= limit - 1024:
                pieces.append({})
                size = 0
            pieces[-1][key] = tensor
            size += tensor.nbytes + header
        for index, piece in enumerate(pieces, start=1):
            path = place / f"weights-{index:02d}-of-{len(pieces):02d}.safetensors"
            save_file(piece, path)
            path.chmod(0o644)
            if path.stat().st_size >= limit:
                raise ValueError(
                    f"{path} has {path.stat().st_size} bytes, expected less than {limit}: its one "
                    "tensor is too large"
                )
            written.append(path)
    return written
