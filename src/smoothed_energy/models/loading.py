"""Loading a pipeline by the name of an embedded model, from a folder, or by hub id.

Weights are read from safetensors files only: pickled weights can run code when they are opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings.hub import is_hub_id

if TYPE_CHECKING:
    import torch

__all__ = [
    "ModelError",
    "PickledWeightsError",
    "UnknownModelError",
    "available",
    "embedded_controlnets",
    "load",
    "model_folder",
]

_CONTROLNETS = "controlnets"
_PICKLED = (".bin", ".ckpt", ".pt", ".pth")


class ModelError(ValueError):
    """A model cannot be loaded; the message says why and what could be."""


class UnknownModelError(ModelError):
    """The name is neither an embedded model, nor a folder, nor a hub id."""


class PickledWeightsError(ModelError):
    """The folder's weights are pickled."""


def available() -> list[str]:
    """The names of the models inside this package, sorted."""
    here = Path(__file__).parent
    return sorted(found.parent.name for found in here.glob("*/model_index.json"))


def model_folder(name: str) -> Path:
    """The folder of an embedded model, in diffusers' layout.

    Raises:
        UnknownModelError: If there is no such model.
    """
    folder = Path(__file__).parent / name
    if name not in available():
        raise UnknownModelError(_unknown(name))
    return folder


def _unknown(name: str) -> str:
    return (
        f"no model {name!r}: it is not an embedded model (available: {', '.join(available())}), "
        "not a folder that exists, and not a hub id of the form owner/name"
    )


def _check_folder(folder: Path) -> None:
    """Refuse a folder that is no pipeline in diffusers' layout with safetensors weights.

    Raises:
        PickledWeightsError: If it has pickled weights only.
        ModelError: If it has no index of a pipeline.
    """
    if not (folder / "model_index.json").is_file():
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLED)
        if pickled:
            raise PickledWeightsError(_pickled(folder, pickled))
        raise ModelError(f"{folder} has no model_index.json: not a pipeline in diffusers' layout")
    for part in sorted(p for p in folder.iterdir() if p.is_dir()):
        pickled = sorted(str(p.relative_to(folder)) for p in part.iterdir() if p.suffix in _PICKLED)
        if pickled and not any(part.glob("*.safetensors")):
            raise PickledWeightsError(_pickled(folder, pickled))


def _pickled(folder: Path, files: list[str]) -> str:
    return (
        f"{folder} has only pickled weights where safetensors are expected: {', '.join(files)}; "
        "save the pipeline again with save_pretrained(..., safe_serialization=True)"
    )


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
        ModelError: If the folder is not a pipeline, or its pipeline is not of diffusers.
    """
    source = _resolve(model)
    import diffusers
    import torch

    device = torch.device(device if device is not None else _default_device())
    dtype = dtype if dtype is not None else _default_dtype(device)
    options: dict[str, Any] = {
        "use_safetensors": True,
        _dtype_argument(diffusers.__version__): dtype,
    }
    cls: Any = diffusers.DiffusionPipeline
    if controlnet is not None:
        place = _resolve_controlnet(model, controlnet)
        network = _from_pretrained(diffusers.ControlNetModel, controlnet, place, options)
        cls, options = diffusers.AutoPipelineForText2Image, {**options, "controlnet": network}
    try:
        pipe = _from_pretrained(cls, model, source, options)
    except ModelError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        _check_pipeline_class(model, source)  # what diffusers takes for granted
        if controlnet is None or not isinstance(error, ValueError):
            raise
        raise ModelError(f"{str(model)!r} has no pipeline with a ControlNet: {error}") from error
    return pipe.to(device)


def embedded_controlnets(model: str) -> list[str]:
    """The names of the ControlNets that come with an embedded model, sorted."""
    place = model_folder(model) / _CONTROLNETS
    return sorted(found.parent.name for found in place.glob("*/config.json"))


def _resolve_controlnet(model: str | Path, controlnet: str | Path) -> str:
    """The argument for ``ControlNetModel.from_pretrained``."""
    known = embedded_controlnets(str(model)) if str(model) in available() else []
    if str(controlnet) in known:
        return str(model_folder(str(model)) / _CONTROLNETS / str(controlnet))
    path = Path(controlnet).expanduser()
    if path.is_dir():
        return str(path)
    if isinstance(controlnet, str) and is_hub_id(controlnet):
        return controlnet
    own = f"those that come with {model} are {', '.join(known)}" if known else "none comes with it"
    raise UnknownModelError(
        f"no ControlNet {str(controlnet)!r}: {own}; expected one of them, a folder that exists, or "
        "a hub id of the form owner/name"
    )


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
    """A block in which diffusers may find that files or libraries are missing.

    Raises:
        ModelError: If it does.
    """
    try:
        yield
    except (OSError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ModelError(f"cannot load {str(name)!r}: {first}") from error


def _from_pretrained(cls: Any, name: str | Path, source: str, options: dict[str, Any]) -> Any:
    with _loading(name):
        return cls.from_pretrained(source, **options)


def _resolve(model: str | Path) -> str:
    """The argument for ``from_pretrained``: a folder that was checked, or a hub id."""
    if isinstance(model, str) and model in available():
        return str(model_folder(model))
    if not str(model):
        raise UnknownModelError(_unknown(""))  # Path("") is the folder we are in
    path = Path(model).expanduser()
    if path.is_dir():
        _check_folder(path)
        return str(path)
    if path.is_file():
        raise ModelError(f"{path} is a file; expected a folder in diffusers' layout or a hub id")
    if isinstance(model, str) and is_hub_id(model):
        return model
    raise UnknownModelError(_unknown(str(model)))


def _dtype_argument(version: str) -> str:
    """What ``from_pretrained`` calls the dtype in this version of diffusers."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return "dtype" if (major, minor) >= (0, 42) else "torch_dtype"


def _default_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _default_dtype(device: torch.device) -> torch.dtype:
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float16 if device.type == "mps" else torch.float32
