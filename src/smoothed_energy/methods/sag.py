r"""Self-attention guidance (SAG).

References:
    | Improving Sample Quality of Diffusion Models Using Self-Attention Guidance
    | (Hong et al., ICCV 2023), https://arxiv.org/abs/2210.00939
"""

from __future__ import annotations

__all__ = ["SelfAttentionGuidance"]

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.cfg_batch import Formulation
from ..denoisers.image_tokens import rows_in_order
from ..families.layer_selection import LayerSelection, normalise_selection, select_layers
from ..guidance.attention_perturbation import ReceivedAttention
from ..guidance.clean_estimate import clean_and_noise, signal_and_noise
from ..guidance.guidance import About
from ..guidance.negative_guidance import NegativeGuidance
from ..guidance.plan import NegativeContext, Plan
from ..guidance.softmax import require_softmax
from ..settings.checks import check_positive
from ..settings.conversion import set_field
from ..smoothing import GaussianBlur, Smoothing, as_smoothing

_NAME = "self-attention guidance"


@dataclass(frozen=True)
class _Degraded:
    """The prediction for an input whose clean estimate is blurred where attention looks."""

    blur: Smoothing
    threshold: float

    def __call__(self, second: NegativeContext) -> Tensor:
        signal, noise = signal_and_noise(second, _NAME)
        sample, output = second.sample, second.clean
        if sample.ndim != 4 or output.shape[2:] != sample.shape[2:]:
            raise ValueError(
                f"self-attention guidance blurs pictures; expected latents (B, C, H, W), and this "
                f"denoiser's are of shape {tuple(sample.shape)}"
            )
        # Masks and source pictures may follow the latents (inpainting, InstructPix2Pix, ...).
        x, conditions = sample.tensor_split([output.shape[1]], dim=1)
        clean, epsilon = clean_and_noise(second.prediction_type, x, output, (signal, noise), _NAME)
        tokens = clean.flatten(2).mT
        blurred = self.blur.apply(tokens, tuple(clean.shape[2:])).mT.reshape(clean.shape)
        masks = []
        for layer, received in second.observed.items():
            places = second.image_tokens(layer, received.shape[-1])
            parts = []
            for rows, image in places.by_start(len(received)):
                of_image = received[rows][:, image.slice]
                if image.count < received.shape[-1]:
                    # The text receives attention, too; the mean of the image's tokens is 1 again.
                    of_image = of_image / of_image.mean(dim=-1, keepdim=True)
                parts.append((rows, of_image))
            looked_at = (rows_in_order(parts) > self.threshold).to(clean.dtype)
            masks.append(F.interpolate(looked_at.reshape(-1, 1, *places.grid), clean.shape[2:]))
        mask = torch.stack(masks).mean(0)
        degraded = clean + mask * (blurred - clean)
        noisy = (signal * degraded + noise * epsilon).to(x.dtype)
        return second.of_sample(torch.cat([noisy, conditions], dim=1))[:, : output.shape[1]]


@dataclass(frozen=True)
class SelfAttentionGuidance(NegativeGuidance):
    r"""Guidance away from a prediction for a blurred input (SAG).

    The estimate of the clean image is blurred where the chosen layers look, noise of the same
    level is added again, and the denoiser predicts for that. It works with every scheduler that
    tells its noise levels and what is predicted, in the denoiser's own scaling: EDM's and flow
    matching, too. What follows the latents in the denoiser's input stays as it is.

    Args:
        scale: $\gamma \ge -1$; 0.75 is the default of the implementation in `diffusers`.
        layers: The layers whose attention is looked at (the mean of their masks is used); the first
            middle one, as there.
        steps: The guided steps.
        formulation: Which prediction is degraded under CFG; the paper's (equation 25) is
            `"unconditional"`.
        blur: The blur of the estimate, over latent pixels.
        threshold: A token is looked at if it receives more attention than this; 1 is the mean.

    Raises:
        ValueError: If a value is outside its set; while generating, if the noise level or the kind
            of prediction is not known.

    Example:
        >>> with SelfAttentionGuidance(scale=0.75).attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=7.5).images[0]
    """

    method: ClassVar[str] = "sag"
    about: ClassVar[About] = About(
        "Self-attention guidance",
        "the input is blurred where attention looks",
        "a whole second pass, and one attention map",
        "Hong et al. 2023, arXiv 2210.00939",
        "not for compiled denoisers",
    )

    _: KW_ONLY
    scale: float = 0.75
    layers: LayerSelection = "m0"
    formulation: Formulation = "unconditional"
    blur: Smoothing | str = GaussianBlur(1.0, 9)  # noqa: RUF009 - immutable
    threshold: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.layers):
            set_field(self, "layers", normalise_selection(self.layers))
        set_field(self, "blur", as_smoothing(self.blur))
        set_field(self, "threshold", check_positive("threshold", self.threshold))

    @property
    @override
    def is_uniform(self) -> bool:
        """Every step has its own noise level."""
        return False

    @override
    def select(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        layers = select_layers(denoiser, self.layers)
        require_softmax(layers)
        return layers

    @override
    def plan(self, denoiser: nn.Module, *, replay: bool = True) -> Plan:
        """The second pass has another input, so nothing is replayed."""
        return self._plan(
            negative=_Degraded(as_smoothing(self.blur), self.threshold),
            probe=ReceivedAttention(),
            probed={layer.module: layer.name for layer in self.select(denoiser)},
        )
