"""The Hugging Face hub: whether it can be asked, before libraries try for half a minute."""

from __future__ import annotations

__all__ = ["hub_options"]

from pathlib import Path
from typing import Any

from ..settings.hub import is_hub_id
from .locations import ModelError

_SECONDS = 10


def hub_options(place: str) -> dict[str, Any]:
    """What ``from_pretrained`` has to be told of where a model is.

    Args:
        place: A folder or a hub id.

    Returns:
        Nothing, or that only files that were downloaded before are to be used: the hub can't be
        asked.

    Raises:
        ModelError: If it can't be, and the model was not downloaded before.
    """
    if not is_hub_id(place) or Path(place).is_dir():
        return {}
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().model_info(place, timeout=_SECONDS)
    except HfHubHTTPError:
        return {}  # it answered, if only that there is no such model
    except Exception as error:  # of several libraries: no network, offline mode
        cached = Path(constants.HF_HUB_CACHE) / "--".join(["models", *place.split("/")])
        if (cached / "snapshots").is_dir():
            return {"local_files_only": True}
        reason, *_ = str(error).strip().splitlines() or [repr(error)]
        raise ModelError(
            f"cannot load {place!r}: the hub can't be asked ({reason}), and it was not downloaded "
            "before; expected a network, or a folder"
        ) from error
    return {}
