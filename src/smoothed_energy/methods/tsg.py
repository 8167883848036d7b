r"""Time-step guidance (TSG): away from what is predicted with a noisy embedding of the time.

References:
    | No Training, No Problem: Rethinking Classifier-Free Guidance for Diffusion Models
    | (Sadat et al., ICLR 2025), https://arxiv.org/abs/2407.02687
"""

from __future__ import annotations

__all__ = ["NoisyTime", "TimeStepGuidance"]

import zlib
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import LayerError, SelfAttentionLayer
from ..families import family_of
from ..guidance.guidance import About
from ..guidance.negative_guidance import NegativeGuidance
from ..guidance.perturbation import LayerCall, Perturbation
from ..guidance.plan import Plan
from ..intercept.module_call import unwrap
from ..settings.checks import check_count, check_number, check_positive, refusal
from ..settings.conversion import set_field


@dataclass(frozen=True)
class NoisyTime(Perturbation):
    """The embedding of the time with noise, the same in all rows.

    Args:
        noise: Its size at the first step, over the root mean square of the embedding.
        power: How it falls: with this power of the part of the schedule that is left.
        seed: Of the noise, which every step has its own of.
    """

    noise: float
    power: float
    seed: int

    def added(self, index: int, count: int, width: int) -> Tensor:
        """The noise of a step, over the root mean square of the embedding: `(C,)`, on the CPU."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {index}".encode()))
        size: float = self.noise * (1 - index / count) ** self.power
        return size * torch.randn(width, generator=generator)

    @override
    def run(self, call: LayerCall) -> Any:
        embedding = call()
        if not isinstance(embedding, Tensor):
            raise LayerError(
                f"{call.name} gives a {type(embedding).__name__} and no embedding of the time; "
                "expected another model, or another method"
            )
        here = call.position()
        noise = self.added(here.index, here.count, embedding.shape[-1])
        size = embedding.float().square().mean(dim=-1, keepdim=True).sqrt()
        return embedding + (size * noise.to(size.device)).to(embedding.dtype)


@dataclass(frozen=True)
class TimeStepGuidance(NegativeGuidance):
    r"""Guidance away from a prediction with a perturbed embedding of the time (TSG).

    $\tilde s$ is predicted with the embedding $e$ of the time replaced by
    $e + s\,r^\alpha\,|e|\,n$, where $n$ is standard normal noise, $r$ the part of the schedule that
    is left, and $|e|$ the root mean square of $e$. It needs no prompt and no layers. (The paper's
    noise is $s\,t^\alpha n$ for the timestep $t$, whose size depends on the model.)

    Args:
        scale: $\gamma \ge -1$.
        steps: The guided steps.
        formulation: `"conditional"` or `"unconditional"`.
        noise: $s > 0$.
        power: $\alpha \ge 0$.
        seed: Of the noise: the same seed and step have the same.

    Raises:
        ValueError: If a value is outside its set.

    Example:
        >>> with TimeStepGuidance(scale=1.0).attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=5.0).images[0]
    """

    method: ClassVar[str] = "tsg"
    about: ClassVar[About] = About(
        "Time-step guidance",
        "the embedding of the time is noisy",
        "a whole second pass",
        "after Sadat et al. 2024, arXiv 2407.02687",
        "random: another seed gives another picture; settings are not the paper's",
    )

    needs_softmax: ClassVar[bool] = False

    _: KW_ONLY
    scale: float = 1.0
    noise: float = 0.5
    power: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "noise", check_positive("noise", self.noise))
        power = check_number("power", self.power)
        if not 0 <= power < float("inf"):
            raise refusal(self.power, f"power={self.power!r}: expected a finite number >= 0")
        set_field(self, "power", power)
        set_field(self, "seed", check_count("seed", self.seed, 0))

    @property
    @override
    def is_uniform(self) -> bool:
        """Every step has its own noise."""
        return False

    @override
    def select(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        """No layers, but a denoiser whose embedding of the time is not known is refused here.

        Raises:
            LayerError: If it is not.
        """
        _embeddings(denoiser)
        return ()

    @override
    def plan(self, denoiser: nn.Module, *, replay: bool = True) -> Plan:
        """All that comes after the embedding is computed again."""
        return self._plan(
            perturbation=NoisyTime(self.noise, self.power, self.seed),
            edits=_embeddings(denoiser),
            replay=replay,
        )


def _embeddings(denoiser: nn.Module) -> dict[nn.Module, str]:
    """The modules that embed the time, and their names.

    Raises:
        LayerError: If none is known.
    """
    model = unwrap(denoiser)
    found = {module: name for name, module in family_of(model).time_embeddings(model).items()}
    if not found:
        raise LayerError(
            f"what embeds the time in a {type(model).__name__} is not known, and this method "
            "changes it; expected another model, or another method"
        )
    return found
