"""Denoisers of classes that nobody knows."""

import torch
import torch.nn.functional as F
from torch import nn


class Attend(nn.Module):
    """Attention of tokens to themselves, or to a context, or to both together."""

    def __init__(self, width, joint=False):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.joint = joint
        with torch.no_grad():
            self.q.weight *= 3
            self.k.weight *= 3

    def forward(self, tokens, context=None):
        count = tokens.shape[1]
        if self.joint:
            tokens = torch.cat([context, tokens], dim=1)
        keys = tokens if context is None or self.joint else context
        q, k, v = (
            layer(x).unflatten(-1, (2, -1)).transpose(1, 2)
            for layer, x in ((self.q, tokens), (self.k, keys), (self.v, keys))
        )
        found = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return found[:, -count:]


class Block(nn.Module):
    def __init__(self, width, joint=False, cross=True):
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(width), Attend(width, joint)
        self.norm2, self.read = nn.LayerNorm(width), Attend(width) if cross else None
        self.think = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tokens, context):
        own = context if self.mix.joint else None
        tokens = tokens + self.mix(self.norm(tokens), own)
        if self.read is not None:
            tokens = tokens + self.read(self.norm2(tokens), context)
        return tokens + self.think(tokens)


class Patches(nn.Module):
    """A transformer of patches of 2 x 2, or of 1 x 2 x 2 in videos."""

    def __init__(self, width=16, joint=False, cross=True, frames=False, count=3):
        super().__init__()
        conv = nn.Conv3d if frames else nn.Conv2d
        side = (1, 2, 2) if frames else 2
        self.enter = conv(4, width, side, side)
        self.text = nn.Linear(8, width)
        self.time = nn.Linear(1, width)
        self.stack = nn.ModuleList(Block(width, joint, cross) for _ in range(count))
        self.leave = nn.Linear(width, 16)

    def forward(self, sample, when, words):
        tokens = self.enter(sample)
        grid = tokens.shape[2:]
        tokens = tokens.flatten(2).mT + self.time(when.view(-1, 1, 1).float() / 1000)
        for block in self.stack:
            tokens = block(tokens, self.text(words))
        found = self.leave(tokens).unflatten(-1, (4, 2, 2)).unflatten(1, grid)
        if len(grid) == 3:
            return found.permute(0, 4, 1, 2, 5, 3, 6).flatten(5).flatten(3, 4)
        return found.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


class Net(nn.Module):
    """A U-Net with attention in two sizes, and groups that are normalised."""

    def __init__(self, width=16):
        super().__init__()
        conv = lambda a, b, stride=1: nn.Conv2d(a, b, 3, stride, 1)  # noqa: E731
        self.enter, self.shrink = conv(4, width), conv(width, width, 2)
        self.down, self.middle, self.up = (conv(width, width) for _ in range(3))
        self.groups = nn.ModuleList(nn.GroupNorm(4, width) for _ in range(3))
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.text, self.time = nn.Linear(8, width), nn.Linear(1, width)
        self.leave = conv(width, 4)

    def attended(self, number, found, words):
        tokens = self.blocks[number](self.groups[number](found).flatten(2).mT, self.text(words))
        return found + tokens.mT.unflatten(2, found.shape[2:])

    def forward(self, sample, when, words):
        found = self.enter(sample) + self.time(when.view(-1, 1).float() / 1000)[..., None, None]
        found = whole = self.attended(0, found + self.down(F.silu(found)), words)
        found = self.shrink(found)
        found = self.attended(1, found + self.middle(F.silu(found)), words)
        found = whole + F.interpolate(found, scale_factor=2.0)
        found = self.attended(2, found + self.up(F.silu(found)), words)
        return self.leave(found)


class Tied(Patches):
    """What is given with the latents holds for one size; tokens come in the order of columns."""

    def forward(self, sample, when, words):
        return super().forward(sample.transpose(2, 3), when, words).transpose(2, 3)


class InRows(nn.Module):
    """Attention of every row of the picture by itself."""

    def __init__(self, width=16):
        super().__init__()
        self.enter, self.mix, self.leave = nn.Linear(4, width), Attend(width), nn.Linear(width, 4)

    def forward(self, sample, when, words):
        tokens = self.enter(sample.permute(0, 2, 3, 1)).flatten(0, 1)
        found = self.leave(tokens + self.mix(tokens))
        return found.unflatten(0, (len(sample), -1)).permute(0, 3, 1, 2)
