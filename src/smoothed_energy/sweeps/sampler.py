"""What draws: the protocol that local workers and those of a cluster ask."""

from __future__ import annotations

__all__ = ["ConfigurationError", "Picture", "Sampler", "SamplerSource"]

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from PIL import Image

from .configuration import Configuration

#: A picture, and facts of its run: JSON values that are the same whenever it is drawn.
Picture: TypeAlias = tuple[Image.Image, dict[str, Any]]


class ConfigurationError(ValueError):
    """A configuration that can't be drawn, however often it is tried."""


class Sampler(Protocol):
    """An opened model, which draws pictures of one configuration after the other."""

    def draw(
        self, configuration: Configuration, pictures: Sequence[tuple[str, int]]
    ) -> list[Picture]:
        """Draw pictures.

        A picture must not depend on those that it is drawn with.

        Args:
            configuration: What they are drawn with.
            pictures: The prompt and the seed of each.

        Raises:
            ConfigurationError: If the configuration doesn't fit the model.
        """
        ...


class SamplerSource(Protocol):
    """Opens a sampler in each worker; it is pickled on its way there.

    Attributes:
        name: What draws, as part of every picture's id.
    """

    @property
    def name(self) -> str:
        """What draws."""
        ...

    def open(self, worker: int) -> Sampler:
        """Open a sampler.

        Args:
            worker: The number of the worker on its machine.
        """
        ...
