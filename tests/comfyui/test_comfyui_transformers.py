"""Transformers in ComfyUI: guided runs equal what is written out by hand."""

import math

import pytest
import torch
from comfy_by_hand import blurred_2d, loop, softmax_attention, with_blocks
from tiny_comfy import IS_REAL, levels, of_this_version, prompt, sampled, transformer

from smoothed_energy.families import LayerError
from smoothed_energy.integrations.comfyui.guide import guide, layers_of

TEXT = 5
#: Latents, the grid of their tokens, whether text attends beside them, and blocks by code.
CASES = {
    "Flux": ((16, 11, 8), (6, 4), True, {"b1": "double_blocks.1", "s0": "single_blocks.0"}),
    "QwenImage": ((16, 1, 12, 8), (6, 4), True, {"b1": "transformer_blocks.1"}),
    "WAN21": ((16, 3, 12, 8), (3, 6, 4), False, {"b1": "blocks.1.self_attn"}),
}
NAMES = [
    *CASES,
    *of_this_version("Chroma", "Flux2", "ZImage", "SD3", "HiDream", "HunyuanVideo", "LTXV"),
]
CASES["Chroma"] = CASES["Flux"]
CASES["Flux2"] = ((128, 6, 4), *CASES["Flux"][1:])
CASES["ZImage"] = (
    (16, 11, 8),
    (6, 4),
    True,
    {"n0": "noise_refiner.0.attention", "b1": "layers.1.attention"},
)
CASES["SD3"] = ((16, 11, 8), (6, 4), True, {"b0": "joint_blocks.0", "b2": "joint_blocks.2"})
CASES["HiDream"] = (
    (16, 11, 8),
    (6, 4),
    True,
    {"b1": "double_stream_blocks.1.block.attn1", "s0": "single_stream_blocks.0.block.attn1"},
)
CASES["HunyuanVideo"] = ((16, 2, 12, 8), (2, 6, 4), True, CASES["Flux"][3])
CASES["LTXV"] = ((16, 3, 6, 4), (3, 6, 4), False, {"b1": "transformer_blocks.1.attn1"})
#: Whose text comes after the picture, or did in earlier versions.
LAST = {"HiDream"}
#: To what multiple tokens of text and picture are filled up.
FILLED = {"ZImage": 16}


def parts(name, queries):
    """Where the picture's tokens begin and end among all queries of a layer."""
    count = math.prod(CASES[name][1])
    filled = count + -count % FILLED.get(name, 1)
    if name in LAST or (name == "HunyuanVideo" and IS_FLIPPED):
        return 0, count
    return queries - filled, queries - filled + count


def _is_flipped():
    """Whether this version of HunyuanVideo has its text last."""
    if "HunyuanVideo" not in NAMES:
        return False
    blocks = transformer("HunyuanVideo").model.diffusion_model.double_blocks
    return getattr(blocks[0], "flipped_img_txt", False)


IS_FLIPPED = _is_flipped()


def seg(name):
    return f"seg; blur=gaussian:1; layers={','.join(CASES[name][3])}"


def of(name):
    """The model, its latents, its prompts, and the modules that attend in the middle."""
    model = transformer(name)
    shape, _, _, blocks = CASES[name]
    latents = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3))
    # Another length for the negative prompt: the two can't share a batch.
    texts = {"positive": (1, TEXT), "negative": (2, 3)}
    conds = {
        branch: prompt(
            seed,
            length,
            pooled_output=torch.ones(1, 16),
            conditioning_llama3=torch.randn(1, 2, length, 16),
            attention_mask=torch.ones(1, length, dtype=torch.int64) if name == "LTXV" else None,
        )
        for branch, (seed, length) in texts.items()
    }
    found = [model.model.diffusion_model.get_submodule(path) for path in blocks.values()]
    return model, latents, conds, found


