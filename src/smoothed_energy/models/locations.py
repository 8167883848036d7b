"""Where models are: inside this package, in a folder, or on the hub."""

from __future__ import annotations

__all__ = [
    "ModelError",
    "PickledWeightsError",
    "UnknownModelError",
    "available",
    "check_folder",
    "embedded_controlnets",
    "is_folder",
    "model_folder",
    "resolve_controlnet",
    "resolve_model",
]

from pathlib import Path

from ..settings.hub import is_hub_id

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


def embedded_controlnets(model: str) -> list[str]:
    """The names of the ControlNets that come with an embedded model, sorted."""
    place = model_folder(model) / _CONTROLNETS
    return sorted(found.parent.name for found in place.glob("*/config.json"))


def resolve_model(model: str | Path) -> str:
    """The argument for ``from_pretrained``: a folder that was checked, or a hub id.

    Raises:
        ModelError: If it is neither, or the folder is not a pipeline with safetensors weights.
    """
    if isinstance(model, str) and model in available():
        return str(model_folder(model))
    if not str(model):
        raise UnknownModelError(_unknown(""))  # Path("") is the folder we are in
    path = Path(model).expanduser()
    if is_folder(path):
        check_folder(path)
        return str(path)
    if _is_file(path):
        raise ModelError(f"{path} is a file; expected a folder in diffusers' layout or a hub id")
    if isinstance(model, str) and is_hub_id(model):
        return model
    raise UnknownModelError(_unknown(str(model)))


def resolve_controlnet(model: str | Path, controlnet: str | Path) -> str:
    """The argument for ``ControlNetModel.from_pretrained``.

    Raises:
        UnknownModelError: If there is nothing of that name.
    """
    known = embedded_controlnets(str(model)) if str(model) in available() else []
    if str(controlnet) in known:
        return str(model_folder(str(model)) / _CONTROLNETS / str(controlnet))
    path = Path(controlnet).expanduser()
    if is_folder(path):
        return str(path)
    if isinstance(controlnet, str) and is_hub_id(controlnet):
        return controlnet
    own = f"those that come with {model} are {', '.join(known)}" if known else "none comes with it"
    raise UnknownModelError(
        f"no ControlNet {str(controlnet)!r}: {own}; expected one of them, a folder that exists, or "
        "a hub id of the form owner/name"
    )


def is_folder(path: Path) -> bool:
    """Whether there is a folder; what can't be a path is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # longer than names can be
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def check_folder(folder: Path) -> None:
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


def _unknown(name: str) -> str:
    return (
        f"no model {name!r}: it is not an embedded model (available: {', '.join(available())}), "
        "not a folder that exists, and not a hub id of the form owner/name"
    )
