"""What determines the pictures of a whole sweep: weights, placement and versions."""

from __future__ import annotations

__all__ = [
    "PIPELINE",
    "Identity",
    "configuration_digest",
    "current_versions",
    "identity_of",
    "row_id",
    "settings_by_content",
]

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..models.loading import placement
from .code import code_digest
from .configuration import PictureSettings, canonical_json
from .file import Sweep, SweepError
from .weights import file_digest, folder_digest, model_digest

#: What draws, if nothing else does.
PIPELINE = "pipeline"
_LENGTH = 24


@dataclass(frozen=True)
class Identity:
    """What the pictures of a sweep depend on, apart from settings, prompts and seeds.

    Args:
        model: The digest of the weights.
        device: The type of the device: the same noise gives other last bits on another one.
        dtype: Of the weights and of the computation.
        versions: Of the libraries that compute.
        drawn_by: The name of what draws.
        files: The digests of other files that settings name, by their paths.
        trace: Whether facts of a trace are kept with the pictures.
    """

    model: str
    device: str
    dtype: str
    versions: Mapping[str, str]
    drawn_by: str = PIPELINE
    files: Mapping[str, str] = field(default_factory=dict)
    trace: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON; paths of files are left out, since their contents count."""
        return {
            "model": self.model,
            "device": self.device,
            "dtype": self.dtype,
            "versions": dict(self.versions),
            "drawn_by": self.drawn_by,
            "trace": self.trace,
        }


def identity_of(
    sweep: Sweep, settings: Iterable[PictureSettings], drawn_by: str = PIPELINE
) -> Identity:
    """The identity of a sweep on this machine.

    Args:
        sweep: The sweep.
        settings: The settings of its configurations, for the files that they name.
        drawn_by: The name of what draws.

    Raises:
        SweepError: If the model or a file is not there, or dtype or device can't be told here.
    """
    device, dtype = _placement(sweep)
    try:
        model = model_digest(sweep.model, sweep.controlnet)
        files = {path: _path_digest(Path(path)) for path in _paths(settings)}
    except (OSError, ValueError, RecursionError) as error:
        raise SweepError(str(error)) from error
    return Identity(model, device, dtype, current_versions(), drawn_by, files, sweep.trace)


def current_versions() -> dict[str, str]:
    """The versions of what determines pictures, as it is installed here; our own with its code."""
    return {
        "smoothed-energy": f"{__version__}+{code_digest()[:12]}",
        "diffusers": version("diffusers"),
        "transformers": version("transformers"),
        "torch": torch.__version__,
    }


def _placement(sweep: Sweep) -> tuple[str, str]:
    try:
        device = None if sweep.device == "auto" else torch.device(sweep.device)
    except RuntimeError:
        raise SweepError(
            f"device: {sweep.device!r} is none; expected auto, cpu, cuda, mps, ..."
        ) from None
    if device is not None and device.type == "cuda" and not torch.cuda.is_available():
        if sweep.dtype == "auto":
            raise SweepError(
                "dtype: auto can't be told on this machine, which has no GPU; write `dtype: "
                "bfloat16`, or another"
            )
        return device.type, sweep.dtype
    wanted = None if sweep.dtype == "auto" else getattr(torch, sweep.dtype)
    device, dtype = placement(device, wanted)
    return device.type, str(dtype).removeprefix("torch.")


def _paths(settings: Iterable[PictureSettings]) -> dict[str, None]:
    """The files and folders that settings name."""
    found: dict[str, None] = {}
    for one in settings:
        weaker = [getattr(guidance, "weak", "") for guidance in one.guidance]
        for path in (one.control, *weaker):
            if isinstance(path, str) and path and _exists(path):
                found[path] = None
    return found


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError):  # longer than names can be
        return False


def _path_digest(path: Path) -> str:
    path = path.expanduser()
    return folder_digest(path) if path.is_dir() else file_digest(path)


def configuration_digest(identity: Identity, settings: PictureSettings) -> str:
    """The SHA-256 of all that determines the pictures of a configuration but prompt and seed."""
    values = settings_by_content(identity, settings)
    form = canonical_json({"settings": values, **identity.to_dict()})
    return hashlib.sha256(form.encode()).hexdigest()


def settings_by_content(identity: Identity, settings: PictureSettings) -> dict[str, Any]:
    """Settings as JSON values, with digests of files in place of their paths."""
    values = settings.to_dict()
    values["control"] = _content(identity, settings.control)
    for guidance in values["guidance"]:
        if "weak" in guidance:
            guidance["weak"] = _content(identity, guidance["weak"])
    return values


def _content(identity: Identity, path: str | None) -> str | None:
    return None if path is None else identity.files.get(path, path)


def row_id(configuration: str, prompt: str, seed: int) -> str:
    """The id of a picture: 24 hexadecimal digits.

    Args:
        configuration: The digest of its configuration.
        prompt: Its prompt.
        seed: Its seed.
    """
    form = canonical_json([configuration, prompt, seed])
    return hashlib.sha256(form.encode()).hexdigest()[:_LENGTH]
