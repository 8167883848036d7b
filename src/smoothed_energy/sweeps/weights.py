"""Digests of what pictures are drawn with: the weights of models, and other files.

A folder's digest is that of its files. Those of large files are remembered by path, size and time
of the last change, so that planning a sweep again costs no reading.
"""

from __future__ import annotations

__all__ = ["file_digest", "folder_digest", "model_digest"]

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import whole_file
from ..files.regular_file import check_regular
from ..models import ModelError
from ..models.locations import resolve_controlnet, resolve_model

_INDEX = "model_index.json"
_SUFFIXES = (".json", ".safetensors", ".txt", ".model")
#: Smaller files are read each time.
_LARGE = 2**20


def model_digest(model: str | Path, controlnet: str | Path | None = None) -> str:
    """A digest of a pipeline's configurations and weights.

    Args:
        model: What `smoothed_energy.models.load` takes.
        controlnet: A ControlNet beside it.

    Returns:
        The SHA-256 of a folder's files, or the commit of a model of the hub.

    Raises:
        ModelError: If there is nothing of that name, or the hub can't be asked and has not been.
    """
    found = _place_digest(resolve_model(model))
    if controlnet is not None:
        found += "+" + _place_digest(resolve_controlnet(model, controlnet))
    return found


def _place_digest(place: str) -> str:
    folder = Path(place).expanduser()
    return folder_digest(folder) if folder.is_dir() else _commit(place)


def folder_digest(folder: Path) -> str:
    """The digest of a model's folder: of a pipeline, the parts that its index names."""
    index = folder / _INDEX
    if index.is_file():
        parts: Any = json.loads(index.read_text(encoding="utf-8"))
        folders = [folder / name for name in parts if (folder / str(name)).is_dir()]
        files: Iterable[Path] = [index, *[file for part in folders for file in part.rglob("*")]]
    else:
        files = folder.rglob("*")
    digest = hashlib.sha256()
    for file in sorted(files):
        if file.suffix in _SUFFIXES and file.is_file():
            digest.update(f"{file.relative_to(folder).as_posix()}\0{file_digest(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    check_regular(path)
    facts = path.stat()
    if facts.st_size < _LARGE:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    key = f"{path.resolve()}:{facts.st_size}:{facts.st_mtime_ns}"
    remembered = _remembered()
    if key not in remembered:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(_LARGE):
                digest.update(block)
        remembered[key] = digest.hexdigest()
        _remember(remembered)
    return remembered[key]


def _ledger() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "smoothed-energy" / "digests.json"


def _remembered() -> dict[str, str]:
    try:
        found = json.loads(_ledger().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(digests: dict[str, str]) -> None:
    # If it can't be written, they are computed again next time.
    with suppress(OSError), whole_file(_ledger()) as file:
        file.write(json.dumps(digests).encode("utf-8"))


def _commit(hub_id: str) -> str:
    """The commit of a model of the hub: the newest, or without a network the one that is here."""
    from huggingface_hub import HfApi, constants  # noqa: PLC0415 - slow, for models of the hub only

    try:
        commit = HfApi().model_info(hub_id, timeout=20).sha
    except Exception as error:  # of several libraries: no network, no such model, offline mode
        folder = "--".join(["models", *hub_id.split("/")])
        try:
            commit = (Path(constants.HF_HUB_CACHE) / folder / "refs" / "main").read_text().strip()
        except OSError:
            reason = str(error).strip().splitlines() or [repr(error)]
            raise ModelError(
                f"the version of {hub_id!r} is not known: the hub can't be asked ({reason[0]}), "
                "and it was not downloaded before"
            ) from error
    return f"commit:{commit}"
