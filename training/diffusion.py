"""The diffusion loss and the averaged weights.

v-prediction (Salimans and Ho, "Progressive Distillation", 2022, https://arxiv.org/abs/2202.00512):
with ``z_t = a_t x + s_t e`` the network predicts ``v = a_t e - s_t x``. The loss is the plain mean
square of its error. A weight such as min-SNR's would be zero at the last timestep of a zero
terminal SNR schedule, where sampling starts.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Average", "noised", "text_conditioning"]


def noised(latents: Tensor, noise: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy latents and the velocity to predict.

    Args:
        latents: Clean latents x of unit variance, ``(B, C, H, W)``.
        noise: Standard normal e of the same shape.
        level: Cumulative products of alphas, ``a_t ** 2``, shape ``(B,)``.

    Returns:
        ``a_t x + s_t e`` and ``a_t e - s_t x``, both ``(B, C, H, W)``.
    """
    signal = level.sqrt().view(-1, 1, 1, 1)
    deviation = (1 - level).sqrt().view(-1, 1, 1, 1)
    return signal * latents + deviation * noise, signal * noise - deviation * latents


def text_conditioning(text_encoder: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What SDXL's pipeline passes to the U-Net for tokenized captions.

    Args:
        text_encoder: A ``CLIPTextModelWithProjection``.
        tokens: ``(B, L)``, int64.

    Returns:
        The last but one hidden states ``(B, L, D)`` and the projected pooled output ``(B, P)``.
    """
    output = text_encoder(tokens, output_hidden_states=True)
    return output.hidden_states[-2], output.text_embeds


class Average:
    """Exponential moving average of a set of parameters, in float32.

    The decay grows from zero, ``min(decay, (1 + step) / (10 + step))``, so that the random start
    is forgotten.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self.decay = decay
        self.parameters = list(parameters)
        self.values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the parameters after training step ``step``."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the parameters and their averages; a second call exchanges them back."""
        for parameter, value in zip(self.parameters, self.values, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)
