"""Transformers whose modules have the names, the calls and the order of tokens of ComfyUI's."""

import torch
from torch import nn

from .unet import attend


def by_heads(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class Times(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(16, width)

    def forward(self, time):
        turns = torch.linspace(0, 4, 8).neg().exp() * 1000 * time.float()[:, None]
        return self.linear(torch.cat([turns.sin(), turns.cos()], -1))[:, None]


class DoubleStreamBlock(nn.Module):
    """Attends itself: the text's tokens before the picture's."""

    def __init__(self, width, heads):
        super().__init__()
        self.num_heads, self.hidden_size = heads, width
        self.norm = nn.LayerNorm(width)
        self.img_qkv, self.txt_qkv = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)
        self.img_proj, self.txt_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.img_mlp = nn.Sequential(nn.Linear(width, width), nn.GELU())

    def forward(self, img, txt, vec, pe, attn_mask=None, transformer_options={}):  # noqa: B006
        text, image = self.txt_qkv(self.norm(txt) + vec), self.img_qkv(self.norm(img) + vec)
        both = torch.cat([text, image], 1)
        found = attend(*both.chunk(3, -1), self.num_heads, None, transformer_options)
        texts = txt.shape[1]
        img = img + self.img_proj(found[:, texts:])
        return img + self.img_mlp(self.norm(img)), txt + self.txt_proj(found[:, :texts])


class SingleStreamBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.num_heads, self.hidden_size = heads, width
        self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x, vec, pe, attn_mask=None, transformer_options={}):  # noqa: B006
        q, k, v, mlp = self.linear1(self.norm(x) + vec).chunk(4, -1)
        found = attend(q, k, v, self.num_heads, None, transformer_options)
        return x + self.linear2(torch.cat([found, mlp.tanh()], -1))


def patches(x, side=2):
    x = nn.functional.pad(x, (0, x.shape[-1] % side, 0, x.shape[-2] % side))
    x = x.unflatten(-1, (-1, side)).unflatten(-3, (-1, side))
    return x.movedim((-4, -2), (1, 2)).flatten(3).flatten(1, 2)


def pictures(tokens, height, width, side=2):
    rows, columns = -(-height // side), -(-width // side)
    x = tokens.unflatten(1, (rows, columns)).unflatten(-1, (-1, side, side))
    x = x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
    return x[..., :height, :width]


class Flux(nn.Module):
    dtype = torch.float32
    patch_size = 2

    def __init__(self, width=32, context=16, heads=2, channels=4):
        super().__init__()
        self.img_in, self.txt_in = nn.Linear(4 * channels, width), nn.Linear(context, width)
        self.place, self.time_in = nn.Linear(2, width), Times(width)
        self.double_blocks = nn.ModuleList([DoubleStreamBlock(width, heads) for _ in range(2)])
        self.single_blocks = nn.ModuleList([SingleStreamBlock(width, heads) for _ in range(2)])
        self.out = nn.Linear(width, 4 * channels)

    def tokens(self, x):
        rows, columns = -(-x.shape[-2] // 2), -(-x.shape[-1] // 2)
        places = torch.cartesian_prod(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns))
        return self.img_in(patches(x)) + self.place(places)

    def _forward(
        self,
        x,
        timestep,
        context,
        y=None,
        guidance=None,
        ref_latents=None,
        control=None,
        transformer_options={},  # noqa: B006
    ):
        img, vec = self.tokens(x), self.time_in(timestep)
        count = img.shape[1]
        img = torch.cat([img, *[self.tokens(one) for one in ref_latents or ()]], 1)
        txt = self.txt_in(context)
        for block in self.double_blocks:
            img, txt = block(
                img=img, txt=txt, vec=vec, pe=None, transformer_options=transformer_options
            )
        both = torch.cat([txt, img], 1)
        for block in self.single_blocks:
            both = block(both, vec=vec, pe=None, transformer_options=transformer_options)
        found = self.out(both[:, txt.shape[1] : txt.shape[1] + count])
        return pictures(found, *x.shape[-2:])

    forward = _forward


class QwenAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.inner_dim = heads, width
        self.to_qkv, self.add_qkv = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)
        self.to_out, self.to_add_out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden_states, encoder_hidden_states=None, transformer_options={}):  # noqa: B006
        text, image = self.add_qkv(encoder_hidden_states), self.to_qkv(hidden_states)
        parts = torch.cat([text, image], 1).chunk(3, -1)
        found = attend(*parts, self.heads, None, transformer_options)
        count = text.shape[1]
        return self.to_out(found[:, count:]), self.to_add_out(found[:, :count])


class QwenImageTransformerBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(width), QwenAttention(width, heads)
        self.img_mlp = nn.Sequential(nn.Linear(width, width), nn.GELU())

    def forward(self, hidden_states, encoder_hidden_states, temb, transformer_options={}):  # noqa: B006
        image, text = self.attn(
            hidden_states=self.norm(hidden_states) + temb,
            encoder_hidden_states=self.norm(encoder_hidden_states) + temb,
            transformer_options=transformer_options,
        )
        hidden_states = hidden_states + image
        hidden_states = hidden_states + self.img_mlp(self.norm(hidden_states))
        return encoder_hidden_states + text, hidden_states


class QwenImageTransformer2DModel(Flux):
    def __init__(self, width=32, context=16, heads=2, channels=16):
        super().__init__(width, context, heads, channels)
        del self.double_blocks, self.single_blocks
        blocks = [QwenImageTransformerBlock(width, heads) for _ in range(3)]
        self.transformer_blocks = nn.ModuleList(blocks)

    def _forward(
        self,
        x,
        timestep,
        context,
        attention_mask=None,
        guidance=None,
        ref_latents=None,
        transformer_options={},  # noqa: B006
    ):
        flat = x[:, :, 0]
        image, text, vec = self.tokens(flat), self.txt_in(context), self.time_in(timestep)
        count = image.shape[1]
        image = torch.cat([image, *[self.tokens(one[:, :, 0]) for one in ref_latents or ()]], 1)
        for block in self.transformer_blocks:
            text, image = block(
                hidden_states=image,
                encoder_hidden_states=text,
                temb=vec,
                transformer_options=transformer_options,
            )
        return pictures(self.out(image[:, :count]), *x.shape[-2:])[:, :, None]

    forward = _forward


class WanSelfAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.dim, self.num_heads = width, heads
        self.qkv, self.o = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, freqs, transformer_options={}):  # noqa: B006
        return self.o(attend(*self.qkv(x).chunk(3, -1), self.num_heads, None, transformer_options))


class WanAttentionBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.self_attn = nn.LayerNorm(width), WanSelfAttention(width, heads)
        self.ffn = nn.Sequential(nn.Linear(width, width), nn.GELU())

    def forward(self, x, e, freqs, context, transformer_options={}):  # noqa: B006
        options = transformer_options
        x = x + self.self_attn(self.norm1(x) + e, freqs, transformer_options=options)
        return x + self.ffn(self.norm1(x)) + context.mean(1, keepdim=True)


class WanModel(nn.Module):
    dtype = torch.float32
    patch_size = (1, 2, 2)

    def __init__(self, width=32, context=16, heads=2, channels=16):
        super().__init__()
        self.patch_embedding = nn.Conv3d(channels, width, self.patch_size, self.patch_size)
        self.text_embedding, self.place = nn.Linear(context, width), nn.Linear(3, width)
        self.time_embedding = Times(width)
        self.blocks = nn.ModuleList([WanAttentionBlock(width, heads) for _ in range(3)])
        self.head = nn.ConvTranspose3d(width, channels, self.patch_size, self.patch_size)

    def _forward(
        self,
        x,
        timestep,
        context,
        clip_fea=None,
        time_dim_concat=None,
        transformer_options={},  # noqa: B006
        **kwargs,
    ):
        grid = self.patch_embedding(x)
        sides = [torch.linspace(-1, 1, side) for side in grid.shape[2:]]
        tokens = grid.flatten(2).mT + self.place(torch.cartesian_prod(*sides))
        vec, text = self.time_embedding(timestep), self.text_embedding(context)
        for block in self.blocks:
            tokens = block(
                tokens, e=vec, freqs=None, context=text, transformer_options=transformer_options
            )
        return self.head(tokens.mT.unflatten(-1, grid.shape[2:]))

    forward = _forward
