"""Training on a GPU in pieces of a few minutes, with nothing but this folder and packed drawings.

    python -m training.gpu --drawings .drawings --out out --time-budget 24 --piece 9

Every call renders and encodes what is not there yet, trains until the piece is over, and writes
the weights and the logs to ``--out``, each file below 16 MB. The next call goes on where the last
one stopped; when all of its files were lost, ``--weights out/averaged`` starts from the weights
that came back.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from .autoencoder import encode_split, train_autoencoder
from .checkpoint import load_checkpoint
from .places import default_folder
from .progress import heldout_split
from .recipes import RECIPES, Recipe
from .rendering import render_split
from .start import adopt, latents_std, read_weights, write_weights
from .train import JointTrainer, prepare
from .trainer import train

__all__ = ["bring_back", "encode", "main"]

#: At most so many files and bytes come back together.
FILES, BYTES, FILE_BYTES = 8, 64_000_000, 16_000_000
#: Seconds of a piece that are kept for measuring and writing.
RESERVE = 20.0


def encode(folder: Path, run: Path, recipe: Recipe, options: argparse.Namespace) -> None:
    """Encodes the training split, once, with a pipeline's autoencoder or one trained here."""
    if (run / "latents.npy").exists() and (run / "latents.json").exists():
        return
    pixels = np.load(folder / f"train-{recipe.image_size}.npy", mmap_mode="r")
    if options.from_pipeline is None:
        minutes = options.autoencoder
        model = train_autoencoder(recipe, pixels, run, minutes=minutes, device=options.device)
    else:
        model = AutoencoderKL.from_pretrained(run / "vae").to(options.device)
    statistics = encode_split(model, pixels, run / "latents.npy", device=options.device)
    if options.from_pipeline is None:
        model.register_to_config(scaling_factor=1.0 / statistics["std"])
        model.cpu().save_pretrained(run / "vae")
    else:
        statistics["std"] = latents_std(options.from_pipeline)
    (run / "latents.json").write_text(json.dumps(statistics))


def bring_back(trainer: JointTrainer, run: Path, out: Path) -> list[Path]:
    """Writes averaged weights, the weights themselves where there is room, and the logs.

    Args:
        trainer: The training's state.
        run: Its folder, with the logs.
        out: Gets ``averaged``, ``weights`` and the logs.

    Returns:
        The files.

    Raises:
        ValueError: If the averaged weights alone are too many files or bytes.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for name in ("loss.jsonl", "heldout.jsonl"):
        if (run / name).exists():
            files.append(Path(shutil.copy(run / name, out / name)))
    trainer.average.swap()
    files += write_weights(out / "averaged", _states(trainer), limit=FILE_BYTES)
    trainer.average.swap()
    size = sum(path.stat().st_size for path in files)
    if len(files) > FILES or size > BYTES:
        raise ValueError(
            f"{len(files)} files of {size} bytes to bring back; expected at most {FILES} of {BYTES}"
        )
    raw = write_weights(out / "weights", _states(trainer), limit=FILE_BYTES)
    size += sum(path.stat().st_size for path in raw)
    if len(files) + len(raw) > FILES or size > BYTES:
        shutil.rmtree(out / "weights")
        return files
    return files + raw


def _states(trainer: JointTrainer) -> dict[str, dict[str, torch.Tensor]]:
    return {name: part.state_dict() for name, part in trainer.networks.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    avatars = Path(__file__).parents[1] / "src" / "smoothed_energy" / "models" / "avatars"
    parser.add_argument("--recipe", choices=RECIPES, default="cpu-on-gpu")
    parser.add_argument("--drawings", type=Path, required=True, help="packs of training.rendering")
    parser.add_argument("--out", type=Path, required=True, help="what comes back")
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--from-pipeline", type=Path, default=avatars)
    parser.add_argument("--weights", type=Path, help="other weights to start from")
    parser.add_argument("--autoencoder", type=float, help="minutes to train another autoencoder")
    parser.add_argument("--time-budget", type=float, default=24.0, help="minutes in all pieces")
    parser.add_argument("--piece", type=float, default=9.0, help="minutes of this call")
    parser.add_argument("--decay", type=float, default=0.25, help="last share of the budget")
    parser.add_argument("--measure", type=int, default=512, help="held-out drawings to measure by")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="compile the U-Net: a minute first")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    recipe, run = RECIPES[options.recipe], options.folder / options.recipe
    if options.autoencoder is not None:
        options.from_pipeline = None
        if options.weights is not None:
            parser.error("--weights were trained on the latents of another autoencoder")
    try:
        for split in ("heldout", "train"):
            render_split(
                options.drawings,
                options.folder,
                split,
                size=recipe.image_size,
                processes=options.processes,
            )
        run.mkdir(parents=True, exist_ok=True)
        if options.from_pipeline is not None:
            adopt(options.from_pipeline, run)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    encode(options.folder, run, recipe, options)
    portraits, tokenizer = prepare(options.folder, options.recipe)
    portraits.to(options.device)
    trainer = JointTrainer(recipe, tokenizer, device=options.device, compiled=options.compile)
    if (run / "latest.pt").exists():
        trainer.load_state(load_checkpoint(run / "latest.pt"))
        print(f"resumed at step {trainer.step}, {trainer.elapsed / 60:.1f} minutes", flush=True)
    elif options.from_pipeline is not None:
        trainer.start_from(read_weights(options.weights or options.from_pipeline))
    heldout = heldout_split(
        options.folder, run, recipe.image_size, tokenizer, std=portraits.std, count=options.measure
    )
    spent = time.monotonic() - started
    print(f"{spent:.0f} s until the first step", flush=True)
    train(
        trainer,
        portraits.batch,
        run,
        minutes=options.time_budget,
        decay=options.decay,
        warmup=300 if options.from_pipeline is None else 100,
        measure=heldout.measure,
        measure_every=120,
        piece=max(1.0, options.piece * 60 - spent - RESERVE),
    )
    for path in bring_back(trainer, run, options.out):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    print(f"step {trainer.step}, {trainer.elapsed / 60:.1f} of {options.time_budget:g} minutes")


if __name__ == "__main__":
    main(sys.argv[1:])
