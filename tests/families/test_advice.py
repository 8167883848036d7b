"""What is published of layers, scales and steps for a family."""

import importlib
from pathlib import Path

import pytest
import torch
from diffusers import (
    LTX2VideoTransformer3DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)
from tiny_sd3 import sd3

from smoothed_energy import PerturbedAttentionGuidance, SkipLayerGuidance, Steps
from smoothed_energy.families import families, family_of
from smoothed_energy.methods import METHODS, guidance_from_dict

ADVISED = [(family, found) for family in families() for found in family.advised]
SD35 = {"dual_attention_layers": tuple(range(13)), "num_layers": 24}


@pytest.mark.parametrize(("family", "found"), ADVISED)
def test_they_are_settings_of_a_method_with_a_source(family, found):
    METHODS[found.method](**found.settings)
    assert found.source


def of_shape(cls, **config):
    with torch.device("meta"):
        return cls(**config)


def small_sd3(**config):
    return of_shape(
        SD3Transformer2DModel,
        attention_head_dim=8,
        num_attention_heads=1,
        caption_projection_dim=8,
        **config,
    )


def test_stable_diffusion_3():
    denoiser = small_sd3(**SD35)
    guidance = SkipLayerGuidance.suited_to(denoiser)
    assert guidance == SkipLayerGuidance(scale=2.8, layers="b7.*,b8.*,b9.*", steps=Steps(0.01, 0.2))
    names = [layer.name for layer in guidance.select(denoiser)]
    assert names == [
        f"transformer_blocks.{n}.{name}" for n in (7, 8, 9) for name in ("attn", "attn2")
    ]
    assert PerturbedAttentionGuidance.suited_to(denoiser) == PerturbedAttentionGuidance()
    of_3 = PerturbedAttentionGuidance.suited_to(small_sd3(num_layers=24))
    assert (of_3.layers, of_3.scale) == ("b13", 0.7)


def test_what_is_given_counts_more_and_all_is_saved():
    guidance = SkipLayerGuidance.suited_to(small_sd3(**SD35), scale=2, layers="b1")
    assert (guidance.layers, guidance.scale, guidance.steps) == ("b1", 2.0, Steps(0.01, 0.2))
    assert guidance_from_dict(guidance.to_dict()) == guidance


def test_other_sizes_and_pipelines_have_the_methods_own():
    assert SkipLayerGuidance.suited_to(sd3(dual=True)) == SkipLayerGuidance()
    with pytest.raises(TypeError, match="can't attach"):
        SkipLayerGuidance.suited_to(object())


@pytest.mark.parametrize(
    ("cls", "method", "config", "layers"),
    [
        (WanTransformer3DModel, "slg", {"num_layers": 30}, "b8"),
        (WanTransformer3DModel, "slg", {"num_layers": 4}, None),
        (WanVACETransformer3DModel, "slg", {"num_layers": 30, "vace_layers": [0]}, None),
        (LTX2VideoTransformer3DModel, "pag", {"perturbed_attn": True}, "b28"),
        (LTX2VideoTransformer3DModel, "pag", {}, "b29"),
    ],
)
def test_models_of_a_family(cls, method, config, layers):
    sizes = {"num_attention_heads": 1, "attention_head_dim": 12}
    denoiser = of_shape(cls, **sizes, **config)
    found = family_of(denoiser).advice(denoiser).get(method)
    assert (found and found.layers) == layers
    if layers:
        assert METHODS[method](**found.settings).select(denoiser)


def test_u_nets():
    unet = of_shape(
        UNet2DConditionModel,
        block_out_channels=(8, 8, 8),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
    )
    advice = family_of(unet).advice(unet)
    assert advice.keys() == {"seg", "pag", "tpg"}
    for method, found in advice.items():
        METHODS[method](**found.settings).select(unet)
    small = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 8, "attention_head_dim": 2}
    for width, published in ((768, {"pag", "sag"}), (1024, {"pag", "sag"}), (32, set())):
        unet = of_shape(UNet2DConditionModel, cross_attention_dim=width, **small)
        assert family_of(unet).advice(unet).keys() == published


def test_the_page_is_what_the_script_prints(monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(root / "scripts")
    script = importlib.import_module("defaults_table")
    assert (root / "docs" / "defaults.md").read_text("utf-8") == script.table()
