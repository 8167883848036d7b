"""Pictures of results: contact sheets, and images that carry their settings."""

__all__ = ["Series", "contact_sheet", "read_control", "read_settings", "save_image"]

from .png import read_control, read_settings, save_image
from .sheet import Series, contact_sheet
