r"""PickScore: a CLIP that was trained to agree with people who chose between two pictures.

Kirstain et al., 2023 (https://arxiv.org/abs/2305.01569): the logit of CLIP,
:math:`e^{\tau} \cos(f, t)`, with the learned temperature of the network. Of two pictures of one
prompt, the probability that people choose the first is the sigmoid of the difference of their
scores. Preference models keep rising with classifier-free guidance, over damaged pictures too
(https://arxiv.org/abs/2602.22570): compare at equal effective scale.
"""

from __future__ import annotations

__all__ = ["PICKSCORE", "pickscore"]

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .clip import ClipNetwork
from .picture_metric import NetworkMetric, TextMetric

_SOURCE = "yuvalkirstain/PickScore_v1"
#: The network that it was trained from: its tokenizer, and its preparation of pictures.
_PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


def pickscore(
    source: str | Path = _SOURCE,
    *,
    processor: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> TextMetric:
    """PickScore of a picture and its prompt: about 20 for pictures of today's models.

    Args:
        source: A hub id or a folder.
        processor: Where its tokenizer and its preparation of pictures are; by default, for the
            hub's model, that of the network it was trained from, and for any other the source.
        device: Where it runs.

    Raises:
        ValueError: If there is no such model.
    """
    if processor is None and str(source) == _SOURCE:
        processor = _PROCESSOR
    network = ClipNetwork(source, processor=processor, device=device)
    scale = network.logit_scale

    def measure(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        return scale * network.cosines(pictures, prompts)

    return TextMetric(
        name="pickscore",
        better="higher",
        bounds=(-scale, scale),
        model=network.name,
        measure=measure,
    )


PICKSCORE = NetworkMetric("pickscore", TextMetric, pickscore)
