"""Trains a small Canny ControlNet for the embedded model; resumable, with a schedule by the clock.

    python -m training.controlnet --recipe cpu --time-budget 60 --processes 2
    python -m training.controlnet --export src/smoothed_energy/models/avatars/controlnets/canny

U-Net and text encoder are the finished model's and stay as they are. Half of the captions are
empty, so that edges work without a prompt, too.

References:
    | Adding Conditional Control to Text-to-Image Diffusion Models (Zhang et al., ICCV 2023)
    | https://arxiv.org/abs/2302.05543
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from smoothed_energy.models import load, model_folder

from .ahead import Ahead
from .checkpoint import load_checkpoint
from .dataset import ControlledPortraits
from .diffusion import text_conditioning
from .networks import build_controlnet
from .parallel import Exchange, Team
from .places import default_folder
from .recipes import RECIPES, Recipe
from .train import prepare
from .trainer import Trainer, train

__all__ = ["ControlTrainer"]

#: Share of the samples that get the empty caption.
DROPOUT = 0.5


class ControlTrainer(Trainer):
    """The ControlNet, for a finished model.

    Args:
        recipe: The configuration.
        pipe: The finished model.
        device: Where it trains.
        seed: Of the layers that are not copied.
    """

    def __init__(self, recipe: Recipe, pipe: Any, *, device: str = "cpu", seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.unet = pipe.unet.to(device, memory_format=torch.channels_last)
        self.text_encoder = pipe.text_encoder_2.to(device)
        controlnet = build_controlnet(self.unet)
        self.controlnet = controlnet.to(device, memory_format=torch.channels_last).train()
        for part in (self.unet, self.text_encoder):
            part.requires_grad_(False)
        if device == "cpu":
            # Plain attention: for so few tokens the fused kernel's backward pass is slower here.
            self.unet.set_attn_processor(AttnProcessor())
            self.controlnet.set_attn_processor(AttnProcessor())
        super().__init__(
            recipe,
            {"controlnet": self.controlnet},
            learning_rate=recipe.control_rate,
            device=device,
        )

    def predict(self, noisy: Tensor, timesteps: Tensor, *conditions: Tensor) -> Tensor:
        """See `Trainer.predict`; the conditions are captions `(B, L)` and edges `(B, 3, H, W)`."""
        tokens, edges = conditions
        with torch.no_grad():
            states, pooled = text_conditioning(self.text_encoder, tokens)
        text = {
            "encoder_hidden_states": states,
            "added_cond_kwargs": {
                "text_embeds": pooled,
                "time_ids": self.time_ids.expand(len(noisy), -1),
            },
        }
        down, middle = self.controlnet(
            noisy, timesteps, controlnet_cond=edges, return_dict=False, **text
        )
        found: Tensor = self.unet(
            noisy,
            timesteps,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            **text,
        ).sample
        return found


def export(trainer: ControlTrainer, target: Path) -> int:
    """Saves the averaged ControlNet with float16 safetensors; returns the bytes of the weights."""
    trainer.average.swap()
    controlnet = trainer.controlnet.eval()
    controlnet.set_default_attn_processor()
    controlnet.to(dtype=torch.float16).save_pretrained(target, safe_serialization=True)
    config = target / "config.json"
    settings = json.loads(config.read_text())
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2) + "\n")
    weights = list(target.glob("*.safetensors"))
    for path in weights:
        path.chmod(0o644)
    return sum(path.stat().st_size for path in weights)


def _trainer(options: argparse.Namespace) -> ControlTrainer:
    pipe = load(options.model, device="cpu", dtype=torch.float32)
    trainer = ControlTrainer(RECIPES[options.recipe], pipe, device=options.device)
    checkpoint = options.folder / f"{options.recipe}-control" / options.start
    if checkpoint.exists():
        trainer.load_state(load_checkpoint(checkpoint))
        print(f"resumed at step {trainer.step}, {trainer.elapsed / 60:.1f} minutes", flush=True)
    return trainer


def _work(rank: int, team: Team | None, options: argparse.Namespace) -> None:
    """One process of a training run."""
    if team is not None:
        torch.set_num_threads(1)
    portraits, _ = prepare(options.folder, options.recipe)
    portraits.dropout = DROPOUT
    size = RECIPES[options.recipe].image_size
    pixels = np.load(options.folder / f"train-{size}.npy", mmap_mode="r")
    trainer = _trainer(options)
    trainer.exchange = None if team is None else Exchange(team, rank)
    portraits.to(options.device)
    batch: Callable[[int, int], tuple[Tensor, ...]] = ControlledPortraits(portraits, pixels).batch
    if options.device != "cpu":
        batch = Ahead(batch, threads=8)  # one thread finds edges slower than a GPU trains
    run = options.folder / f"{options.recipe}-control"
    run.mkdir(parents=True, exist_ok=True)
    train(trainer, batch, run, minutes=options.time_budget)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=RECIPES, default="cpu")
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--model", default=model_folder("avatars"), type=Path)
    parser.add_argument("--time-budget", type=float, default=60.0, help="minutes in all")
    parser.add_argument("--from", dest="start", default="latest.pt", help="checkpoint to resume")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=1, help="of one thread each, on a CPU")
    parser.add_argument("--export", type=Path, help="write the ControlNet here instead of training")
    options = parser.parse_args(arguments)
    if options.export is not None:
        size = export(_trainer(options), options.export)
        print(f"{options.export}: {size / 1e6:.1f} MB of weights")
    elif options.processes == 1:
        _work(0, None, options)
    else:
        trainer = _trainer(options)
        team = Team(options.processes, sum(p.numel() for p in trainer.parameters))
        del trainer
        torch.multiprocessing.spawn(_work, (team, options), nprocs=options.processes)


if __name__ == "__main__":
    main(sys.argv[1:])