def blurred_picture(name, q):
    """All queries, those of the picture blurred over its grid, or over that of each frame."""
    grid = CASES[name][1]
    start, stop = parts(name, q.shape[-2])
    frames = grid[0] if len(grid) == 3 else 1
    chunks = q[..., start:stop, :].chunk(frames, -2)
    blurred = [blurred_2d(chunk, grid[-2:], 1.0) for chunk in chunks]
    return torch.cat([q[..., :start, :], *blurred, q[..., stop:, :]], -2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_seg_blurs_the_picture_s_queries(name, cfg):
    model, latents, conds, blocks = of(name)

    def attend(q, k, v):
        return softmax_attention(blurred_picture(name, q), k, v)

    def step(predict, x, sigma):
        c = predict("positive", x)
        with with_blocks(blocks, attend):
            perturbed = predict("positive", x)
        u = c if cfg == 1 else predict("negative", x)
        return u + cfg * (c - u) + 3 * (c - perturbed)

    expected = loop(model, conds, latents, levels("CONST"), step)
    settings = {"sigmas": levels("CONST"), "latents": latents, **conds}
    plain = sampled(model, cfg, **settings)
    guided = sampled(guide(model, seg(name)), cfg, **settings)
    effect = (guided - plain).norm() / plain.norm()
    error = (guided - expected).norm() / plain.norm()
    assert effect > 3e-4, effect
    assert error < 1e-2 * effect, (error, effect)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["pag", "erg", "slg", "tpg; layers=b1", "apg", "momentum"])
def test_other_methods_change_the_result(name, text):
    model, latents, conds, _ = of(name)
    settings = {"sigmas": levels("CONST"), "latents": latents, **conds}
    plain = sampled(model, 3.0, **settings)
    guided = sampled(guide(model, text), 3.0, **settings)
    assert guided.isfinite().all()
    assert (guided - plain).norm() > 1e-4 * plain.norm()


@pytest.mark.parametrize("name", ["Flux", "QwenImage"])
def test_reference_pictures_are_not_blurred(name):
    model, latents, conds, blocks = of(name)
    reference = torch.randn(1, *latents.shape[1:-2], 8, 6)
    (entry,) = conds["positive"]
    entry[1]["reference_latents"] = [reference]
    if not IS_REAL:
        pytest.skip("the stand-in hands no references on")

    def attend(q, k, v):
        queries = q.clone()
        start = 24 + TEXT
        queries[..., TEXT:start, :] = blurred_2d(q[..., TEXT:start, :], (6, 4), 1.0)
        return softmax_attention(queries, k, v)

    def step(predict, x, sigma):
        c = predict("positive", x)
        with with_blocks(blocks, attend):
            perturbed = predict("positive", x)
        return c + 3 * (c - perturbed)

    expected = loop(model, conds, latents, levels("CONST"), step)
    settings = {"sigmas": levels("CONST"), "latents": latents, **conds}
    plain = sampled(model, 1.0, **settings)
    guided = sampled(guide(model, seg(name)), 1.0, **settings)
    effect = (guided - plain).norm() / plain.norm()
    assert effect > 1e-3
    assert (guided - expected).norm() / plain.norm() < 1e-2 * effect


def test_layers_are_counted_as_in_diffusers():
    flux = [(layer.code, layer.part) for layer in layers_of(transformer("Flux"))]
    assert flux == [("b0", "down"), ("b1", "down"), ("s0", "mid"), ("s1", "up")]
    assert [layer.code for layer in layers_of(transformer("WAN21"))] == ["b0", "b1", "b2"]


def test_attention_of_blocks_that_attend_themselves_is_not_skipped_alone():
    with pytest.raises(LayerError, match='expected skip="block"'):
        guide(transformer("Flux"), "slg; skip=attention; layers=b0")
    guide(transformer("QwenImage"), "slg; skip=attention; layers=b0")
    guide(transformer("Flux"), "slg; skip=feed-forward; layers=b0")
    with pytest.raises(LayerError, match="no feed-forward network"):
        guide(transformer("Flux"), "slg; skip=feed-forward; layers=s0")
