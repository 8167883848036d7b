"""Guidance with other attention processors, dtypes, compilation and offloading."""

from contextlib import ExitStack

import pytest
import torch
from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
    SlicedAttnProcessor,
)

from small_models import inputs, small_pipeline, small_unet, unet_inputs
from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.families.layer_selection import select_layers
from smoothed_energy.intercept.attention import AttentionBackendError
from smoothed_energy.intercept.compiled import eagerly as _eagerly
from smoothed_energy.smoothing import as_smoothing

GUIDANCE = SmoothedEnergyGuidance(blur="gaussian:1", layers=["down", "mid"])


def predict(unet, guidance=GUIDANCE, rows=1, **changes):
    with guidance.attach(unet) as attachment:
        attachment.step(0, 1, conditional_rows=rows)
        output = unet(**(unet_inputs() | changes), return_dict=False)[0]
        assert attachment.last_run.layers
    return output


@pytest.fixture
def expected(unet):
    result = predict(unet)
    plain = unet(**unet_inputs(), return_dict=False)[0]
    assert (result - plain).abs().max() > 1e-3
    return result


@pytest.mark.parametrize(
    "processor", [AttnProcessor(), SlicedAttnProcessor(1), AttnProcessor2_0()], ids=type
)
def test_every_attention_processor_gives_the_same_guidance(unet, expected, processor):
    unet.set_attn_processor(processor)
    torch.testing.assert_close(predict(unet), expected, rtol=0, atol=1e-5)
    assert all(used is processor for used in unet.attn_processors.values())


def test_fused_projections_give_the_same_guidance(unet, expected):
    unet.fuse_qkv_projections()
    assert any(isinstance(p, FusedAttnProcessor2_0) for p in unet.attn_processors.values())
    torch.testing.assert_close(predict(unet), expected, rtol=0, atol=1e-5)


def test_attention_slicing_of_a_pipeline_gives_the_same_guidance():
    pipe = small_pipeline()
    with GUIDANCE.attach(pipe):
        expected = pipe(**inputs()).images
        pipe.enable_attention_slicing()
        sliced = pipe(**inputs()).images
    torch.testing.assert_close(sliced, expected, rtol=1e-5, atol=1e-3)


