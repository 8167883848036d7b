"""Extractors of features by name: networks that turn pictures into vectors."""

from __future__ import annotations

__all__ = [
    "EXTRACTORS",
    "Extractor",
    "ExtractorKind",
    "checked_pictures",
    "open_extractor",
    "register_extractor",
    "weights_digest",
]

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor, nn

from ..settings.checks import check_choice


class Extractor(Protocol):
    """What turns pictures into vectors of features."""

    @property
    def name(self) -> str:
        """The network and how pictures are resized for it, such as `net-224-bicubic`.

        Numbers of two extractors with one name, and weights of one digest, are comparable.
        """

    @property
    def feature_size(self) -> int:
        """Length of a vector."""

    @property
    def digest(self) -> str:
        """Digest of the weights, hexadecimal."""

    @property
    def device(self) -> torch.device:
        """Where the network runs."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """Features `(B, D)` float32, on the CPU, of RGB pictures `(B, 3, H, W)` uint8."""


@dataclass(frozen=True)
class ExtractorKind:
    """A kind of extractor that can be opened by name.

    Args:
        name: Its name, before a colon.
        open: Opens one, from what stands behind the colon (None without one) and a device.
        source: What may stand behind the colon.
        needs: What must be installed beside the package.
    """

    name: str
    open: Callable[[str | None, str | torch.device], Extractor]
    source: str
    needs: str


_kinds: dict[str, ExtractorKind] = {}

#: Names to kinds of extractors: a view of those that are registered.
EXTRACTORS: Mapping[str, ExtractorKind] = MappingProxyType(_kinds)


def register_extractor(kind: ExtractorKind) -> ExtractorKind:
    """Make a kind of extractor known by its name.

    Raises:
        ValueError: If another kind has the name.
    """
    other = _kinds.get(kind.name)
    if other is not None and other.open.__qualname__ != kind.open.__qualname__:
        raise ValueError(f"an extractor {kind.name!r} is registered already; expected another name")
    _kinds[kind.name] = kind
    return kind


def open_extractor(name: str, *, device: str | torch.device = "cpu") -> Extractor:
    """An extractor, ready to use.

    Args:
        name: A name of `EXTRACTORS`, or a name and a source: `dinov2:FOLDER`,
            `clip:openai/clip-vit-large-patch14`, `efficientnet-lite0:64`.
        device: Where it runs.

    Raises:
        ValueError: If the name or the source is not known.
        ImportError: If a package is missing; it says which.
    """
    kind, colon, source = name.partition(":")
    check_choice("extractor", kind, tuple(EXTRACTORS))
    if colon and not source:
        raise ValueError(f"extractor {name!r}: expected {EXTRACTORS[kind].source} after the colon")
    return EXTRACTORS[kind].open(source or None, device)


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of a network's weights and buffers: their names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def checked_pictures(images: Tensor) -> Tensor:
    """A batch of pictures.

    Raises:
        ValueError: If it is anything but `(B, 3, H, W)` uint8.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise ValueError(
            f"images are {tuple(images.shape)} {images.dtype}; expected (B, 3, H, W) torch.uint8"
        )
    return images
