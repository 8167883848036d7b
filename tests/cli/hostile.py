"""Hostile files: made by strangers, damaged, endless, or of another kind than their name says."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(path, side=30_000):
    """A PNG of a few bytes that promises more pixels than any memory holds."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def image_with(path, text, key="smoothed-energy", **more):
    """A PNG with a text, or with JSON."""
    info = PngInfo()
    info.add_text(key, text if isinstance(text, str) else json.dumps({"version": 1, **text}))
    for name, value in more.items():
        info.add_text(name.replace("_", "-"), value)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)


def damaged(path):
    """A PNG that is cut off, with settings in it."""
    image_with(path, {"seed": 1})
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = io.BytesIO()
    picture.save(data, format="PNG")
    path.write_bytes(data.getvalue()[:4000])


def pipe(path):
    """A FIFO to which nobody ever writes."""
    os.mkfifo(path)
