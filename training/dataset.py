"""The encoded data set in memory: latents and tokenized captions, and random batches of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from smoothed_energy.models.edges import canny

from .networks import TOKENS

__all__ = ["ControlledPortraits", "Portraits", "read_captions", "tokenize"]


def read_captions(path: Path) -> Iterator[list[str]]:
    """The captions of each portrait of a split, from its JSON lines."""
    with path.open() as lines:
        for line in lines:
            yield json.loads(line)["captions"]


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> np.ndarray:
    """Captions as ``(N, TOKENS)`` int16, padded and cut as the pipeline does it."""
    encoded = tokenizer(captions, padding="max_length", max_length=TOKENS, truncation=True)
    return np.asarray(encoded.input_ids, dtype=np.int16)


class Portraits:
    """Latents with their captions.

    Args:
        latents: ``(N, 4, h, w)`` float16, as encoded.
        tokens: ``(N, K, TOKENS)`` int16, K captions for each.
        empty: ``(TOKENS,)`` int16, the empty caption.
        std: Standard deviation of the latents; batches are divided by it.
        dropout: Share of the samples that get the empty caption.
    """

    def __init__(
        self,
        latents: np.ndarray,
        tokens: np.ndarray,
        empty: np.ndarray,
        *,
        std: float,
        dropout: float = 0.1,
    ) -> None:
        if len(latents) != len(tokens):
            raise ValueError(f"{len(latents)} latents but captions of {len(tokens)} portraits")
        self.latents, self.tokens, self.empty = latents, tokens, empty
        self.std, self.dropout = std, dropout
        self._orders: dict[int, np.ndarray] = {}
        self.to("cpu")

    def to(self, device: str) -> Portraits:
        """Keeps latents and captions on a device, where batches of them are then made."""
        self._device = device
        self._latents = torch.from_numpy(self.latents).to(device)
        self._tokens = torch.from_numpy(self.tokens).to(device)
        self._empty = torch.from_numpy(self.empty.astype(np.int64)).to(device)
        return self

    def __len__(self) -> int:
        return len(self.latents)

    def rows(self, step: int, size: int) -> np.ndarray:
        """The numbers of the portraits in the batch of a step."""
        per_pass = len(self) // size
        if per_pass == 0:
            raise ValueError(f"a batch of {size} from a data set of {len(self)}")
        epoch, position = divmod(step, per_pass)
        order = self._orders.get(epoch)  # threads may be in different passes
        if order is None:
            order = np.random.default_rng([1, epoch]).permutation(len(self))
            self._orders = {epoch: order}
        return order[position * size : (position + 1) * size]

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """The batch of a step, the same whenever it is asked for.

        Each pass over the data visits every portrait once, in an order of its own.

        Returns:
            Latents of unit variance ``(size, 4, h, w)`` float32 and tokens ``(size, TOKENS)``, on
            the device of the data.
        """
        rows = self.rows(step, size)
        rng = np.random.default_rng([2, step])
        which = rng.integers(0, self.tokens.shape[1], size)
        dropped = rng.random(size) < self.dropout
        place, caption, empty = (
            torch.from_numpy(x).to(self._device) for x in (rows, which, dropped)
        )
        tokens = self._tokens[place, caption].long()
        tokens = torch.where(empty[:, None], self._empty, tokens)
        return self._latents[place].float() / self.std, tokens


class ControlledPortraits:
    """Portraits with the edges of their drawings.

    Args:
        portraits: Latents and captions.
        pixels: The drawings, `(N, H, W, 3)` uint8; the first ones are those of the latents.
    """

    def __init__(self, portraits: Portraits, pixels: np.ndarray) -> None:
        if len(pixels) < len(portraits):
            raise ValueError(f"{len(portraits)} latents but only {len(pixels)} drawings")
        self.portraits, self.pixels = portraits, pixels

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The batch of a step: as `Portraits.batch`, and edges `(size, 3, H, W)` in [0, 1]."""
        latents, tokens = self.portraits.batch(step, size)
        # The thresholds vary, so that edges of other pictures, with more or less detail, work too.
        rng = np.random.default_rng([3, step])
        edges = []
        for row in self.portraits.rows(step, size):
            low = rng.uniform(50, 150)
            edges.append(canny(self.pixels[row], low=low, high=low + rng.uniform(50, 150)))
        return latents, tokens, torch.from_numpy(np.stack(edges)).permute(0, 3, 1, 2).float() / 255
