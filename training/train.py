"""Trains the U-Net and the text encoder jointly; resumable, with a schedule by the clock.

    python -m training.train --recipe cpu --time-budget 75

The learning rate is constant and falls to zero in the last quarter of the budget. The checkpoint
from before the fall is kept as ``plateau.pt``. To train longer, run the command again with
``--from plateau.pt`` and a larger budget.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTokenizer

from .checkpoint import load_checkpoint, save_checkpoint
from .clock import Clock, trapezoid_rate
from .dataset import Portraits, read_captions, tokenize
from .diffusion import Average, noised, text_conditioning
from .networks import (
    build_scheduler,
    build_text_encoder,
    build_unet,
    save_tokenizer,
    time_ids,
    train_tokenizer,
)
from .parallel import Exchange, Team
from .places import default_folder
from .recipes import RECIPES, Recipe

__all__ = ["Trainer", "prepare"]


def prepare(folder: Path, recipe_name: str) -> tuple[Portraits, CLIPTokenizer]:
    """The encoded training split and the tokenizer, which is trained when there is none."""
    recipe = RECIPES[recipe_name]
    run = folder / recipe_name
    lines = folder / f"train-{recipe.image_size}.jsonl"
    place = run / "tokenizer_2"
    if not place.exists():
        some = itertools.islice(read_captions(lines), 20_000)
        spoken = (text for texts in some for text in texts)
        save_tokenizer(train_tokenizer(spoken), place)
    tokenizer = CLIPTokenizer.from_pretrained(place)
    latents = np.load(run / "latents.npy")
    tokens_path = run / "tokens.npy"
    if not tokens_path.exists():
        captions = list(itertools.islice(read_captions(lines), len(latents)))
        flat = tokenize(tokenizer, [text for texts in captions for text in texts])
        np.save(tokens_path, flat.reshape(len(captions), -1, flat.shape[-1]))
    statistics = json.loads((run / "latents.json").read_text())
    portraits = Portraits(
        latents,
        np.load(tokens_path),
        tokenize(tokenizer, [""])[0],
        std=statistics["std"],
    )
    return portraits, tokenizer


class Trainer:
    """The state of a training run: networks, optimizer, averages, step and elapsed time."""

    def __init__(
        self, recipe: Recipe, tokenizer: CLIPTokenizer, *, device: str = "cpu", seed: int = 0
    ) -> None:
        torch.manual_seed(seed)
        self.recipe, self.device = recipe, device
        self.unet = build_unet(recipe).to(device, memory_format=torch.channels_last)
        self.text_encoder = build_text_encoder(recipe, tokenizer).to(device)
        if device == "cpu":
            # Plain attention: for so few tokens the fused kernel's backward pass is slower here.
            self.unet.set_attn_processor(AttnProcessor())
            self.text_encoder.set_attn_implementation("eager")
            torch.set_flush_denormal(True)
        self.levels = build_scheduler().alphas_cumprod.to(device)
        self.parameters: list[Tensor] = [*self.unet.parameters(), *self.text_encoder.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=recipe.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=True,
        )
        self.average = Average(self.parameters, recipe.ema)
        self.step, self.elapsed = 0, 0.0
        self.exchange: Exchange | None = None
        self.time_ids = torch.tensor([time_ids(recipe)], device=device)

    def loss(self, latents: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error of the velocity on this process's rows of a batch; a scalar."""
        noise = torch.randn(latents.shape, generator=generator)
        # Stratified timesteps: one from each of B equal parts of the schedule.
        count = len(latents)
        position = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        position = position[torch.randperm(count, generator=generator)]
        timesteps = (position * len(self.levels)).long().clamp_max(len(self.levels) - 1)
        rows = slice(None) if self.exchange is None else self.exchange.rows(count)
        latents, tokens, noise, timesteps = (
            x[rows].to(self.device) for x in (latents, tokens, noise, timesteps)
        )
        count = len(latents)
        noisy, velocity = noised(latents, noise, self.levels[timesteps])
        with torch.autocast(self.device, dtype=torch.bfloat16):
            states, pooled = text_conditioning(self.text_encoder, tokens)
            predicted = self.unet(
                noisy.contiguous(memory_format=torch.channels_last),
                timesteps,
                encoder_hidden_states=states,
                added_cond_kwargs={
                    "text_embeds": pooled,
                    "time_ids": self.time_ids.expand(count, -1),
                },
            ).sample
        return nn.functional.mse_loss(predicted.float(), velocity)

    def train_step(self, latents: Tensor, tokens: Tensor, rate: float) -> float:
        """One optimizer step at a multiple ``rate`` of the learning rate; returns the loss."""
        # Noise depends on the step alone, so that a resumed run repeats the run it continues.
        generator = torch.Generator().manual_seed(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * rate
        loss = self.loss(latents, tokens, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.exchange is not None:
            self.exchange.average(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        if self.leads:
            self.average.update(self.step)
        return loss.item()

    @property
    def leads(self) -> bool:
        """Whether this process keeps the averages and writes the files."""
        return self.exchange is None or self.exchange.rank == 0

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "unet": self.unet.state_dict(),
            "text_encoder": self.text_encoder.state_dict(),
            "average": self.average.values,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from a saved state."""
        self.unet.load_state_dict(state["unet"])
        self.text_encoder.load_state_dict(state["text_encoder"])
        for value, saved in zip(self.average.values, state["average"], strict=True):
            value.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed = state["step"], state["elapsed"]


def train(
    trainer: Trainer, portraits: Portraits, run: Path, *, minutes: float, save_every: float = 180
) -> None:
    """Trains until ``minutes`` of training time have passed in all, saving as it goes."""
    clock = Clock(minutes * 60, trainer.elapsed)
    saved, recent, decaying = clock.elapsed, [], clock.fraction > 0.75
    while True:
        fraction = clock.fraction
        if trainer.exchange is not None:  # All processes follow the leader's clock.
            fraction = trainer.exchange.agree(fraction)
        if fraction >= 1:
            break
        rate = trapezoid_rate(fraction, trainer.step)
        latents, tokens = portraits.batch(trainer.step, trainer.recipe.batch)
        recent.append(trainer.train_step(latents, tokens, rate))
        trainer.elapsed = clock.elapsed
        if not trainer.leads:
            continue
        if trainer.step % 50 == 0:
            seen = trainer.step * trainer.recipe.batch
            line = {
                "step": trainer.step,
                "seen": seen,
                "seconds": round(clock.elapsed, 1),
                "loss": round(float(np.mean(recent)), 5),
                "rate": round(rate, 4),
            }
            with (run / "loss.jsonl").open("a") as out:
                out.write(json.dumps(line) + "\n")
            recent = []
        if not decaying and clock.fraction > 0.75:
            decaying = True
            save_checkpoint(run / "plateau.pt", trainer.state())
        if clock.elapsed - saved > save_every:
            saved = clock.elapsed
            save_checkpoint(run / "latest.pt", trainer.state())
    if trainer.leads:
        save_checkpoint(run / "latest.pt", trainer.state())


def _work(rank: int, team: Team | None, options: argparse.Namespace) -> None:
    """One process of a training run."""
    run = options.folder / options.recipe
    if team is not None:
        torch.set_num_threads(1)
    portraits, tokenizer = prepare(options.folder, options.recipe)
    trainer = Trainer(RECIPES[options.recipe], tokenizer, device=options.device)
    trainer.exchange = None if team is None else Exchange(team, rank)
    if (run / options.start).exists():
        trainer.load_state(load_checkpoint(run / options.start))
        print(f"resumed at step {trainer.step}, {trainer.elapsed / 60:.1f} minutes", flush=True)
    train(trainer, portraits, run, minutes=options.time_budget)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=RECIPES, default="cpu")
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--time-budget", type=float, default=75.0, help="minutes in all")
    parser.add_argument("--from", dest="start", default="latest.pt", help="checkpoint to resume")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=1, help="of one thread each, on a CPU")
    options = parser.parse_args(arguments)
    if options.processes == 1:
        _work(0, None, options)
        return
    _, tokenizer = prepare(options.folder, options.recipe)
    trainer = Trainer(RECIPES[options.recipe], tokenizer)
    team = Team(options.processes, sum(p.numel() for p in trainer.parameters))
    del trainer
    torch.multiprocessing.spawn(_work, (team, options), nprocs=options.processes)


if __name__ == "__main__":
    main(sys.argv[1:])
