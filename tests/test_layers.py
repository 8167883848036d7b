"""Naming the self-attention layers of U-Nets, and choosing among them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel

from smoothed_energy.families.layer_selection import (
    LayerError,
    normalise_selection,
    select_layers,
    self_attention_layers,
)
from smoothed_energy.families.unet_grid import layer_grid

DOCS = Path(__file__).parents[1] / "docs" / "layers.md"


def build(structure: str) -> UNet2DConditionModel:
    """A U-Net with the blocks and layers of a released one, and few channels."""
    common = {"cross_attention_dim": 8, "norm_num_groups": 4, "layers_per_block": 2}
    if structure == "SDXL":
        return UNet2DConditionModel(
            **common,
            block_out_channels=(8, 16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(2, 4, 8),
            use_linear_projection=True,
        )
    return UNet2DConditionModel(**common, block_out_channels=(8, 8, 16, 16), attention_head_dim=4)


def name_of(value):
    """An id of a test that is the same in every process."""
    return "predicate" if callable(value) else str(value)


@pytest.fixture(scope="module")
def sd15():
    return build("SD1.5")


@pytest.fixture(scope="module")
def sdxl():
    return build("SDXL")


@pytest.fixture(scope="module")
def ddpm():
    """Attention straight in the blocks, as in unconditional U-Nets."""
    return UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=4,
    )


def codes(layers):
    return [layer.code for layer in layers]


class TestListing:
    def test_sdxl_has_seventy_layers_in_execution_order(self, sdxl):
        layers = self_attention_layers(sdxl)
        assert len(layers) == 70
        assert codes(layers) == (
            [f"d{i}" for i in range(24)]
            + [f"m{i}" for i in range(10)]
            + [f"u{i}" for i in range(36)]
        )

    @pytest.mark.parametrize("structure", ["sd15", "sdxl", "ddpm"])
    def test_listed_order_is_the_order_in_which_the_denoiser_runs_them(self, structure, request):
        denoiser = request.getfixturevalue(structure)
        layers = self_attention_layers(denoiser)
        ran = []
        hooks = [
            layer.module.register_forward_hook(lambda *_, name=layer.name: ran.append(name))
            for layer in layers
        ]
        sample = torch.zeros(1, denoiser.config.in_channels, 16, 16)
        text = () if structure == "ddpm" else (torch.zeros(1, 3, 8),)
        with torch.no_grad():
            denoiser(sample, 1, *text)
        for hook in hooks:
            hook.remove()
        assert ran == [layer.name for layer in layers]

    def test_flat_index_follows_named_modules_as_in_the_reference(self, sdxl):
        names = [
            name
            for name, module in sdxl.named_modules()
            if name.endswith("attn1") and name.startswith("down_blocks")
        ]
        assert [x.name for x in self_attention_layers(sdxl) if x.part == "down"] == names

    def test_dotted_code_counts_transformers_and_layers_in_them(self, sdxl):
        layers = {layer.code: layer for layer in self_attention_layers(sdxl)}
        assert layers["d5"].dotted == "d2.1"
        assert layers["d5"].name == "down_blocks.2.attentions.0.transformer_blocks.1.attn1"
        assert layers["u30"].dotted == "u3.0"
        assert layers["m7"].dotted == "m0.7"

    def test_heads_and_width_are_those_of_the_module(self, sdxl):
        for layer in self_attention_layers(sdxl):
            assert layer.heads == layer.module.heads
            assert layer.width == layer.module.to_q.out_features

    def test_unconditional_unets_list_the_attention_of_their_blocks(self, ddpm):
        names = [layer.name for layer in self_attention_layers(ddpm)]
        assert names == [
            "down_blocks.1.attentions.0",
            "down_blocks.1.attentions.1",
            "mid_block.attentions.0",
            "up_blocks.0.attentions.0",
            "up_blocks.0.attentions.1",
            "up_blocks.0.attentions.2",
        ]
        assert [x.dotted for x in select_layers(ddpm, "up")] == ["u0.0", "u1.0", "u2.0"]

    def test_cross_attention_only_blocks_are_left_out(self):
        denoiser = UNet2DConditionModel(
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            only_cross_attention=(True, False),
            mid_block_only_cross_attention=False,
            cross_attention_dim=8,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        assert {
            layer.name.split(".attentions")[0] for layer in self_attention_layers(denoiser)
        } == {
            "down_blocks.1",
            "mid_block",
            "up_blocks.0",
        }

    def test_gated_grounding_attention_is_left_out(self):
        denoiser = UNet2DConditionModel(
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_type="gated",
            cross_attention_dim=8,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        assert all(layer.name.endswith("attn1") for layer in self_attention_layers(denoiser))

    def test_a_compiled_denoiser_lists_the_same_layers(self, sd15):
        assert self_attention_layers(torch.compile(sd15)) == self_attention_layers(sd15)

    def test_compiled_blocks_inside_do_not_change_names(self):
        plain, compiled = build("SD1.5"), build("SD1.5")
        compiled.mid_block = torch.compile(compiled.mid_block)
        assert self_attention_layers(compiled) == self_attention_layers(plain)

    def test_another_denoiser_is_refused_by_name(self):
        with pytest.raises(LayerError, match=r"AutoencoderKL.*UNet2DConditionModel, UNet2DModel"):
            self_attention_layers(AutoencoderKL(block_out_channels=(8,), norm_num_groups=4))

    def test_a_denoiser_without_self_attention_is_refused(self):
        denoiser = UNet2DModel(
            sample_size=16,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            add_attention=False,
            norm_num_groups=4,
        )
        with pytest.raises(LayerError, match="UNet2DModel has no self-attention"):
            self_attention_layers(denoiser)


class TestSelection:
    @pytest.mark.parametrize(
        ("selection", "expected"),
        [
            ("down", [f"d{i}" for i in range(24)]),
            ("mid", [f"m{i}" for i in range(10)]),
            ("d4", ["d4"]),
            ("d0-d3", ["d0", "d1", "d2", "d3"]),
            ("d0-3", ["d0", "d1", "d2", "d3"]),
            ("m0.7,u0.4", ["m7", "u4"]),
            ("d2.2-9", [f"d{i}" for i in range(6, 14)]),
            ("d2.*", [f"d{i}" for i in range(4, 14)]),
            ("u4-5.0", ["u32", "u34"]),
            ("u4-5.*", ["u32", "u33", "u34", "u35"]),
            (" d1 , m0 ", ["d1", "m0"]),
            (["m0", "d1"], ["d1", "m0"]),
            (("d0,d1", "d1"), ["d0", "d1"]),
            ("mid_block.attentions.0.transformer_blocks.7.attn1", ["m7"]),
            ("mid_block.*.[0-2].attn1", ["m0", "m1", "m2"]),
            ("up_blocks.?.attentions.1.*_blocks.0.attn1", ["u10", "u32"]),
            (lambda layer: layer.part == "mid" and layer.index < 2, ["m0", "m1"]),
        ],
        ids=name_of,
    )
    def test_a_selection_names_these_layers(self, sdxl, selection, expected):
        assert codes(select_layers(sdxl, selection)) == expected

    def test_all_is_every_layer(self, sdxl):
        assert select_layers(sdxl, "all") == self_attention_layers(sdxl)

    def test_every_code_of_every_kind_selects_its_own_layer(self, sdxl, sd15, ddpm):
        for denoiser in (sdxl, sd15, ddpm):
            for layer in self_attention_layers(denoiser):
                for text in (layer.code, layer.dotted, layer.name):
                    assert select_layers(denoiser, text) == (layer,)

    @pytest.mark.parametrize(
        ("selection", "message"),
        [
            ("middle", r"'middle'.*expected down, mid, up.*d0-d23"),
            ("x0", "'x0'"),
            ("M0", "'M0'"),
            ("d24", r"'d24'.*down \(d0-d23\), mid \(m0-m9\), up \(u0-u35\)"),
            ("d0-d24", "'d0-d24'.*out of range"),
            ("d3-d1", "'d3-d1'.*reversed"),
            ("d3-1", "'d3-1'.*reversed"),
            ("d2.9-2", "'d2.9-2'.*reversed"),
            ("d0.2", r"'d0.2'.*d0\.0-1, d1\.0-1, d2\.0-9"),
            ("d4.0", "'d4.0'.*out of range"),
            ("d4.*", r"'d4\.\*'.*out of range"),
            ("d0-u2", "'d0-u2'.*one part"),
            ("d0-d1.0", "'d0-d1.0'.*one part"),
            ("d2.", "'d2.'"),
            ("d-1", "'d-1'"),
            ("d1.0-", "'d1.0-'"),
            ("*.attn2", r"'\*\.attn2'.*down_blocks.1.attentions.0"),
            ("", "empty"),
            (" , ", "empty"),
            ("d0,,d1", "empty item"),
            ([], "empty"),
            (["mid", ""], "empty item"),
            (["mid", 3], "3 is not text"),
            (7, "7 is not a selection"),
            (None, "None is not a selection"),
            (lambda layer: False, "none of the 70"),
        ],
        ids=name_of,
    )
    def test_a_bad_selection_is_one_line_that_names_it(self, sdxl, selection, message):
        with pytest.raises(LayerError, match=message) as caught:
            select_layers(sdxl, selection)
        assert "\n" not in str(caught.value)

    def test_a_part_without_self_attention_is_an_error(self):
        denoiser = UNet2DModel(
            sample_size=16,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=4,
        )
        with pytest.raises(LayerError, match=r"'down' has no self-attention.*mid \(m0\)$"):
            select_layers(denoiser, "down")


class TestText:
    @pytest.mark.parametrize(
        ("selection", "text"),
        [
            ("mid", "mid"),
            (" m0.7 , u0.4", "m0.7,u0.4"),
            (["down", "mid", "down"], "down,mid"),
            (("*.attn1",), "*.attn1"),
        ],
    )
    def test_text_selects_the_same(self, sdxl, selection, text):
        assert normalise_selection(selection) == text
        assert select_layers(sdxl, text) == select_layers(sdxl, selection)

    @pytest.mark.parametrize("selection", ["", "middle", "d3-d1", [], 3])
    def test_what_no_denoiser_could_have_is_refused_without_one(self, selection):
        with pytest.raises(LayerError):
            normalise_selection(selection)

    def test_a_predicate_has_no_text(self):
        with pytest.raises(LayerError, match="predicate"):
            normalise_selection(lambda layer: True)


def documented(model: str) -> list[list[str]]:
    """The rows of the table of one model in docs/layers.md."""
    section = DOCS.read_text().split(f"## {model}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if re.match(r"\| `[dmu]", line)]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.parametrize(("structure", "scale"), [("SD1.5", 8), ("SDXL", 8)])
def test_the_documented_table_is_what_the_code_says(structure, scale):
    denoiser = build(structure)
    rows = documented(structure)
    seen = []
    for plain, dotted, pattern, at_512, at_1024 in rows:
        layers = select_layers(denoiser, plain)
        assert select_layers(denoiser, dotted) == layers
        assert select_layers(denoiser, pattern) == layers
        for layer in layers:
            for pixels, cell in ((512, at_512), (1024, at_1024)):
                height, width = layer_grid(
                    denoiser, layer, (1, 4, pixels // scale, pixels // scale)
                )
                assert cell == f"{height * width} ({height}x{width})"
        seen.extend(layers)
    assert tuple(seen) == self_attention_layers(denoiser)
