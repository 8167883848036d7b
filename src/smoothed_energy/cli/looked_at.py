"""The layers of a denoiser of no family, as looking at it with random weights finds them."""

from __future__ import annotations

__all__ = ["MOST_PARAMETERS", "found_by_looking"]

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from ..families.looking import FoundDenoiser

#: Larger ones take too long without their weights.
MOST_PARAMETERS = 300_000_000
#: A prompt of so many words.
_WORDS = 7
#: The names of what the configuration says of the width of a prompt.
_WIDTHS = (
    "cross_attention_dim",
    "encoder_hid_dim",
    "text_embed_dim",
    "text_dim",
    "caption_channels",
)
_ADVICE = "in Python, attach(pipe, guide_unknown=True) warns of what it found"


def found_by_looking(denoiser: nn.Module, latents: tuple[int, ...]) -> FoundDenoiser:
    """What a few calls with random weights show of a denoiser of no family.

    Args:
        denoiser: Its shape, without weights.
        latents: The size of the latents, `(H, W)` or `(F, H, W)`.

    Raises:
        LayerError: If nothing can be found.
        ValueError: If it can't be called without knowing more of it.
    """
    import torch

    from ..families import LayerError
    from ..families.looking import look
    from ..intercept.module_call import ModuleCall

    count = sum(parameter.numel() for parameter in denoiser.parameters())
    kind = type(denoiser).__name__
    if count > MOST_PARAMETERS:
        raise ValueError(
            f"no family knows a {kind}, and with {count:,} parameters it is too large to be looked "
            f"at here; {_ADVICE}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cls: Any = type(denoiser)
        real = cls.from_config(denoiser.config).eval()
        arguments = _arguments(real, latents)
        try:
            return look(real, ModuleCall(real, real.forward, (), arguments))
        except LayerError:
            raise
        except Exception as error:  # of any kind: nobody knows what it needs
            raise ValueError(
                f"no family knows a {kind}, and it can't be called with {', '.join(arguments)} "
                f"alone ({error!r}); {_ADVICE}"
            ) from error


def _arguments(denoiser: Any, latents: tuple[int, ...]) -> dict[str, Any]:
    """Arguments for a call, by the names that they usually have."""
    import torch

    config = denoiser.config
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(denoiser).forward).parameters.items():
        if name in ("sample", "hidden_states"):
            arguments[name] = torch.randn(1, config.in_channels, *latents)
        elif name in ("timestep", "timesteps"):
            arguments[name] = torch.tensor([500])
        elif name == "encoder_hidden_states":
            width = next((getattr(config, one, None) for one in _WIDTHS if hasattr(config, one)), 0)
            if isinstance(width, int) and width > 0:
                arguments[name] = torch.randn(1, _WORDS, width)
        if name not in (*arguments, "self") and parameter.default is parameter.empty:
            kinds = (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            if parameter.kind not in kinds:
                raise ValueError(
                    f"no family knows a {type(denoiser).__name__}, and what it gets as {name}= is "
                    f"not known, so it can't be looked at here; {_ADVICE}"
                )
    return arguments
