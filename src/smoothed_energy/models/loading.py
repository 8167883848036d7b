"""Pipelines loaded from this package, a folder or the hub, ready to run.

Weights are read from safetensors files only: pickled weights can run code when they are opened.
"""

from __future__ import annotations

__all__ = ["dtype_argument", "load", "placement"]

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .hub import hub_options
from .locations import ModelError, resolve_controlnet, resolve_model
from .memory import is_out_of_memory

if TYPE_CHECKING:
    import torch


def load(
    model: str | Path = "avatars",
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    controlnet: str | Path | None = None,
) -> Any:
    """A pipeline that is ready to sample.

    Args:
        model: The name of an embedded model (``"avatars"``), a folder in diffusers' layout, or a
            hub id (``"stabilityai/stable-diffusion-xl-base-1.0"``).
        dtype: Of the weights and of the computation. Default: float32 on a CPU; on a GPU bfloat16
            where the hardware has it, else float16.
        device: Default: ``"cuda"`` where there is one, else ``"mps"``, else ``"cpu"``.
        controlnet: A ControlNet for it: the name of one that comes with an embedded model
            (``"canny"`` for ``"avatars"``), a folder, or a hub id.

    Returns:
        A ``diffusers.DiffusionPipeline``; for ``"avatars"`` a ``StableDiffusionXLPipeline``, or a
        ``StableDiffusionXLControlNetPipeline``.

    Raises:
        UnknownModelError: If there is nothing of that name.
        PickledWeightsError: If the folder has pickled weights only.
        ModelError: If the folder is not a pipeline that diffusers can load.
    """
    source = resolve_model(model)
    known = hub_options(source)
    import diffusers  # slow, and not needed to refuse a name

    device, dtype = placement(device, dtype)
    options: dict[str, Any] = {
        "use_safetensors": True,
        dtype_argument(diffusers.__version__): dtype,
    }
    cls: Any = diffusers.DiffusionPipeline
    if controlnet is not None:
        place = resolve_controlnet(model, controlnet)
        of_network = hub_options(place)
        _check_controlnet(controlnet, place, of_network)
        with _loading(controlnet):
            network = diffusers.ControlNetModel.from_pretrained(place, **options, **of_network)
        cls, options = diffusers.AutoPipelineForText2Image, {**options, "controlnet": network}
    try:
        pipe = cls.from_pretrained(source, **options, **known)
    except ModelError:
        raise
    except Exception as error:  # of any kind, for a configuration of any kind
        if not isinstance(error, (OSError, ImportError)):
            _check_pipeline_class(model, source)  # what diffusers takes for granted
        if controlnet is not None and isinstance(error, ValueError):
            raise ModelError(
                f"{str(model)!r} has no pipeline with a ControlNet: {error}"
            ) from error
        with _loading(model):
            raise
    _let_encoders_compute(pipe, dtype)
    return pipe.to(device)


def _let_encoders_compute(pipe: Any, dtype: torch.dtype) -> None:
    """Let CLIP's text encoders compute in float64, which they can't before transformers 5.

    These make a mask of the lowest number of their dtype in torch's default one, where that of
    float64 overflows.
    """
    import torch
    import transformers

    if dtype != torch.float64 or int(transformers.__version__.split(".")[0]) >= 5:
        return

    def begin(module: Any, args: Any) -> None:
        module.default_dtype_before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)

    def end(module: Any, args: Any, output: Any) -> None:
        torch.set_default_dtype(module.default_dtype_before)

    for part in pipe.components.values():
        if type(part).__name__.startswith("CLIPText"):
            part.register_forward_pre_hook(begin)
            part.register_forward_hook(end, always_call=True)


def _check_controlnet(controlnet: str | Path, place: str, known: dict[str, Any]) -> None:
    """Refuse what is another network: diffusers would make a ControlNet of it, with random weights.

    Raises:
        ModelError: If it is.
    """
    import diffusers

    with _loading(controlnet):
        config = diffusers.ControlNetModel.load_config(place, **known)
    name = config.get("_class_name") if isinstance(config, dict) else type(config).__name__
    if name not in (None, "ControlNetModel"):
        raise ModelError(f"cannot load {str(controlnet)!r}: it is a {name}, not a ControlNetModel")


def _check_pipeline_class(model: str | Path, source: str) -> None:
    """Refuse a model whose pipeline is not a class of diffusers.

    Raises:
        ModelError: If it is not, or its index or a library that it needs is missing.
    """
    import diffusers

    with _loading(model):
        index = diffusers.DiffusionPipeline.load_config(source)
    name = index.get("_class_name") if isinstance(index, dict) else None
    cls: Any = getattr(diffusers, name, None) if isinstance(name, str) else None
    if hasattr(cls, "_backends"):
        with _loading(model):
            cls.from_pretrained(source)  # a stand-in, which says what library is missing
    if not (isinstance(cls, type) and issubclass(cls, diffusers.DiffusionPipeline)):
        raise ModelError(
            f"cannot load {str(model)!r}: _class_name={name!r} in its model_index.json is not a "
            f"pipeline of diffusers {diffusers.__version__}; expected one such as "
            "'StableDiffusionXLPipeline'"
        )


@contextmanager
def _loading(name: str | Path) -> Iterator[None]:
    """A block in which diffusers may find that something is missing, or not what it should be.

    Raises:
        ModelError: If it does.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # of any kind, for a configuration of any kind
        if is_out_of_memory(error):
            raise
        first, *_ = str(error).strip().splitlines() or [""]
        if not isinstance(error, (OSError, ImportError, ValueError)):
            first = f"its configuration or weights are not what they should be ({error!r})"
        raise ModelError(f"cannot load {str(name)!r}: {first or repr(error)}") from error


def dtype_argument(version: str) -> str:
    """What ``from_pretrained`` calls the dtype in this version of diffusers."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return "dtype" if (major, minor) >= (0, 42) else "torch_dtype"


def placement(
    device: str | torch.device | None, dtype: torch.dtype | None
) -> tuple[torch.device, torch.dtype]:
    """The device and the dtype of a pipeline, the defaults where they are None."""
    import torch

    if device is None:
        fallback = "mps" if torch.backends.mps.is_available() else "cpu"
        device = "cuda" if torch.cuda.is_available() else fallback
    device = torch.device(device)
    if dtype is None and device.type == "cuda":
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    elif dtype is None:
        dtype = torch.float16 if device.type == "mps" else torch.float32
    return device, dtype
