r"""Skip-layer guidance (SLG).

References:
    | Stable Diffusion 3.5 (Stability AI, 2024), whose inference code skips layers 7 to 9;
    | Spatiotemporal Skip Guidance for Enhanced Video Diffusion Sampling (Hyung et al., CVPR 2025),
    | https://arxiv.org/abs/2411.18664
"""

from __future__ import annotations

__all__ = ["SkipLayerGuidance", "SkipModules"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from torch import nn
from typing_extensions import override

from ..denoisers.attention_layer import LayerError, SelfAttentionLayer
from ..families import family_of
from ..guidance.guidance import SECOND_PASS, About
from ..guidance.negative_guidance import LayerGuidance
from ..guidance.perturbation import LayerCall, Perturbation, enclosing_block
from ..settings.checks import check_choice

Skipped = Literal["block", "attention", "feed-forward"]


@dataclass(frozen=True)
class SkipModules(Perturbation):
    """A module that is skipped: it returns its input.

    Args:
        skip: Which module of the chosen layer's transformer block: the block itself, its
            self-attention, or its feed-forward network.
    """

    skip: Skipped

    @override
    def modules(
        self, denoiser: nn.Module, layers: Sequence[SelfAttentionLayer]
    ) -> Mapping[nn.Module, str]:
        """What is skipped, of each block around a layer.

        Raises:
            LayerError: If a layer is in no transformer block.
        """
        return {self._module(denoiser, layer): layer.name for layer in layers}

    def _module(self, denoiser: nn.Module, layer: SelfAttentionLayer) -> nn.Module:
        if self.skip == "attention":
            # A family may know that what it gives has another shape than its input.
            family_of(denoiser).outputs(denoiser, layer, layer.module)
            return layer.module
        block = enclosing_block(denoiser, layer)
        if self.skip == "block":
            return block
        found = family_of(denoiser).feed_forward(block)
        if found is None:
            raise LayerError(
                f"layers: the block of {layer.name} has no feed-forward network to skip; expected "
                'other layers, or skip="attention" or "block"'
            )
        return found

    @override
    def run(self, call: LayerCall) -> Any:
        return call.untouched()


@dataclass(frozen=True)
class SkipLayerGuidance(LayerGuidance):
    r"""Guidance away from a prediction in which some layers are skipped (SLG).

    Args:
        scale: $\gamma \ge -1$; 2.8 is Stability AI's for SD 3.5.
        layers: The skipped layers, named by their self-attention.
        steps: The guided steps; Stability AI's are `"0.01:0.2"`.
        formulation: `"conditional"` or `"unconditional"`.
        skip: `"block"` skips the whole transformer block; `"attention"` and `"feed-forward"` skip
            only that part of it, which then gives its input.

    Raises:
        ValueError: If a value is outside its set.

    Example:
        >>> with SkipLayerGuidance(scale=2.8, layers="m2-m4", steps="0.01:0.2").attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=5.0).images[0]
    """

    method: ClassVar[str] = "slg"
    about: ClassVar[About] = About(
        "Skip-layer guidance",
        "transformer blocks, or parts of them, are skipped",
        SECOND_PASS,
        "Stability AI 2024; Hyung et al. 2025, arXiv 2411.18664",
        "made for transformers; in U-Nets choose few layers",
    )

    needs_softmax: ClassVar[bool] = False

    skip: Skipped = "block"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("skip", self.skip, get_args(Skipped))

    @property
    @override
    def perturbation(self) -> SkipModules:
        """Skipped modules."""
        return SkipModules(self.skip)
