"""Networks of `transformers`, loaded from a folder or the hub."""

from __future__ import annotations

__all__ = ["load_pretrained"]

from pathlib import Path
from typing import Any

import torch


def load_pretrained(cls: str, source: str) -> Any:
    """A network with its weights, in float32 and evaluation mode.

    Args:
        cls: Name of its class in `transformers`.
        source: A folder, or an id of the Hugging Face hub.

    Raises:
        ImportError: If `transformers` has no such class.
        ValueError: If there is no such model, or it is another kind of network.
    """
    try:
        import transformers

        model_class: Any = getattr(transformers, cls)
    except (ImportError, AttributeError) as error:
        raise ImportError(f"these features need transformers with {cls}: {error}") from error
    place = "folder" if Path(source).is_dir() else "folder or id of the Hugging Face hub"
    expected = model_class.config_class.model_type
    try:
        # Loading a network of another kind fails late, or not at all: unknown weights are ignored.
        kind = transformers.PretrainedConfig.get_config_dict(source)[0].get("model_type")
        if kind != expected:
            raise ValueError(f"its kind is {kind}; expected {expected}")
        model, loading = model_class.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"the {place} {source} has no {cls} that could be loaded: {error}"
        ) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ValueError(
            f"{source} is no whole {cls}: it lacks {len(missing)} of its weights, such as "
            f"{missing[0]}"
        )
    return model.eval().requires_grad_(False)
