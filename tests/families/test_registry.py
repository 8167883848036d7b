"""A family that a user registers."""

from dataclasses import replace

import pytest
import torch
from brute_force_attention import Image, explicit_attention
from tiny_pipelines import difference
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from smoothed_energy import SmoothedEnergyGuidance, guidance_from_text
from smoothed_energy.families import Family, families, family_of, register
from smoothed_energy.families.layer_selection import LayerError, select_layers


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = 2
        self.to_q, self.to_k, self.to_v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, hidden_states):
        query, key, value = (
            projection(hidden_states).unflatten(-1, (2, 4)).transpose(1, 2)
            for projection in (self.to_q, self.to_k, self.to_v)
        )
        attended = scaled_dot_product_attention(query, key, value)
        return hidden_states + attended.transpose(1, 2).flatten(2)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = Attention()

    def forward(self, hidden_states):
        return self.attn(hidden_states)


class Denoiser(nn.Module):
    """Two tokens of text, then every pixel is a token."""

    def __init__(self):
        super().__init__()
        self.text = nn.Parameter(torch.randn(1, 2, 8))
        self.layers = nn.ModuleList(Block() for _ in range(3))

    def forward(self, image, timestep, return_dict=False):
        tokens = torch.cat([self.text.expand(len(image), -1, -1), image.flatten(2).mT], dim=1)
        for block in self.layers:
            tokens = block(tokens)
        return (tokens[:, 2:].mT.reshape(image.shape),)


#: All that a user writes.
FILE = """
from smoothed_energy.families import Transformer, register


class MyFamily(Transformer):
    name = "mine"
    denoisers = ("Denoiser",)
    sample = "image"
    stacks = {"x": "layers"}
    text = "before"

    def patch(self, denoiser):
        return (1, 1)

    def outputs(self, denoiser, layer, module):
        return ("hidden_states",)


registered = register(MyFamily())
"""


@pytest.fixture
def mine(own_file):
    return own_file(FILE).registered


def test_guidance_works_for_a_registered_family(mine, monkeypatch):
    torch.manual_seed(3)
    denoiser = Denoiser()
    assert family_of(denoiser) is mine
    assert [layer.code for layer in select_layers(denoiser, "mid,x2")] == ["x1", "x2"]
    image = torch.randn(2, 8, 3, 5)
    (clean,) = denoiser(image, 0)
    guidance = SmoothedEnergyGuidance(blur="gaussian:1", layers="x1", scale=2.0)
    with guidance.attach(denoiser):
        (guided,) = denoiser(image, 0)

    # The same by hand: this module's attention is the explicit one while the layer runs.
    chosen = denoiser.layers[1].attn
    forward = chosen.forward

    def perturbed(hidden_states):
        explicit = explicit_attention(Image((3, 5), start=2), 1.0, 0.0)
        with monkeypatch.context() as patch:
            patch.setitem(globals(), "scaled_dot_product_attention", explicit)
            return forward(hidden_states)

    monkeypatch.setattr(chosen, "forward", perturbed)
    (expected,) = denoiser(image, 0)
    expected = clean + 2.0 * (clean - expected)
    assert difference(guided, expected) < 1e-5
    assert difference(clean, expected) > 1e-3


@pytest.mark.parametrize(
    "text",
    [
        "seg; blur=gaussian:1; on=key",
        *("pag", "erg", "tpg", "slg; skip=block", "slg; skip=attention", "swg; masked=False"),
        "seg; blur=gaussian:1; combine=fuse",
    ],
)
def test_every_method_works_for_a_registered_family(mine, text):
    torch.manual_seed(3)
    denoiser, image = Denoiser(), torch.randn(2, 8, 4, 6)
    (clean,) = denoiser(image, 0)
    guidance = guidance_from_text(text)
    if hasattr(guidance, "layers"):
        guidance = replace(guidance, layers="x1")
    with guidance.attach(denoiser) as attachment:
        attachment.step(0, 1, conditional_rows=1, cfg_scale=3.0)
        (guided,) = denoiser(image, 0)
    assert attachment.last_run.guided_calls == 1
    assert difference(clean, guided) > 1e-3
    assert torch.equal(denoiser(image, 0)[0], clean)


def test_a_registered_family_is_named_among_the_supported(mine):
    with pytest.raises(LayerError, match=r"known for a Linear; supported.*, Denoiser;"):
        family_of(nn.Linear(1, 1))


def test_the_older_name_of_latent_layout_still_works(own_file):
    older = "    def places(self, denoiser, argument):\n        return None\n\n\nregistered"
    mine = own_file(FILE.replace("\nregistered", older)).registered
    assert mine.latent_layout(None, None) is None


def test_the_grid_is_asked_once_for_all_layers_of_a_call(mine, monkeypatch):
    asked = []
    grid = type(mine).grid

    def counted(self, denoiser, argument):
        asked.append(argument("image").shape)
        return grid(self, denoiser, argument)

    monkeypatch.setattr(type(mine), "grid", counted)
    denoiser = Denoiser()
    guidance = SmoothedEnergyGuidance(blur="gaussian:1", layers="x0-x2", scale=2.0)
    with guidance.attach(denoiser) as attachment:
        denoiser(torch.randn(2, 8, 3, 5), 0)
        assert asked == [(2, 8, 3, 5)]
        denoiser(torch.randn(2, 8, 4, 6), 0)
    assert asked == [(2, 8, 3, 5), (2, 8, 4, 6)]
    assert len(attachment.last_run.layers) == 3


def test_an_unknown_denoiser_is_refused_with_a_list_of_known_ones():
    with pytest.raises(LayerError, match=r"Denoiser.*UNet2DConditionModel.*docs/families.md"):
        family_of(Denoiser())


def test_only_families_can_be_registered(mine):
    with pytest.raises(TypeError, match="not a Family"):
        register(type(mine))


def test_a_family_of_the_same_name_takes_the_place_of_the_first(mine):
    again = register(type(mine)())
    assert family_of(Denoiser()) is again
    assert [family.name for family in families()].count("mine") == 1


def test_names_of_families_and_denoisers_are_unique():
    names = [family.name for family in families()]
    assert len(set(names)) == len(names)
    denoisers = [name for family in families() for name in family.denoisers]
    assert len(set(denoisers)) == len(denoisers)
    assert all(isinstance(family, Family) for family in families())
