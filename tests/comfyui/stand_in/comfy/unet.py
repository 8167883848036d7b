"""A U-Net whose modules have the names, the calls and the options of ComfyUI's."""

import torch
from torch import nn


def attend(q, k, v, heads, mask=None, transformer_options=None):
    """Attention by hand, as sub-quadratic attention would: never the native function."""
    override = (transformer_options or {}).get("optimized_attention_override")
    if override is not None:
        return override(_by_hand, q, k, v, heads, mask, transformer_options=transformer_options)
    return _by_hand(q, k, v, heads, mask)


def _by_hand(q, k, v, heads, mask=None, **ignored):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class CrossAttention(nn.Module):
    def __init__(self, width, context, heads):
        super().__init__()
        self.heads, self.dim_head = heads, width // heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, x, context=None, value=None, mask=None, transformer_options={}):  # noqa: B006
        context = x if context is None else context
        v = self.to_v(context if value is None else value)
        q, k = self.to_q(x), self.to_k(context)
        return self.to_out(attend(q, k, v, self.heads, mask, transformer_options))


class BasicTransformerBlock(nn.Module):
    disable_self_attn = False

    def __init__(self, width, context, heads):
        super().__init__()
        self.attn1 = CrossAttention(width, width, heads)
        self.attn2 = CrossAttention(width, context, heads)
        self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x, context=None, transformer_options={}):  # noqa: B006
        n = self.norm1(x)
        replace = transformer_options.get("patches_replace", {}).get("attn1", {})
        block = transformer_options["block"]
        if block in replace:
            attention = self.attn1
            extra = {**transformer_options, "n_heads": attention.heads}
            values = attention.to_q(n), attention.to_k(n), attention.to_v(n)
            x = x + attention.to_out(replace[block](*values, extra))
        else:
            x = x + self.attn1(n, transformer_options=transformer_options)
        n = self.norm2(x)
        x = x + self.attn2(n, context=context, transformer_options=transformer_options)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, width, context, heads, depth):
        super().__init__()
        self.norm, self.proj_in = nn.GroupNorm(8, width), nn.Conv2d(width, width, 1)
        blocks = [BasicTransformerBlock(width, context, heads) for _ in range(depth)]
        self.transformer_blocks = nn.ModuleList(blocks)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x, context=None, transformer_options={}):  # noqa: B006
        transformer_options["activations_shape"] = list(x.shape)
        height, width = x.shape[-2:]
        tokens = self.proj_in(self.norm(x)).flatten(2).mT
        for block in self.transformer_blocks:
            tokens = block(tokens, context, transformer_options)
        return x + self.proj_out(tokens.mT.unflatten(-1, (height, width)))


class ResBlock(nn.Module):
    def __init__(self, width, out, times):
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(8, width), nn.Conv2d(width, out, 3, padding=1)
        self.skip, self.emb = nn.Conv2d(width, out, 1), nn.Linear(times, out)

    def forward(self, x, emb):
        inner = nn.functional.silu(self.norm(x)) if x.shape[1] > 4 else x
        return self.skip(x) + self.conv(inner) + self.emb(emb)[..., None, None]


class TimestepEmbedSequential(nn.Sequential):
    """Never called itself: its modules are."""


def run(modules, x, emb, context, options):
    for module in modules:
        if isinstance(module, ResBlock):
            x = module(x, emb)
        elif isinstance(module, SpatialTransformer):
            x = module(x, context, options)
        else:
            x = module(x)
    return x


class UNetModel(nn.Module):
    channel_mult = (1, 2)
    dtype = torch.float32

    def __init__(self, width=32, context=16, heads=2, depth=2):
        super().__init__()
        times, wide = 4 * width, 2 * width

        def block(*modules):
            return TimestepEmbedSequential(*modules)

        self.times = times
        self.input_blocks = nn.ModuleList(
            [
                block(nn.Conv2d(4, width, 3, padding=1)),
                block(
                    ResBlock(width, width, times), SpatialTransformer(width, context, heads, depth)
                ),
                block(nn.Conv2d(width, width, 3, padding=1, stride=2)),
                block(ResBlock(width, wide, times), SpatialTransformer(wide, context, heads, 1)),
            ]
        )
        self.middle_block = block(
            ResBlock(wide, wide, times),
            SpatialTransformer(wide, context, heads, 1),
            ResBlock(wide, wide, times),
        )
        self.output_blocks = nn.ModuleList(
            [
                block(
                    ResBlock(2 * wide, wide, times),
                    SpatialTransformer(wide, context, heads, 1),
                    nn.Upsample(scale_factor=2),
                ),
                block(
                    ResBlock(wide + width, width, times),
                    SpatialTransformer(width, context, heads, depth),
                ),
            ]
        )
        self.out = nn.Sequential(nn.GroupNorm(8, width), nn.Conv2d(width, 4, 3, padding=1))

    def _forward(self, x, timesteps, context, y=None, control=None, transformer_options={}):  # noqa: B006
        turns = torch.linspace(0, 6, self.times // 2).neg().exp() * timesteps[:, None]
        emb, options, skips = torch.cat([turns.sin(), turns.cos()], -1), transformer_options, []
        for number, modules in enumerate(self.input_blocks):
            options["block"] = ("input", number)
            x = run(modules, x, emb, context, options)
            skips.append(x)
        options["block"] = ("middle", 0)
        x = run(self.middle_block, x, emb, context, options)
        kept = [skips[3], skips[1]]
        for number, modules in enumerate(self.output_blocks):
            options["block"] = ("output", number)
            x = run(modules, torch.cat([x, kept[number]], 1), emb, context, options)
        return self.out(x)

    forward = _forward