class Handmade:
    """A processor that never calls the native function, and is none that diffusers knows."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        return AttnProcessor()(attn, hidden_states, encoder_hidden_states)


def test_a_processor_that_cannot_be_intercepted_is_an_error_that_says_what_to_do(unet):
    plain = unet(**unet_inputs(), return_dict=False)[0]
    processors = dict(unet.attn_processors)
    processors["mid_block.attentions.0.transformer_blocks.1.attn1.processor"] = Handmade()
    unet.set_attn_processor(processors)
    with pytest.raises(AttentionBackendError, match=r"blocks.1.attn1'.*Handmade.*AttnProcessor2_0"):
        predict(unet)
    torch.testing.assert_close(
        unet(**unet_inputs(), return_dict=False)[0], plain, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_guidance_of_full_precision(expected, dtype):
    half = small_unet().to(dtype)
    given = unet_inputs()
    added = {key: value.to(dtype) for key, value in given["added_cond_kwargs"].items()}
    result = predict(
        half,
        sample=given["sample"].to(dtype),
        encoder_hidden_states=given["encoder_hidden_states"].to(dtype),
        added_cond_kwargs=added,
    )
    assert result.dtype == dtype
    tolerance = 0.02 if dtype == torch.float16 else 0.1
    torch.testing.assert_close(result.float(), expected, rtol=0, atol=tolerance)


def test_autocast_gives_the_guidance_of_full_precision(unet, expected):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = predict(unet)
    torch.testing.assert_close(result.float(), expected, rtol=0, atol=0.1)


class ExplicitAttention:
    r"""$\operatorname{softmax}(B Q K^\top / \sqrt d + M)\, V$, with a mask $M$ over the keys."""

    def __init__(self, matrix):
        self.matrix = matrix

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        rows, tokens, _ = hidden_states.shape

        def heads(states):
            return states.view(rows, tokens, attn.heads, -1).transpose(1, 2)

        query, key, value = (heads(to(hidden_states)) for to in (attn.to_q, attn.to_k, attn.to_v))
        logits = self.matrix @ query @ key.mT / query.shape[-1] ** 0.5
        logits = logits + attention_mask[:, None]
        attended = logits.softmax(dim=-1) @ value
        return attn.to_out[0](attended.transpose(1, 2).reshape(rows, tokens, -1))


@pytest.mark.parametrize("blur", ["gaussian:1", "gaussian:inf"])
def test_masks_over_the_tokens_hold_in_the_second_pass_too(unet, blur):
    # Masks of the text do not reach self-attention; a mask of the image's own tokens does.
    mask = torch.ones(2, 64, dtype=torch.bool)
    mask[0, 40:] = mask[1, :10] = False
    given = unet_inputs() | {"attention_mask": mask, "return_dict": False}
    guidance = SmoothedEnergyGuidance(blur=blur, scale=2.0, layers="mid")
    guided = predict(unet, guidance, rows=2, attention_mask=mask)

    clean = unet(**given)[0]
    explicit = ExplicitAttention(as_smoothing(blur).matrix((8, 8)).float())
    chosen = {f"{layer.name}.processor": explicit for layer in select_layers(unet, "mid")}
    unet.set_attn_processor(dict(unet.attn_processors) | chosen)
    perturbed = unet(**given)[0]
    torch.testing.assert_close(guided, clean + 2.0 * (clean - perturbed), rtol=0, atol=1e-5)


class TestCompiled:
    """`backend="eager"` traces as every backend does, and compiles nothing."""

    def test_a_compiled_denoiser_gives_the_same_guidance(self, unet, expected):
        compiled = torch.compile(unet, backend="eager")
        plain = compiled(**unet_inputs(), return_dict=False)[0]
        torch.testing.assert_close(predict(compiled), expected, rtol=0, atol=1e-5)
        assert torch.equal(plain, compiled(**unet_inputs(), return_dict=False)[0])

    def test_a_denoiser_compiled_in_place_gives_the_same_guidance(self, unet, expected):
        unet.compile(backend="eager")
        plain = unet(**unet_inputs(), return_dict=False)[0]
        torch.testing.assert_close(predict(unet), expected, rtol=0, atol=1e-5)
        assert torch.equal(plain, unet(**unet_inputs(), return_dict=False)[0])

    def test_compiled_blocks_give_the_same_guidance(self, unet, expected):
        unet.compile_repeated_blocks(backend="eager")
        torch.testing.assert_close(predict(unet), expected, rtol=0, atol=1e-5)

    def test_a_block_that_is_compiled_by_itself_gives_the_same_guidance(self, unet, expected):
        graphs = []

        def backend(module, example_inputs):
            graphs.append(module)
            return module.forward

        unet.mid_block = torch.compile(unet.mid_block, backend=backend)
        unet(**unet_inputs(), return_dict=False)
        known = len(graphs)
        torch.testing.assert_close(predict(unet), expected, rtol=0, atol=1e-5)
        unet(**unet_inputs(), return_dict=False)
        assert len(graphs) == known  # no patch was traced

    def test_second_passes_that_overlap_leave_compilation_as_it_was(self):
        graphs = []

        def backend(module, example_inputs):
            graphs.append(module)
            return module.forward

        compiled = torch.compile(lambda x: x + 1, backend=backend)
        one, other = ExitStack(), ExitStack()  # of two threads
        one.enter_context(_eagerly())
        other.enter_context(_eagerly())
        one.close()
        compiled(torch.ones(2))
        assert not graphs  # the other one is still running
        other.close()
        compiled(torch.ones(2))
        assert len(graphs) == 1

    def test_a_pipeline_with_a_compiled_denoiser_gives_the_same_guidance(self):
        pipe = small_pipeline()
        with GUIDANCE.attach(pipe):
            expected = pipe(**inputs()).images
        pipe.unet = torch.compile(pipe.unet, backend="eager")
        with GUIDANCE.attach(pipe) as attachment:
            compiled = pipe(**inputs()).images
        assert attachment.last_run.guided_calls == 3
        torch.testing.assert_close(compiled, expected, rtol=1e-5, atol=1e-3)

    def test_the_first_pass_stays_compiled(self):
        graphs = []

        def backend(module, example_inputs):
            graphs.append(module)
            return module.forward

        unet = small_unet()
        compiled = torch.compile(unet, backend=backend)
        compiled(**unet_inputs(), return_dict=False)
        known = len(graphs)
        predict(compiled)
        assert len(graphs) == known  # neither pass compiled anything new


def offload_models(pipe):
    """Whole models, and their hooks are renewed as a run ends."""
    pipe.enable_model_cpu_offload(device="cpu")


def offload_modules(pipe):
    """What `enable_sequential_cpu_offload` does, whose `cpu:0` accelerate does not take."""
    import accelerate

    for part in (pipe.vae, pipe.unet):
        accelerate.cpu_offload(part, execution_device=torch.device("cpu"))


@pytest.mark.parametrize("offload", [offload_models, offload_modules])
@pytest.mark.parametrize("when", ["before attaching", "while attached"])
def test_a_pipeline_that_is_offloaded_gives_the_same_guidance(pipe, offload, when):
    pytest.importorskip("accelerate")
    plain = pipe(**inputs()).images
    with GUIDANCE.attach(pipe):
        expected = pipe(**inputs()).images
    assert not torch.equal(plain, expected)

    if when == "before attaching":
        offload(pipe)
    with GUIDANCE.attach(pipe) as attachment:
        if when == "while attached":
            offload(pipe)
        first, second = pipe(**inputs()).images, pipe(**inputs()).images
        assert attachment.last_run.guided_calls == 3
    assert hasattr(pipe.unet, "_hf_hook")
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)
    assert torch.equal(plain, pipe(**inputs()).images)
    pipe.remove_all_hooks()
    assert pipe.unet.forward.__func__ is type(pipe.unet).forward


class TestOffloaded:
    def test_model_offload_gives_the_same_guidance(self, unet, expected):
        accelerate = pytest.importorskip("accelerate")
        _, hook = accelerate.cpu_offload_with_hook(unet, torch.device("cpu"))
        torch.testing.assert_close(predict(unet), expected, rtol=0, atol=1e-5)
        hook.remove()
        assert unet.forward.__func__ is type(unet).forward

    def test_sequential_offload_gives_the_same_guidance(self, unet, expected):
        accelerate = pytest.importorskip("accelerate")
        accelerate.cpu_offload(unet, execution_device=torch.device("cpu"))
        torch.testing.assert_close(predict(unet), expected, rtol=0, atol=1e-5)

    def test_hooks_that_are_renewed_at_the_end_of_a_run_survive(self):
        # Model offload of a pipeline removes and adds its hooks anew as a run ends.
        accelerate = pytest.importorskip("accelerate")
        pipe = small_pipeline()
        expected = pipe(**inputs()).images
        _, hook = accelerate.cpu_offload_with_hook(pipe.unet, torch.device("cpu"))

        def renew():
            nonlocal hook
            hook.remove()
            _, hook = accelerate.cpu_offload_with_hook(pipe.unet, torch.device("cpu"))

        pipe.maybe_free_model_hooks = renew
        with GUIDANCE.attach(pipe):
            first, second = pipe(**inputs()).images, pipe(**inputs()).images
        assert torch.equal(first, second)
        assert not torch.equal(first, expected)
        assert torch.equal(expected, pipe(**inputs()).images)
        hook.remove()
        assert pipe.unet.forward.__func__ is type(pipe.unet).forward
