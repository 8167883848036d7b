r"""CLIP similarity and CLIP score: how well pictures match their prompts.

Both are of the cosine of CLIP's embeddings of a picture and of its prompt, and differ in how it is
written. *CLIP similarity* is the cosine itself, as in Table 2 of the SEG paper (0.27 to 0.29).
*CLIP score* is :math:`100 \max(\cos, 0)`, as torchmetrics has it. Hessel et al., 2021
(https://arxiv.org/abs/2104.08718), who proposed the score, take 2.5 for 100. None of them adds
"A photo depicts" before the prompt, as Hessel et al. do.
"""

from __future__ import annotations

__all__ = ["CLIP_SCORE", "CLIP_SIMILARITY", "clip_score", "clip_similarity"]

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .clip import ClipNetwork
from .picture_metric import NetworkMetric, TextMetric

#: The model of published CLIP scores of SDXL. Its pictures are prepared at 224 pixels.
_SOURCE = "openai/clip-vit-large-patch14"


def clip_similarity(
    source: str | Path = _SOURCE, *, device: str | torch.device = "cpu"
) -> TextMetric:
    """The cosine of CLIP's embeddings of a picture and of its prompt, in ``[-1, 1]``.

    Args:
        source: A CLIP of `transformers`: a hub id or a folder.
        device: Where it runs.

    Raises:
        ValueError: If there is no such model.
    """
    network = ClipNetwork(source, device=device)
    return TextMetric(
        name="clip-similarity",
        better="higher",
        bounds=(-1, 1),
        model=network.name,
        measure=network.cosines,
    )


def clip_score(source: str | Path = _SOURCE, *, device: str | torch.device = "cpu") -> TextMetric:
    """CLIP score, 100 max(cos, 0), in ``[0, 100]``; see `clip_similarity`."""
    network = ClipNetwork(source, device=device)

    def measure(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        return 100 * network.cosines(pictures, prompts).clamp_min(0)

    return TextMetric(
        name="clip-score",
        better="higher",
        bounds=(0, 100),
        model=network.name,
        measure=measure,
    )


CLIP_SIMILARITY = NetworkMetric("clip-similarity", TextMetric, clip_similarity)
CLIP_SCORE = NetworkMetric("clip-score", TextMetric, clip_score)
