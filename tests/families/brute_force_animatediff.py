r"""Attention folded into the batch, by brute force: the full matrix over all F H W queries.

Where every frame attends to itself, and where every place attends over time, the queries of *all*
frames and places of a video are put into one sequence, mixed by the full matrix

$$B = B_F \otimes B_H \otimes B_W$$

and given back; then each attends to the keys of its own frame or place.

Nothing of `smoothed_energy` is used here.
"""

import math
from dataclasses import dataclass
from itertools import product

import torch
from brute_force_attention import Image, operator


@dataclass(frozen=True)
class FoldedImage(Image):
    """Tokens of a video `(F, H, W)` of which one sequence holds a frame, or one place of all."""

    over: str = "space"

    def attention(self, sigma, temporal):
        """Attention by its definition, with mixed queries."""
        return explicit_attention(self, sigma, temporal)


def places(image, videos):
    """For each token of the grid, frames first: its rows of the batch, and its place in them."""
    frames, height, width = image.grid
    found = []
    for frame, place in product(range(frames), range(height * width)):
        if image.over == "space":
            rows, position = [video * frames + frame for video in range(videos)], place
        else:
            rows = [video * height * width + place for video in range(videos)]
            position = frame
        found.append((rows, position))
    return found


def mixed(image, query, sigma, temporal):
    """The queries `(batch, heads, T, d)` under the full matrix over the whole grid, float64."""
    sequences = image.grid[0] if image.over == "space" else math.prod(image.grid[1:])
    found = places(image, len(query) // sequences)
    everything = torch.stack([query[rows, :, position] for rows, position in found], dim=2)
    matrix = operator(Image(image.grid), 0, len(found), sigma, temporal)
    everything = matrix @ everything.double()
    result = torch.empty_like(query, dtype=torch.float64)
    for token, (rows, position) in enumerate(found):
        result[rows, :, position] = everything[:, :, token]
    return result


def explicit_attention(image, sigma, temporal):
    """Attention by its definition, with mixed queries."""

    def attend(
        query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **more
    ):
        assert attn_mask is None and not is_causal and not dropout_p and not any(more.values())
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        logits = mixed(image, query, sigma, temporal) @ key.double().mT * scale
        return (logits.softmax(-1) @ value.double()).to(value.dtype)

    return attend
