"""Self-attention whose keys are not its queries, or that runs in parts, equals brute force.

The processors here are of the kinds that people put into a U-Net: the keys of every second token,
those of a reference beside one's own, of other rows, of a text; attention in slices of queries,
heads or rows. Each computes its attention by the native function, and by its definition in the
brute force, with an operator B on the logits.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from brute_force_guidance import grid_blur_matrix
from tiny_pipelines import (
    DOWN,
    MARGIN,
    MID,
    TEXT_WIDTH,
    TOLERANCE,
    difference,
    new_unet,
    noise,
)

from smoothed_energy import (
    EntropyRectifyingGuidance,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SmoothedEnergyGuidance,
    TokenPerturbationGuidance,
)
from smoothed_energy.intercept.attention import AttentionBackendError
from smoothed_energy.trace import Trace

SCALE = 2.0
GRIDS = {DOWN: (12, 8), MID: (6, 4)}


def native(query, key, value):
    return F.scaled_dot_product_attention(query, key, value)


def explicit(blur=None, temperature=1.0):
    """Attention by its definition, in float64."""

    def attend(query, key, value, attn_mask=None):
        logits = query.double() @ key.double().mT / math.sqrt(query.shape[-1])
        if blur is not None:
            logits = blur @ logits
        logits = logits / temperature
        if attn_mask is not None:
            logits = logits.masked_fill(~attn_mask, -math.inf)
        return (logits.softmax(-1) @ value.double()).to(value.dtype)

    return attend


class Plain:
    """Attention to one's own keys; others change `keys` or `attention`."""

    def __init__(self, attend=native):
        self.attend = attend

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        def heads(projection, tokens):
            return projection(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        source = self.source(hidden_states)
        query = heads(attn.to_q, hidden_states)
        key, value = heads(attn.to_k, source), heads(attn.to_v, source)
        attended = self.attention(query, key, value).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](attended))

    def source(self, tokens):
        return tokens

    def attention(self, query, key, value):
        return self.attend(query, key, value)


class EverySecondToken(Plain):
    def source(self, tokens):
        return tokens[:, ::2]


class Reference(Plain):
    """The tokens of a picture that was seen before follow one's own."""

    def source(self, tokens):
        reference = noise(1, 20, tokens.shape[-1], seed=11).expand(len(tokens), -1, -1)
        return torch.cat([tokens, reference], dim=1)


class TextAndImage(Plain):
    def source(self, tokens):
        text = noise(len(tokens), 5, tokens.shape[-1], seed=12)
        return torch.cat([text, tokens], dim=1)


class HalfOfTheHeads(EverySecondToken):
    def attention(self, query, key, value):
        slices = [x.chunk(2, dim=1) for x in (query, key, value)]
        return torch.cat([self.attend(*parts) for parts in zip(*slices, strict=True)], dim=1)


OTHER_KEYS = [EverySecondToken, Reference, TextAndImage, HalfOfTheHeads]


class QuerySlices(Plain):
    """Slices of 5 queries, the last one shorter; the brute force takes all at once."""

    def attention(self, query, key, value):
        if self.attend is not native:
            return self.attend(query, key, value)
        slices = query.split(5, dim=-2)
        return torch.cat([self.attend(part, key, value) for part in slices], dim=-2)


class QuerySlicesOfHeads(QuerySlices):
    def attention(self, query, key, value):
        slices = [x.split(1, dim=1) for x in (query, key, value)]
        whole = super().attention
        return torch.cat([whole(*parts) for parts in zip(*slices, strict=True)], dim=1)


class QuerySlicesToOtherKeys(QuerySlices):
    def source(self, tokens):
        return tokens[:, ::2]


