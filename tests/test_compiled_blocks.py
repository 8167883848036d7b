"""Guidance of denoisers whose blocks are compiled one by one."""

import functools

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch._dynamo.utils import counters

from small_models import inputs, small_pipeline, small_unet, unet_inputs
from smoothed_energy import (
    EntropyRectifyingGuidance,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    SmoothedEnergyGuidance,
    TokenPerturbationGuidance,
)
from smoothed_energy.intercept.attention import AttentionBackendError
from smoothed_energy.trace import Trace

METHODS = {
    "seg": SmoothedEnergyGuidance(blur="gaussian:1", layers="mid"),
    "seg of keys": SmoothedEnergyGuidance(blur="gaussian:1", layers="mid", on="key"),
    "pag": PerturbedAttentionGuidance(layers=["mid", "u0.0"]),
    "erg": EntropyRectifyingGuidance(layers="mid"),
    "slg": SkipLayerGuidance(layers="mid"),
    "slg of attention": SkipLayerGuidance(layers="mid", skip="attention"),
    "tpg": TokenPerturbationGuidance(layers="mid"),
}


def small_flux():
    torch.manual_seed(1)
    return FluxTransformer2DModel(
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    ).eval()


def flux_inputs():
    generator = torch.Generator().manual_seed(0)
    places = torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(6.0))
    return {
        "hidden_states": torch.randn(2, 24, 4, generator=generator),
        "encoder_hidden_states": torch.randn(2, 5, 8, generator=generator),
        "pooled_projections": torch.randn(2, 8, generator=generator),
        "timestep": torch.tensor([0.5, 0.5]),
        "img_ids": places,
        "txt_ids": torch.zeros(5, 3),
    }


def predictions(denoiser, guidance, given, *, rows=None, steps=3, joined=False):
    """The guided predictions of some steps, whose latents differ."""
    found = []
    name = next(iter(given))
    with torch.no_grad(), guidance.attach(denoiser, joined=joined) as attachment:
        for index in range(steps):
            attachment.step(index, steps, conditional_rows=rows)
            changed = {name: given[name] * (1 + index / 10)}
            found.append(denoiser(**given | changed, return_dict=False)[0])
        assert attachment.last_run.layers
    return found


