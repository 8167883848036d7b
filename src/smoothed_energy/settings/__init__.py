"""Settings: checks of their values, conversion to one type, and their forms as text."""

from __future__ import annotations