class MaskedQuerySlices(QuerySlices):
    """Each query sees the keys up to some place after it."""

    def attention(self, query, key, value):
        count = query.shape[-2]
        mask = torch.ones(count, count, dtype=torch.bool).tril(count // 3)
        if self.attend is not native:
            return self.attend(query, key, value, mask)
        slices = zip(query.split(5, dim=-2), mask.split(5), strict=True)
        attended = [
            F.scaled_dot_product_attention(part, key, value, attn_mask=rows)
            for part, rows in slices
        ]
        return torch.cat(attended, dim=-2)


class HeadSlices(Plain):
    dim, size = 1, 1

    def attention(self, query, key, value):
        slices = [x.split(self.size, dim=self.dim) for x in (query, key, value)]
        return torch.cat([self.attend(*parts) for parts in zip(*slices, strict=True)], self.dim)


class RowSlices(HeadSlices):
    dim = 0


class HeadsInRows(Plain):
    """`(B heads, T, d)`, as in older code."""

    def attention(self, query, key, value):
        flat = [x.flatten(0, 1) for x in (query, key, value)]
        return self.attend(*flat).unflatten(0, query.shape[:2])


class AndAPicture(Plain):
    """An additional attention to something else, as an IP-Adapter's."""

    def attention(self, query, key, value):
        picture = noise(*key.shape[:2], 4, key.shape[-1], seed=13)
        # The brute force leaves this one alone, too.
        return super().attention(query, key, value) + 0.5 * native(query, picture, picture)


class AndAPictureInSlices(AndAPicture, QuerySlices):
    pass


SLICED = [QuerySlices, QuerySlicesOfHeads, HeadSlices, RowSlices, HeadsInRows]
ADDED = [AndAPicture, AndAPictureInSlices]


def with_processors(unet, processor):
    unet.set_attn_processor(
        dict(unet.attn_processors) | {f"{n}.processor": processor for n in GRIDS}
    )
    return unet


@torch.no_grad()
def call(unet, rows=2):
    return unet(
        noise(rows, 4, 12, 8),
        torch.tensor(500.0),
        encoder_hidden_states=noise(rows, 5, TEXT_WIDTH, seed=2),
        return_dict=False,
    )[0]


def expected(kind, layer, rows=2, scale=SCALE, **perturbed):
    """The guided prediction by brute force, and the clean one."""
    unet = with_processors(new_unet(), kind(explicit()))
    clean = call(unet, rows)
    perturbing = {f"{layer}.processor": kind(explicit(**perturbed))}
    unet.set_attn_processor(dict(unet.attn_processors) | perturbing)
    return clean + scale * (clean - call(unet, rows)), clean


def assert_as_by_brute_force(kind, guidance, **perturbed):
    layer = guidance.layers
    unet = with_processors(new_unet(), kind())
    wanted, clean = expected(kind, layer, **perturbed)
    assert difference(clean, wanted) > MARGIN * TOLERANCE, "the guidance does too little for a test"
    for replay in (True, False):
        with guidance.attach(unet, replay=replay) as attachment:
            attachment.step(0, 1)
            assert difference(call(unet), wanted) < TOLERANCE
    assert difference(call(unet), clean) < TOLERANCE


@pytest.mark.parametrize("layer", GRIDS)
@pytest.mark.parametrize("sigma", [1.0, math.inf])
@pytest.mark.parametrize(
    "kind", [*OTHER_KEYS, *SLICED, *ADDED, QuerySlicesToOtherKeys, MaskedQuerySlices]
)
def test_blurred_queries_equal_brute_force(kind, sigma, layer):
    guidance = SmoothedEnergyGuidance(f"gaussian:{sigma}", scale=SCALE, layers=[layer])
    assert_as_by_brute_force(kind, guidance, blur=grid_blur_matrix(GRIDS[layer], sigma))


def test_keys_that_the_block_hands_to_its_attention_equal_brute_force():
    """As reference-only pipelines replace the forward functions of blocks."""
    unet = new_unet()

    def with_reference(attention, args, kwargs):
        return args, {**kwargs, "encoder_hidden_states": Reference().source(args[0])}

    for name in GRIDS:
        unet.get_submodule(name).register_forward_pre_hook(with_reference, with_kwargs=True)
    wanted, clean = expected(Reference, DOWN, blur=grid_blur_matrix(GRIDS[DOWN], 1.0))
    assert difference(call(unet), clean) < TOLERANCE
    guidance = SmoothedEnergyGuidance("gaussian:1", scale=SCALE, layers=[DOWN])
    with guidance.attach(unet) as attachment:
        attachment.step(0, 1)
        assert difference(call(unet), wanted) < TOLERANCE
    with (
        PerturbedAttentionGuidance(layers=[DOWN]).attach(unet),
        pytest.raises(AttentionBackendError, match=f"{DOWN}.*96 queries and 116 keys"),
    ):
        call(unet, 1)


@pytest.mark.parametrize("kind", [*OTHER_KEYS, *SLICED, *ADDED, QuerySlicesToOtherKeys])
def test_another_temperature_equals_brute_force(kind):
    guidance = EntropyRectifyingGuidance(temperature=4.0, scale=SCALE, layers=[DOWN])
    assert_as_by_brute_force(kind, guidance, temperature=4.0)


@pytest.mark.parametrize("kind", [*SLICED, *ADDED])
def test_attention_in_parts_gives_what_whole_attention_gives(kind):
    whole = AndAPicture if kind in ADDED else Plain
    for guidance in (
        SmoothedEnergyGuidance("gaussian:1", on="key", layers=[MID]),
        PerturbedAttentionGuidance(layers=[MID]),
    ):
        results = []
        for processor in (whole, kind):
            unet = with_processors(new_unet(), processor())
            clean = call(unet, 1)
            with guidance.attach(unet):
                results.append(call(unet, 1))
        assert difference(results[1], results[0]) < TOLERANCE
        assert difference(clean, results[0]) > MARGIN * TOLERANCE


NEEDING_OWN_KEYS = [
    PerturbedAttentionGuidance(layers=[MID]),
    SmoothedEnergyGuidance("gaussian:1", on="key", layers=[MID]),
]


@pytest.mark.parametrize("guidance", NEEDING_OWN_KEYS, ids=["pag", "keys"])
@pytest.mark.parametrize("kind", [*OTHER_KEYS, QuerySlicesToOtherKeys])
def test_what_needs_keys_of_the_same_tokens_is_refused_by_name_of_the_layer(kind, guidance):
    unet = with_processors(new_unet(), kind())
    with (
        guidance.attach(unet),
        pytest.raises(AttentionBackendError, match=f"{MID}.*{kind.__name__}"),
    ):
        call(unet, 1)


def test_perturbations_of_blocks_need_no_attention_of_any_kind():
    unet = with_processors(new_unet(), EverySecondToken())
    clean = call(unet, 1)
    with TokenPerturbationGuidance(layers=[MID]).attach(unet) as attachment:
        attachment.step(0, 1)
        assert difference(call(unet, 1), clean) > MARGIN * TOLERANCE


class PictureFirst(Plain):
    def attention(self, query, key, value):
        picture = noise(*key.shape[:2], 4, key.shape[-1], seed=13)
        return native(query, picture, picture) + self.attend(query, key, value)


class TwoPictures(Plain):
    def attention(self, query, key, value):
        pictures = [noise(*key.shape[:2], 4, key.shape[-1], seed=seed) for seed in (13, 14)]
        return sum(native(query, picture, picture) for picture in pictures)


class Windows(Plain):
    def attention(self, query, key, value):
        slices = [x.split(6, dim=-2) for x in (query, key, value)]
        return torch.cat([self.attend(*parts) for parts in zip(*slices, strict=True)], dim=-2)


class FirstRowOnly(Plain):
    """As processors of diffusers' PAG do it with half of the rows."""

    def attention(self, query, key, value):
        rest = value[1:]
        return torch.cat([self.attend(query[:1], key[:1], value[:1]), rest])


class AllRowsTogether(Plain):
    def attention(self, query, key, value):
        together = [x.transpose(0, 1).flatten(1, 2)[None] for x in (query, key, value)]
        attended = self.attend(*together)[0]
        return attended.unflatten(1, (query.shape[0], -1)).transpose(0, 1)


@pytest.mark.parametrize("layer", GRIDS)
@pytest.mark.parametrize(
    "kind", [PictureFirst, TwoPictures, Windows, FirstRowOnly, AllRowsTogether]
)
def test_attention_of_which_none_is_known_to_be_the_layers_own_is_refused(kind, layer):
    unet = with_processors(new_unet(), kind())
    guidance = SmoothedEnergyGuidance("gaussian:1", layers=[layer])
    with (
        guidance.attach(unet) as attachment,
        pytest.raises(AttentionBackendError, match=f"{layer}.*{kind.__name__}"),
    ):
        attachment.step(0, 1, conditional_rows=2)
        call(unet)


# Self-attention guidance, which takes the map of attention.


def degraded(kind, unet):
    guidance = SelfAttentionGuidance(scale=SCALE, layers=[MID])
    with guidance.attach(with_processors(unet, kind())) as attachment:
        attachment.step(0, 1, conditional_rows=2, sigma=3.0, prediction_type="epsilon")
        return call(unet)


@pytest.mark.parametrize("kind", SLICED)
def test_attention_maps_in_parts_are_whole(kind):
    wanted = degraded(Plain, new_unet())
    assert difference(degraded(kind, new_unet()), wanted) < 1e-5
    assert difference(call(with_processors(new_unet(), Plain())), wanted) > MARGIN * TOLERANCE


@pytest.mark.parametrize("kind", ADDED)
def test_attention_maps_are_those_of_self_attention_alone(kind):
    assert difference(degraded(kind, new_unet()), degraded(AndAPicture, new_unet())) < 1e-5


@pytest.mark.parametrize("kind", [*OTHER_KEYS, QuerySlicesToOtherKeys, Windows, FirstRowOnly])
def test_attention_maps_of_other_tokens_are_refused(kind):
    with pytest.raises(AttentionBackendError, match=f"{MID}.*{kind.__name__}"):
        degraded(kind, new_unet())


# Traces, which measure the energy of attention.


def traced(unet, rows=1):
    with Trace(unet, [MID], ["energy"]) as trace:
        call(unet, rows)
    return trace.layers["energy"].tolist()


def test_the_energy_of_attention_to_other_keys_is_measured():
    energies = []

    class Kept(EverySecondToken):
        def attention(self, query, key, value):
            logits = query.double() @ key.double().mT / math.sqrt(query.shape[-1])
            energies.append(-float(logits.logsumexp(-1).mean()))
            return super().attention(query, key, value)

    unet = new_unet()
    unet.set_attn_processor(dict(unet.attn_processors) | {f"{MID}.processor": Kept()})
    assert traced(unet) == pytest.approx(energies, rel=1e-5)
    assert len(energies) == 1


@pytest.mark.parametrize("kind", [*SLICED, Windows])
def test_the_energy_of_attention_in_slices_is_refused(kind):
    unet = with_processors(new_unet(), kind())
    with pytest.raises(AttentionBackendError, match=f"{MID}.*{kind.__name__}"):
        traced(unet, 2)
