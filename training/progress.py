"""The held-out loss: the same drawings, noise and timesteps at every measurement.

The training loss is the mean over other noise at every step and hardly moves; this one shows
whether a run still learns, style by style.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from .autoencoder import encode_split
from .dataset import tokenize
from .diffusion import noised
from .trainer import Trainer

__all__ = ["HeldOut", "heldout_split"]


def heldout_split(
    folder: Path, run: Path, size: int, tokenizer: CLIPTokenizer, *, std: float, count: int = 512
) -> HeldOut:
    """The first held-out drawings, encoded once with the run's autoencoder."""
    path = run / f"heldout-{count}.npy"
    if not path.exists():
        pixels = np.load(folder / f"heldout-{size}.npy", mmap_mode="r")[:count]
        encode_split(AutoencoderKL.from_pretrained(run / "vae"), pixels, path)
    latents = np.load(path)
    with (folder / f"heldout-{size}.jsonl").open() as lines:
        records = [json.loads(line) for line in itertools.islice(lines, len(latents))]
    return HeldOut(
        torch.from_numpy(latents.astype(np.float32) / std),
        torch.from_numpy(tokenize(tokenizer, [r["captions"][0] for r in records]).astype(np.int64)),
        [r["style"] for r in records],
    )


class HeldOut:
    """Held-out drawings with a fixed noise and a fixed timestep each.

    Args:
        latents: `(N, C, H, W)` of unit variance.
        tokens: `(N, L)`, one caption each.
        styles: The style of each.
    """

    def __init__(self, latents: Tensor, tokens: Tensor, styles: Sequence[str]) -> None:
        self.latents, self.tokens, self.styles = latents, tokens, list(styles)
        generator = torch.Generator().manual_seed(0)
        self.noise = torch.randn(latents.shape, generator=generator)
        self.positions = torch.rand(len(latents), generator=generator)

    @torch.no_grad()
    def measure(self, trainer: Trainer, *, batch: int = 64) -> dict[str, float]:
        """Mean squared error of the velocity, of all (``"all"``) and of each style."""
        found = []
        levels = trainer.levels
        for part in torch.arange(len(self.latents)).split(batch):
            timesteps = (self.positions[part] * len(levels)).long().to(trainer.device)
            latents, noise, tokens = (
                x[part].to(trainer.device) for x in (self.latents, self.noise, self.tokens)
            )
            noisy, velocity = noised(latents, noise, levels[timesteps])
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            with torch.autocast(trainer.device, dtype=torch.bfloat16):
                predicted = trainer.predict(noisy, timesteps, tokens)
            found.append((predicted.float() - velocity).square().flatten(1).mean(1).cpu())
        errors = torch.cat(found)
        means = {"all": round(float(errors.mean()), 5)}
        for style in sorted(set(self.styles)):
            rows = torch.tensor([s == style for s in self.styles])
            means[style] = round(float(errors[rows].mean()), 5)
        return means
