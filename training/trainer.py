"""What every training run does: optimizer steps, averaged weights, checkpoints, the clock."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import save_checkpoint
from .clock import Clock, trapezoid_rate
from .diffusion import Average, noised
from .networks import build_scheduler, time_ids
from .parallel import Exchange
from .recipes import Recipe

__all__ = ["Trainer", "train"]


class Trainer(ABC):
    """The state of a training run: networks, optimizer, averages, step and elapsed time.

    Args:
        recipe: The configuration.
        networks: What is trained, on the device, by the name it has in checkpoints.
        learning_rate: The peak learning rate.
        device: Where it trains.
    """

    def __init__(
        self,
        recipe: Recipe,
        networks: Mapping[str, nn.Module],
        *,
        learning_rate: float,
        device: str = "cpu",
    ) -> None:
        self.recipe, self.device, self.networks = recipe, device, networks
        self.learning_rate = learning_rate
        if device == "cpu":
            torch.set_flush_denormal(True)
        self.levels = build_scheduler().alphas_cumprod.to(device)
        self.parameters: list[Tensor] = [p for part in networks.values() for p in part.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.average = Average(self.parameters, recipe.ema)
        self.step, self.elapsed = 0, 0.0
        self.exchange: Exchange | None = None
        self.time_ids = torch.tensor([time_ids(recipe)], device=device)

    @abstractmethod
    def predict(self, noisy: Tensor, timesteps: Tensor, *conditions: Tensor) -> Tensor:
        """The predicted velocity `(B, C, H, W)`, under autocast.

        Args:
            noisy: Noisy latents `(B, C, H, W)`, channels last in memory.
            timesteps: `(B,)`.
            conditions: The rest of a batch, the same rows.
        """

    def loss(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        """Mean squared error of the velocity on this process's rows of a batch; a scalar.

        Args:
            batch: Latents of unit variance `(B, C, H, W)`, and the conditions.
            generator: For noise and timesteps, on the device where they are drawn.
        """
        drawn: dict[str, Any] = {"generator": generator, "device": generator.device}
        noise = torch.randn(batch[0].shape, **drawn)
        # Stratified timesteps: one from each of B equal parts of the schedule.
        count = len(noise)
        places = torch.arange(count, device=generator.device)
        position = (places + torch.rand(count, **drawn)) / count
        position = position[torch.randperm(count, **drawn)]
        timesteps = (position * len(self.levels)).long().clamp_max(len(self.levels) - 1)
        rows = slice(None) if self.exchange is None else self.exchange.rows(count)
        noise, timesteps, latents, *conditions = (
            x[rows].to(self.device, non_blocking=True) for x in (noise, timesteps, *batch)
        )
        noisy, velocity = noised(latents, noise, self.levels[timesteps])
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            predicted = self.predict(noisy, timesteps, *conditions)
        return nn.functional.mse_loss(predicted.float(), velocity)

    def train_step(self, batch: tuple[Tensor, ...], rate: float) -> Tensor:
        """One optimizer step at a multiple `rate` of the learning rate; returns the loss.

        A scalar on the device: to read it waits for the step.
        """
        # Noise depends on the step alone, so that a resumed run repeats the run it continues.
        generator = torch.Generator(self.device).manual_seed(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * rate
        loss = self.loss(batch, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.exchange is not None:
            self.exchange.average(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        if self.leads:
            self.average.update(self.step)
        return loss.detach()

    @property
    def leads(self) -> bool:
        """Whether this process keeps the averages and writes the files."""
        return self.exchange is None or self.exchange.rank == 0

    def start_from(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Takes over weights, averages included, but no state of an optimizer.

        Args:
            weights: A state dictionary for each network, by its name in checkpoints.

        Raises:
            ValueError: If they are of networks of another size.
        """
        for name, part in self.networks.items():
            own = {key: tuple(value.shape) for key, value in part.state_dict().items()}
            given = {key: tuple(value.shape) for key, value in weights[name].items()}
            wrong = sorted(k for k in own.keys() | given.keys() if own.get(k) != given.get(k))
            if wrong:
                raise ValueError(
                    f"the weights do not fit the {name}: {len(wrong)} tensors differ, for instance "
                    f"{wrong[0]}: expected {own.get(wrong[0])}, got {given.get(wrong[0])}"
                )
            part.load_state_dict(dict(weights[name]))
        for value, parameter in zip(self.average.values, self.parameters, strict=True):
            value.copy_(parameter.detach())

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            **{name: part.state_dict() for name, part in self.networks.items()},
            "average": self.average.values,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from a saved state."""
        for name, part in self.networks.items():
            part.load_state_dict(state[name])
        for value, saved in zip(self.average.values, state["average"], strict=True):
            value.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed = state["step"], state["elapsed"]


def train(
    trainer: Trainer,
    batch: Callable[[int, int], tuple[Tensor, ...]],
    run: Path,
    *,
    minutes: float,
    save_every: float = 180,
    decay: float = 0.25,
    warmup: int = 300,
    measure: Callable[[Trainer], Mapping[str, float]] | None = None,
    measure_every: float = 600,
    piece: float | None = None,
) -> None:
    """Trains until `minutes` of training time have passed in all, saving as it goes.

    Args:
        trainer: The run's state.
        batch: The batch of a step and of a size.
        run: The folder of its checkpoints, `latest.pt` and `plateau.pt`, and its log of losses.
        minutes: The budget.
        save_every: Seconds between checkpoints.
        decay: Share of the budget, its last part, in which the rate falls to zero.
        warmup: Steps at the beginning in which the rate rises.
        measure: A held-out loss, logged for the weights and for their averages.
        measure_every: Seconds between its measurements; one more at the end.
        piece: Seconds after which this call ends, whatever is left of the budget.
    """
    clock = Clock(minutes * 60, trainer.elapsed)
    stop = float("inf") if piece is None else (clock.elapsed + piece) / clock.budget
    saved, decaying = clock.elapsed, clock.fraction > 1 - decay
    recent: list[Tensor] = []
    measured = clock.elapsed if trainer.step else -measure_every
    while True:
        fraction = clock.fraction
        if trainer.exchange is not None:  # All processes follow the leader's clock.
            fraction = trainer.exchange.agree(fraction)
        if fraction >= min(1.0, stop):
            break
        if measure is not None and trainer.leads and clock.elapsed - measured > measure_every:
            measured = clock.elapsed
            _log_heldout(trainer, run, measure)
        rate = trapezoid_rate(fraction, trainer.step, decay=decay, warmup=warmup)
        recent.append(trainer.train_step(batch(trainer.step, trainer.recipe.batch), rate))
        trainer.elapsed = clock.elapsed
        if not trainer.leads:
            continue
        if trainer.step % 50 == 0:
            seen = trainer.step * trainer.recipe.batch
            line = {
                "step": trainer.step,
                "seen": seen,
                "seconds": round(clock.elapsed, 1),
                "loss": round(float(torch.stack(recent).mean()), 5),
                "rate": round(rate, 4),
            }
            with (run / "loss.jsonl").open("a") as out:
                out.write(json.dumps(line) + "\n")
            recent = []
        if not decaying and clock.fraction > 1 - decay:
            decaying = True
            save_checkpoint(run / "plateau.pt", trainer.state())
        if clock.elapsed - saved > save_every:
            saved = clock.elapsed
            save_checkpoint(run / "latest.pt", trainer.state())
    if trainer.leads:
        save_checkpoint(run / "latest.pt", trainer.state())
        if measure is not None:
            _log_heldout(trainer, run, measure)


def _log_heldout(
    trainer: Trainer, run: Path, measure: Callable[[Trainer], Mapping[str, float]]
) -> None:
    """Adds a line of held-out losses to the run's log."""
    seen = trainer.step * trainer.recipe.batch
    line = {"step": trainer.step, "seen": seen, "seconds": round(trainer.elapsed, 1)}
    weights = measure(trainer)
    trainer.average.swap()
    averaged = measure(trainer)
    trainer.average.swap()
    with (run / "heldout.jsonl").open("a") as out:
        out.write(json.dumps(line | {"weights": weights, "averaged": averaged}) + "\n")
