"""Attribute accuracy: the share of what captions name that pictures show."""

from __future__ import annotations

__all__ = ["ATTRIBUTE_ACCURACY", "AttributeScores", "attribute_accuracy", "score_attributes"]

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .attributes import NamedAttributes
from .attributes_classifier import AttributeClassifier
from .picture_metric import NetworkMetric, TextMetric


@dataclass(frozen=True)
class AttributeScores:
    """Which attributes were named by the captions of pictures, and which of those are right.

    Args:
        attributes: The A attributes.
        named: ``(N, A)`` bool: whether the picture's caption names the attribute.
        right: ``(N, A)`` bool: whether the picture shows it as named.
    """

    attributes: tuple[str, ...]
    named: Tensor
    right: Tensor

    def per_picture(self) -> Tensor:
        """The share of each picture's named attributes that is right: ``(N,)`` float64."""
        return self.right.sum(1).double() / self.named.sum(1)

    def per_attribute(self) -> dict[str, tuple[int, int]]:
        """Attributes that are named at all to the counts of pictures: right, and named."""
        counts = zip(self.right.sum(0).tolist(), self.named.sum(0).tolist(), strict=True)
        found = dict(zip(self.attributes, counts, strict=True))
        return {attribute: (right, named) for attribute, (right, named) in found.items() if named}

    def __add__(self, other: AttributeScores) -> AttributeScores:
        """The scores of both sets of pictures.

        Raises:
            ValueError: If they have other attributes.
        """
        if self.attributes != other.attributes:
            raise ValueError(f"scores of {self.attributes} can't be added to {other.attributes}")
        return AttributeScores(
            self.attributes,
            torch.cat((self.named, other.named)),
            torch.cat((self.right, other.right)),
        )


def score_attributes(
    classifier: AttributeClassifier, pictures: Tensor, captions: Sequence[str]
) -> AttributeScores:
    """Which of the attributes that captions name their pictures show.

    A phrase with a colour names two attributes: of "a red mohawk", the shape may be right and the
    colour wrong. Attributes that a caption leaves out don't count, whatever the picture shows.

    Args:
        classifier: Tells what the pictures show.
        pictures: ``(N, 3, H, W)`` uint8 RGB.
        captions: N captions.

    Raises:
        ValueError: If the numbers differ, or a caption names no attribute of the vocabulary.
    """
    if len(captions) != len(pictures):
        raise ValueError(
            f"{len(captions)} captions for {len(pictures)} pictures; expected one each"
        )
    wanted = [_named(classifier, caption) for caption in captions]
    attributes = tuple(classifier.vocabulary.values)
    shape = (len(captions), len(attributes))
    named, right = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for row, (found, shown) in enumerate(zip(wanted, classifier(pictures), strict=True)):
        for column, attribute in enumerate(attributes):
            if attribute in found.values:
                named[row, column] = True
                right[row, column] = shown[attribute] == found.values[attribute]
    return AttributeScores(attributes, named, right)


def _named(classifier: AttributeClassifier, caption: str) -> NamedAttributes:
    found = classifier.vocabulary.parse(caption)
    if not found.values:
        raise ValueError(
            f"{caption!r} names no attribute that the classifier knows; expected a caption such as "
            "'a dylan portrait of someone with spiky blue hair, on a pink background'"
        )
    return found


def attribute_accuracy(
    source: str | Path | None = None, *, device: str | torch.device = "cpu"
) -> TextMetric:
    """The share of the attributes named by a picture's caption that it shows, in ``[0, 1]``.

    The classifier errs, too: `AttributeClassifier.accuracy` is what a perfect model would score.

    Args:
        source: The classifier's folder; by default that of the embedded model.
        device: Where it runs.

    Raises:
        ValueError: If there is no such classifier. When called: if a prompt names no attribute.
    """
    classifier = AttributeClassifier(source, device=device)

    def measure(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        return score_attributes(classifier, pictures, prompts).per_picture()

    return TextMetric(
        name="attribute-accuracy",
        better="higher",
        bounds=(0, 1),
        model=f"{classifier.name}-{classifier.image_size}-bicubic",
        measure=measure,
    )


ATTRIBUTE_ACCURACY = NetworkMetric("attribute-accuracy", TextMetric, attribute_accuracy)
