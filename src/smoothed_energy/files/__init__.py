"""Files: whole or not there when this package writes them, and bounded when strangers did."""

__all__ = ["open_regular", "read_text", "whole_file"]

from .regular_file import open_regular, read_text
from .whole_file import whole_file