class Compiler:
    """A backend that compiles nothing, and counts graphs and their calls."""

    def __init__(self):
        self.graphs, self.calls = 0, 0

    def __call__(self, graph, example_inputs):
        self.graphs += 1

        def run(*args):
            self.calls += 1
            return graph.forward(*args)

        return run


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("rows", [None, 1], ids=["all rows", "half of the rows"])
@pytest.mark.parametrize("method", METHODS)
def test_the_guidance_is_the_same(method, rows):
    guidance, given = METHODS[method], unet_inputs()
    expected = predictions(small_unet(), guidance, given, rows=rows)
    unet = small_unet()
    # With fullgraph, a patch that the clean pass runs into would be an error.
    unet.compile_repeated_blocks(backend=Compiler(), fullgraph=True)
    found = predictions(unet, guidance, given, rows=rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    plain = small_unet()(**given, return_dict=False)[0]
    assert (found[0] - plain).abs().max() > 1e-3


@pytest.mark.parametrize("layers", ["b0", "b1", "s0", "s1", "b0,s1"])
@pytest.mark.parametrize(
    "method", [SmoothedEnergyGuidance, PerturbedAttentionGuidance], ids=["seg", "pag"]
)
def test_the_guidance_of_a_transformer_is_the_same(method, layers):
    guidance = method(layers=layers)
    expected = predictions(small_flux(), guidance, flux_inputs())
    flux = small_flux()
    flux.compile_repeated_blocks(backend=Compiler(), fullgraph=True)
    torch.testing.assert_close(
        predictions(flux, guidance, flux_inputs()), expected, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("rows", [None, 1], ids=["all rows", "half of the rows"])
def test_nothing_is_compiled_after_the_first_step(rows):
    unet, compiler = small_unet(), Compiler()
    unet.compile_repeated_blocks(backend=compiler, fullgraph=True)
    guidance = METHODS["seg"]
    with torch.no_grad():
        unet(**unet_inputs())
    of_clean_pass = compiler.graphs
    predictions(unet, guidance, unet_inputs(), rows=rows, steps=1)
    once = compiler.graphs
    assert once > of_clean_pass
    for _ in range(2):  # attached anew
        predictions(unet, guidance, unet_inputs(), rows=rows)
    with torch.no_grad():
        unet(**unet_inputs())
    assert compiler.graphs == once


def test_only_what_follows_the_first_edit_runs_again():
    unet, compiler = small_unet(), Compiler()
    unet.compile_repeated_blocks(backend=compiler, fullgraph=True)
    blocks = {name: m for name, m in unet.named_modules() if hasattr(m, "attn1")}
    before = [name for name in blocks if name.startswith("down")]
    inside = [name for name in blocks if name.startswith("mid")]
    after = [name for name in blocks if name.startswith("up")]
    assert before and inside and after
    predictions(unet, METHODS["seg"], unet_inputs(), steps=1)
    compiler.calls = 0
    predictions(unet, METHODS["seg"], unet_inputs(), steps=1)
    # An opened block is two graphs, before the edit and after it; the edit runs in neither.
    assert compiler.calls == len(blocks) + 2 * len(inside) + len(after)


def test_a_pass_of_other_rows_breaks_the_edited_blocks_alone():
    unet, compiler = small_unet(), Compiler()
    unet.compile_repeated_blocks(backend=compiler, fullgraph=True)
    blocks = [name for name, m in unet.named_modules() if hasattr(m, "attn1")]
    inside = [name for name in blocks if name.startswith("mid")]
    guidance = METHODS["seg"]
    predictions(unet, guidance, unet_inputs(), rows=1, steps=1)
    compiler.calls = 0
    predictions(unet, guidance, unet_inputs(), rows=1, steps=1)
    after = [name for name in blocks if name.startswith("up")]
    assert compiler.calls == len(blocks) + 2 * len(inside) + len(after)


@pytest.mark.parametrize("rows", [None, 1], ids=["all rows", "half of the rows"])
@pytest.mark.parametrize("method", METHODS)
def test_joined_rows_are_the_same(method, rows):
    guidance, given = METHODS[method], unet_inputs()
    expected = predictions(small_unet(), guidance, given, rows=rows)
    unet = small_unet()
    unet.compile_repeated_blocks(backend=Compiler(), fullgraph=True)
    found = predictions(unet, guidance, given, rows=rows, joined=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_joined_rows_run_every_block_once_and_compile_nothing_later():
    unet, compiler = small_unet(), Compiler()
    unet.compile_repeated_blocks(backend=compiler, fullgraph=True)
    with torch.no_grad():
        unet(**unet_inputs())
    blocks = [name for name, m in unet.named_modules() if hasattr(m, "attn1")]
    predictions(unet, METHODS["seg"], unet_inputs(), steps=1, joined=True)
    once, compiler.calls = compiler.graphs, 0
    predictions(unet, METHODS["seg"], unet_inputs(), steps=1, joined=True)
    # An opened block is two graphs, and the edit runs in neither.
    inside = [name for name in blocks if name.startswith("mid")]
    assert compiler.calls == len(blocks) + len(inside)
    with torch.no_grad():
        unet(**unet_inputs())
    assert compiler.graphs == once


def test_a_pipeline_with_cfg_gives_the_same_guidance():
    guidance = METHODS["seg"]
    pipe = small_pipeline()
    with guidance.attach(pipe):
        expected = pipe(**inputs()).images
    pipe.unet.compile_repeated_blocks(backend=Compiler(), fullgraph=True)
    with guidance.attach(pipe) as attachment:
        for _ in range(2):
            found = pipe(**inputs()).images
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)
    assert attachment.last_run.guided_calls == 3


def test_attention_that_is_compiled_by_itself_gives_the_same_guidance():
    guidance, given = METHODS["seg"], unet_inputs()
    expected = predictions(small_unet(), guidance, given)
    unet = small_unet()
    for module in unet.modules():
        if hasattr(module, "attn1"):
            module.attn1.compile(backend=Compiler())
    torch.testing.assert_close(predictions(unet, guidance, given), expected, rtol=0, atol=1e-5)


def test_a_block_with_hooks_runs_with_them():
    guidance, given = METHODS["seg"], unet_inputs()
    unet, seen = small_unet(), []
    block = unet.mid_block.attentions[0].transformer_blocks[0]
    block.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    expected = predictions(unet, guidance, given, rows=1)
    assert seen == [2, 1] * 3
    unet.compile_repeated_blocks(backend=Compiler())
    seen.clear()
    found = predictions(unet, guidance, given, rows=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert seen == [2, 1] * 3


def test_blocks_that_are_compiled_can_not_be_looked_into():
    unet = small_unet()
    unet.compile_repeated_blocks(backend=Compiler())
    with pytest.raises(AttentionBackendError, match="is compiled"), Trace(unet, layers="mid"):
        unet(**unet_inputs())


@pytest.mark.parametrize("kind", ["unet", "transformer"])
def test_real_compiled_code_gives_the_same_guidance(kind):
    """With inductor, which writes and builds C++: a minute for each."""
    guidance = SmoothedEnergyGuidance(blur="gaussian:1", layers={"unet": "mid"}.get(kind, "b1"))
    if kind == "unet":
        build, given, rows = small_unet, unet_inputs(), 1
    else:
        build, given, rows = small_flux, flux_inputs(), None
    run = functools.partial(predictions, guidance=guidance, given=given, rows=rows)
    expected = run(build())
    denoiser = build()
    denoiser.compile_repeated_blocks(fullgraph=True)
    found = run(denoiser)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert counters["inductor"], "nothing was compiled by inductor"
    made = counters["stats"]["unique_graphs"]
    torch.testing.assert_close(run(denoiser), expected, rtol=0, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == made
