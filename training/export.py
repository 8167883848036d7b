"""Writes the trained model as a pipeline folder that plain diffusers loads.

    python -m training.export --recipe cpu --to src/smoothed_energy/models/avatars

exports the last checkpoint of a run. Weights that came back from elsewhere take the place of those
of a pipeline with the same tokenizer and autoencoder:

    python -m training.export --from-pipeline FOLDER --weights out/averaged --to FOLDER

``--weights-only`` writes no pipeline but what ``--weights`` reads: what to go on from, elsewhere.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from transformers import CLIPTokenizer

from .checkpoint import load_checkpoint
from .networks import build_scheduler, save_tokenizer
from .places import default_folder
from .recipes import RECIPES
from .start import PARTS, read_weights, write_weights
from .train import JointTrainer

__all__ = ["assemble", "assemble_from", "export"]


def assemble(
    folder: Path, recipe_name: str, checkpoint: str = "latest.pt", *, averaged: bool = True
) -> StableDiffusionXLPipeline:
    """The pipeline of a training run, with the averaged weights, float32."""
    run = folder / recipe_name
    tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer_2")
    trainer = JointTrainer(RECIPES[recipe_name], tokenizer)
    trainer.load_state(load_checkpoint(run / checkpoint))
    if averaged:
        trainer.average.swap()
    trainer.unet.set_default_attn_processor()
    trainer.text_encoder.set_attn_implementation("sdpa")
    pipe = StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(run / "vae"),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=trainer.text_encoder.eval(),
        tokenizer_2=tokenizer,
        unet=trainer.unet.eval(),
        scheduler=build_scheduler(),
        # Dropped captions were the empty text in training, not zeros.
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def assemble_from(pipeline: Path, weights: Path) -> StableDiffusionXLPipeline:
    """A pipeline whose U-Net and text encoder have weights of another folder, float32."""
    pipe = StableDiffusionXLPipeline.from_pretrained(pipeline, use_safetensors=True)
    found = read_weights(weights)
    for part, name in ((pipe.unet, "unet"), (pipe.text_encoder_2, "text_encoder")):
        part.load_state_dict(found[name])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def export(pipe: StableDiffusionXLPipeline, target: Path) -> int:
    """Saves ``pipe`` to ``target`` with float16 safetensors; returns the bytes of the weights."""
    # Stored numbers only: sampling is in whatever dtype the folder is loaded with.
    pipe.to(dtype=torch.float16).save_pretrained(target, safe_serialization=True)
    save_tokenizer(pipe.tokenizer_2, target / "tokenizer_2")
    for part in ("unet", "vae", "text_encoder_2"):
        config = target / part / "config.json"
        settings = json.loads(config.read_text())
        settings.pop("_name_or_path", None)
        if part == "text_encoder_2":
            # Without a dtype, diffusers loads float32 but transformers what the configuration
            # names; the parts of one pipeline must agree.
            settings["dtype"] = "float32"
        config.write_text(json.dumps(settings, indent=2) + "\n")
        for weights in config.parent.glob("*.safetensors"):
            weights.chmod(0o644)
    return sum(p.stat().st_size for p in target.rglob("*.safetensors"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=RECIPES, default="cpu")
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--checkpoint", default="latest.pt")
    parser.add_argument("--from-pipeline", type=Path, help="the pipeline that --weights belong to")
    parser.add_argument("--weights", type=Path, help="a folder of weights, instead of a run's")
    parser.add_argument("--weights-only", action="store_true", help="no pipeline, only weights")
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args(arguments)
    if (options.weights is None) != (options.from_pipeline is None):
        parser.error("--weights and --from-pipeline need each other")
    if options.weights is not None:
        pipe = assemble_from(options.from_pipeline, options.weights)
    else:
        pipe = assemble(options.folder, options.recipe, options.checkpoint)
    if options.weights_only:
        states = {name: getattr(pipe, part).state_dict() for part, name in PARTS.items()}
        for path in write_weights(options.to, states):
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        return
    size = export(pipe, options.to)
    print(f"{options.to}: {size / 1e6:.1f} MB of weights")


if __name__ == "__main__":
    main(sys.argv[1:])
