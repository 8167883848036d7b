"""Ids of the Hugging Face hub, recognised by their form alone."""

from __future__ import annotations

__all__ = ["is_hub_id"]

import re

#: Of the hub: 96 characters for each of the names.
_LONGEST = 2 * 96 + 1
_FORM = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(text: str) -> bool:
    """Whether a text has the form `owner/name`; whether there is such an id only the hub knows."""
    return len(text) <= _LONGEST and _FORM.fullmatch(text) is not None
