r"""Autoguidance: away from what a weaker denoiser predicts.

References:
    | Guiding a Diffusion Model with a Bad Version of Itself
    | (Karras et al., NeurIPS 2024), https://arxiv.org/abs/2406.02507
"""

from __future__ import annotations

__all__ = ["Autoguidance"]

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..families import Arguments, family_or_unknown
from ..guidance.guidance import About
from ..guidance.negative_guidance import NegativeGuidance
from ..guidance.plan import NegativeContext, Plan
from ..intercept.module_call import unwrap
from ..models.loading import dtype_argument
from ..settings.conversion import set_field
from ..settings.hub import is_hub_id


@dataclass(frozen=True)
class _Weaker:
    """The prediction of another denoiser for the same input."""

    find: Callable[[nn.Module], nn.Module]

    def __call__(self, second: NegativeContext) -> Tensor:
        weaker, call = self.find(unwrap(second.call.module)), second.call
        arguments = Arguments(call.argument)
        if family_or_unknown(call.module).keeps_keys(arguments):
            raise RuntimeError(
                "the denoiser is given a kv_cache, whose keys are not the weaker one's; expected a "
                "run without one"
            )
        output = weaker(*call.args, **call.kwargs)
        predicted = family_or_unknown(weaker).prediction_in(output, arguments)
        return predicted[:, : second.clean.shape[1]]


@dataclass(frozen=True)
class Autoguidance(NegativeGuidance):
    r"""Guidance away from the prediction of a weaker denoiser.

    The weaker one takes the same latents and conditions, and was trained less, or is smaller.

    Args:
        scale: $\gamma \ge -1$; the paper's $w$ is $\gamma + 1$.
        steps: The guided steps.
        formulation: `"conditional"` or `"unconditional"`.
        weak: The weaker denoiser: a module, on the device and in the dtype of the stronger one, or
            the folder or hub id of one, which is loaded (from safetensors only) with the class,
            dtype and device of the stronger one when a run first needs it. A module has no text.

    Raises:
        TypeError: If `weak` is neither a module nor a path.
        ValueError: From `attach`, if it is missing, or neither the folder of a denoiser nor of the
            form of a hub id; from a run, if what is there cannot be loaded.

    Example:
        >>> with Autoguidance(weak=weaker_unet, scale=1.0).attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=5.0).images[0]
    """

    method: ClassVar[str] = "autoguidance"
    about: ClassVar[About] = About(
        "Autoguidance",
        "a weaker denoiser predicts",
        "a pass of the weaker denoiser",
        "Karras et al. 2024, arXiv 2406.02507",
        "needs a weaker denoiser for the same latents",
    )

    needs_softmax: ClassVar[bool] = False
    predicts_elsewhere: ClassVar[bool] = True

    weak: nn.Module | str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        weak = cast(Any, self.weak)
        if isinstance(weak, Path):
            set_field(self, "weak", str(weak))
        elif not isinstance(weak, (str, nn.Module)):
            raise TypeError(
                f"weak={weak!r} is no denoiser; expected a module, a folder or a hub id"
            )

    @override
    def __repr__(self) -> str:
        """As of other guidances; a module, whose own text has hundreds of lines, by its class."""
        values = {field.name: repr(getattr(self, field.name)) for field in fields(self)}
        if isinstance(self.weak, nn.Module):
            values["weak"] = f"<{type(self.weak).__name__}>"
        settings = ", ".join([f"{name}={value}" for name, value in values.items()])
        return f"{type(self).__name__}({settings})"

    @override
    def to_dict(self) -> dict[str, Any]:
        """The settings; a folder or a hub id stands for the weaker denoiser.

        Raises:
            ValueError: If `weak` is a module.
        """
        if isinstance(self.weak, nn.Module):
            raise ValueError(
                f"weak is a {type(self.weak).__name__}, which has no text; to save this guidance, "
                "give the folder that the weaker denoiser is loaded from"
            )
        return super().to_dict()

    @override
    def plan(self, denoiser: nn.Module, *, replay: bool = True) -> Plan:
        """Another denoiser predicts, so nothing is replayed."""
        self.select(denoiser)
        return self._plan(negative=_Weaker(self._weaker))

    @override
    def select(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        """No layers, but a missing weaker denoiser is refused here, before any run.

        Raises:
            ValueError: If `weak` was not given, or is a path where there is no denoiser.
        """
        if not isinstance(self.weak, nn.Module):
            _check_path(self.weak)
        return ()

    def _weaker(self, denoiser: nn.Module) -> nn.Module:
        if isinstance(self.weak, nn.Module):
            return self.weak
        parameter = next(denoiser.parameters())
        place = str(Path(self.weak).expanduser())
        try:
            return _loaded(cast(Any, type(denoiser)), place, parameter.dtype, parameter.device)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split()) or repr(error)
            raise ValueError(
                f"weak={self.weak!r} cannot be loaded as a {type(denoiser).__name__}: {reason}"
            ) from error


def _check_path(weak: str) -> None:
    """Refuse a path where there is no denoiser. Only loading can tell whether a hub id exists.

    Raises:
        ValueError: If it is neither a denoiser's folder nor of the form of a hub id.
    """
    if not weak:
        raise ValueError(
            "autoguidance needs a weaker denoiser; expected weak= a module, a folder, or a hub id"
        )
    folder = Path(weak).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"weak={weak!r} has no config.json; expected the folder of a denoiser in "
                "diffusers' layout, such as the folder unet of a pipeline"
            )
        if not any(folder.glob("*.safetensors")):
            raise ValueError(f"weak={weak!r} has no weights; expected safetensors files in it")
    elif not is_hub_id(weak):
        raise ValueError(
            f"weak={weak!r} is not a folder that exists; expected the folder of a denoiser, a hub "
            "id of the form owner/name, or a module"
        )


@functools.lru_cache(maxsize=4)
def _loaded(cls: type[nn.Module], path: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    options = {dtype_argument(version("diffusers")): dtype, "use_safetensors": True}
    weaker = cast(Any, cls).from_pretrained(path, **options)
    return cast(nn.Module, weaker.to(device).eval())
