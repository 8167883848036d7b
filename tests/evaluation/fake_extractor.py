"""An extractor that is cheap and known, and counts what it is asked."""

import torch


class MeanColour:
    """The mean of each channel, and its square: six features."""

    feature_size = 6
    device = torch.device("cpu")

    def __init__(self, name="mean-colour-any-none", digest="0" * 64):
        self.name = name
        self.digest = digest
        self.batches = []

    def __call__(self, images):
        self.batches.append(len(images))
        means = images.float().mean(dim=(2, 3)) / 255
        return torch.cat([means, means.square()], dim=1)

    @property
    def count(self):
        return sum(self.batches)
