"""What a trace tells of layers and latents, against what plain hooks capture."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comparison import run_of
from map_formulas import FORMULAS, of_maps
from scipy.special import logsumexp
from tiny_animatediff import FRAMES, MID_MOTION, SPATIAL
from tiny_animatediff import MID as MOTION_MID
from tiny_flux import CASES as FLUX
from tiny_lumina2 import CASES as LUMINA2
from tiny_pipelines import DOWN, MID, UP, latents_of, new_pixel_unet, noise, prompts, sd, size, unet
from tiny_sd3 import CASES as SD3

from smoothed_energy import PerturbedAttentionGuidance, SmoothedEnergyGuidance
from smoothed_energy.denoisers.attention_layer import LayerError
from smoothed_energy.intercept.attention import AttentionBackendError
from smoothed_energy.trace import AttentionMetric, MapMetric, StepMetric, Trace

REL = 2e-4
GRIDS = {DOWN: (12, 8), MID: (6, 4), UP[0]: (12, 8), UP[1]: (12, 8)}


@contextmanager
def captured(denoiser, names):
    """Inputs and outputs of modules in every pass, in order."""
    found = {name: [] for name in names}

    def hook_of(name):
        def hook(module, args, kwargs, output):
            given = args[0] if args else kwargs["hidden_states"]
            found[name].append((given.clone(), tuple(output) if type(output) is tuple else output))

        return hook

    hooks = [
        denoiser.get_submodule(name).register_forward_hook(hook_of(name), with_kwargs=True)
        for name in names
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def as_maps(tokens, grid):
    """`(B, T, C)` as maps `(B, C, H, W)`."""
    return tokens.mT.reshape(len(tokens), -1, *grid).double().numpy()


def energies(module, hidden, change=None):
    """The energy over the number of queries, mean over heads, for each row."""

    def heads(to):
        states = to(hidden).double()
        return states.unflatten(-1, (module.heads, -1)).transpose(1, 2).detach()

    with torch.no_grad():
        query, key = (heads(lambda x, to=to: to(x)) for to in (module.to_q, module.to_k))
    if change is not None:
        query = change(query)
    logits = (query @ key.mT / query.shape[-1] ** 0.5).numpy()
    return -logsumexp(logits, axis=-1).mean(axis=(1, 2))


def assert_column(table, name, expected, rel=REL):
    np.testing.assert_allclose(table[name].to_numpy(), expected, rtol=rel, err_msg=name)


@pytest.mark.parametrize("guidances", [[], [SmoothedEnergyGuidance(layers="mid")]], ids=len)
def test_hidden_states_and_energy_of_every_layer_sample_and_branch(guidances):
    pipe = sd()
    settings = {**prompts(2), **size(), "guidance_scale": 5.0, "num_inference_steps": 2}
    metrics = [*FORMULAS, "energy"]
    attachments = [guidance.attach(pipe) for guidance in guidances]
    try:
        with captured(unet(), GRIDS) as found, Trace(pipe, "all", metrics) as trace:
            latents_of(pipe, **settings)()
    finally:
        for attachment in attachments:
            attachment.detach()
    for name, grid in GRIDS.items():
        clean = [pair for pair in found[name] if len(pair[0]) == 4]
        assert len(clean) == 2
        for step, (given, output) in enumerate(clean):
            for branch, rows in (("unconditional", slice(0, 2)), ("conditional", slice(2, 4))):
                here = trace.layers.query(
                    f"layer == {name!r} and step == {step} and branch == {branch!r}"
                )
                assert here["sample"].tolist() == [0, 1]
                for metric in FORMULAS:
                    assert_column(here, metric, of_maps(metric, as_maps(output[rows], grid)))
                expected = energies(unet().get_submodule(name), given[rows])
                assert_column(here, "energy", expected, rel=1e-5)
                assert abs(expected[0] - expected[1]) > 3e-5 * abs(expected[0])


def test_latents_of_every_step():
    pipe = sd()
    settings = {**prompts(2), **size(), "guidance_scale": 5.0, "num_inference_steps": 3}
    given = []
    hook = unet().conv_in.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    try:
        with Trace(pipe, layers=(), trajectory=True) as trace:
            latents_of(pipe, **settings)()
    finally:
        hook.remove()
    for step, sample in enumerate(given):
        here = trace.steps[trace.steps["step"] == step]
        for metric in FORMULAS:
            assert_column(here, f"latents.{metric}", of_maps(metric, sample[:2].numpy()))
    assert torch.equal(trace.trajectories[0].latents, torch.stack([x[:2] for x in given]))


def blurred(query, grid, sigma=1.0):
    """Queries `(B, heads, T, d)` blurred by a kernel of 7 or the grid's greatest odd number."""
    batch, heads, _, width = query.shape
    maps = query.mT.reshape(batch * heads * width, 1, *grid)
    for axis, count in enumerate(grid):
        kernel = min(7, count - (count % 2 - 1))
        places = torch.arange(kernel, dtype=query.dtype) - kernel // 2
        weights = torch.exp(-0.5 * (places / sigma) ** 2)
        weights = (weights / weights.sum()).reshape((1, 1, -1, 1) if axis == 0 else (1, 1, 1, -1))
        pad = [0, 0, 0, 0]
        pad[2 - 2 * axis] = pad[3 - 2 * axis] = kernel // 2
        maps = F.conv2d(F.pad(maps, pad, mode="reflect"), weights)
    return maps.reshape(batch, heads, width, -1).mT


@pytest.mark.parametrize(
    ("blur", "change"),
    [
        ("gaussian:1", lambda query: blurred(query, (6, 4))),
        ("gaussian:inf", lambda query: query.mean(-2, keepdim=True).expand_as(query)),
    ],
)
@pytest.mark.parametrize("formulation", ["conditional", "unconditional"])
def test_the_change_of_energy_is_that_of_blurred_queries_at_the_clean_site(
    blur, change, formulation
):
    pipe = sd()
    settings = {**prompts(2), **size(), "guidance_scale": 5.0, "num_inference_steps": 1}
    guidance = SmoothedEnergyGuidance(blur=blur, layers=[DOWN, MID], formulation=formulation)
    tracing = Trace(pipe, [MID, UP[0]], ["energy_change", "energy"])
    with captured(unet(), [MID]) as found, guidance.attach(pipe), tracing as trace:
        latents_of(pipe, **settings)()
    (given, _), perturbed = found[MID][0], found[MID][1]
    rows = slice(2, 4) if formulation == "conditional" else slice(0, 2)
    module = unet().get_submodule(MID)
    expected = energies(module, given[rows], change) - energies(module, given[rows])
    in_its_pass = energies(module, perturbed[0], change) - energies(module, given[rows])
    here = trace.layers.query(f"layer == {MID!r} and branch == {formulation!r}")
    assert_column(here, "seg.energy_change", expected, rel=1e-3)
    assert abs(expected / in_its_pass - 1).max() > 0.01, "the two sites are too alike for a test"
    others = trace.layers.drop(here.index)
    assert others["seg.energy_change"].isna().all()


def test_a_change_of_energy_for_each_guidance_and_none_of_attention_without_softmax():
    pipe = sd()
    settings = {**prompts(2), **size(), "guidance_scale": 1.0, "num_inference_steps": 3}
    first = SmoothedEnergyGuidance(blur="gaussian:1", layers=MID, steps="0:0.34")
    second = SmoothedEnergyGuidance(layers=MID)
    pag = PerturbedAttentionGuidance(layers=MID)
    tracing = Trace(pipe, MID, ["energy_change"])
    with first.attach(pipe), second.attach(pipe), pag.attach(pipe), tracing as trace:
        latents_of(pipe, **settings)()
    assert list(trace.guidances.values()) == [first, second, pag]
    assert list(trace.guidances) == ["seg", "seg2", "pag"]
    changes = trace.layers[["seg.energy_change", "seg2.energy_change"]].to_numpy()
    assert (changes[:, 1] > 0).all()
    assert (changes[:4, 0] > 0).all() and (changes[:4, 0] < changes[:4, 1]).all()
    assert np.isnan(changes[4:, 0]).all()
    assert "pag.energy_change" not in trace.layers


def image_only(output, grid, start):
    return as_maps(output[:, start : start + grid[0] * grid[1]], grid)


def test_image_tokens_beside_text_and_in_folded_batches():
    def first_maps(case, name, of_output, passes=1):
        pipe = case.pipeline()
        denoiser = getattr(pipe, case.denoiser)
        with captured(denoiser, [name]) as found, Trace(pipe, [name], ["frobenius_norm"]) as trace:
            run_of(pipe, case, num_inference_steps=1)()
        assert len(found[name]) == passes
        here = trace.layers.query("branch == 'conditional' and step == 0")
        expected = of_maps("frobenius_norm", of_output(found[name][0][1]))
        assert len(set(expected)) == len(expected)
        assert_column(here, "frobenius_norm", expected)

    # Streams of their own: the image's comes first.
    first_maps(SD3[0], "transformer_blocks.1.attn", lambda out: image_only(out[0], (6, 4), 0))
    first_maps(FLUX[0], "transformer_blocks.1.attn", lambda out: image_only(out[0], (6, 4), 0))
    # One stream, text first: five tokens, or as many as each prompt has.
    first_maps(FLUX[0], "single_transformer_blocks.1.attn", lambda out: image_only(out, (6, 4), 5))

    def lumina(out):
        starts = [5, 3]
        rows = [image_only(row[None], (6, 4), n) for row, n in zip(out, starts, strict=True)]
        return np.concatenate(rows)

    first_maps(LUMINA2[0], "layers.1.attn", lumina)
    first_maps(LUMINA2[0], "noise_refiner.1.attn", lambda out: image_only(out, (6, 4), 0))

    def frames(out):  # (B F), H W
        maps = as_maps(out, (6, 4))
        return maps.reshape(-1, FRAMES * maps.shape[1], 6, 4)

    first_maps(SPATIAL, MOTION_MID, frames)

    def places(out):  # (B H W), F
        apart = out.reshape(-1, 6, 4, FRAMES, out.shape[-1]).permute(0, 3, 4, 1, 2)
        return apart.flatten(1, 2).double().numpy()

    first_maps(SPATIAL, MID_MOTION[0], places)


def test_energy_of_folded_attention_is_the_mean_over_its_sequences():
    pipe = SPATIAL.pipeline()
    module = pipe.unet.get_submodule(MOTION_MID)
    tracing = Trace(pipe, [MOTION_MID], ["energy"])
    with captured(pipe.unet, [MOTION_MID]) as found, tracing as trace:
        run_of(pipe, SPATIAL, num_inference_steps=1)()
    expected = energies(module, found[MOTION_MID][0][0]).reshape(-1, FRAMES).mean(1)
    assert_column(trace.layers, "energy", expected)


def test_attention_that_keeps_maps_as_maps():
    model = new_pixel_unet()
    name = "mid_block.attentions.0"
    tracing = Trace(model, "mid", list(FORMULAS))
    with captured(model, [name]) as found, tracing as trace, torch.no_grad():
        model(noise(2, 3, 12, 8), 500)
    output = found[name][0][1]
    assert output.ndim == 4
    for metric in FORMULAS:
        assert_column(trace.layers, metric, of_maps(metric, output.numpy()))


def test_metrics_of_ones_own():
    largest = MapMetric("largest", lambda maps: maps.amax((-3, -2, -1)))
    spread = AttentionMetric("spread", lambda call, _: {"spread": call.query.std((-3, -2, -1))})
    both = StepMetric("both", lambda step: {"both": step.conditional.flatten(1).sum(1)})
    pipe = sd()
    with captured(unet(), [MID]) as found, Trace(pipe, MID, [largest, spread, both]) as trace:
        latents_of(pipe, **prompts(2), **size(), guidance_scale=1.0, num_inference_steps=1)()
    given, output = found[MID][0]
    assert_column(trace.layers, "largest", output.amax((1, 2)).numpy())
    query = unet().get_submodule(MID).to_q(given).detach()
    assert_column(trace.layers, "spread", query.flatten(1).std(1).numpy(), rel=1e-3)
    assert {"both", "latents.largest"} <= set(trace.steps)


def test_what_can_not_be_traced_is_refused_before_a_run():
    from tiny_sana import transformer as sana

    pipe = sd()
    with pytest.raises(LayerError, match="m7"):
        Trace(pipe, "m7").__enter__()
    with pytest.raises(ValueError, match=r"'fid' is not known; expected of frobenius_norm"):
        Trace(pipe, metrics=["fid"])
    with pytest.raises(TypeError, match="no metric of a trace"):
        Trace(pipe, metrics=[3])
    with pytest.raises(TypeError, match="can't attach guidance to a str"):
        Trace("unet").__enter__()
    with pytest.raises(LayerError, match=r"without softmax.*energy"):
        Trace(sana(), "mid", ["energy"]).__enter__()
    compiled = torch.compile(unet())
    with pytest.raises(AttentionBackendError, match="is compiled"):
        Trace(compiled).__enter__()
    assert type(pipe) is type(sd())


def test_a_loop_that_is_not_told_and_a_pipeline_that_needs_no_telling():
    pipe = sd()
    trace = Trace(pipe, layers=())
    with pytest.raises(RuntimeError, match="not recording"):
        trace.step(0, 1)
    with trace:
        with pytest.raises(TypeError, match="a StableDiffusionPipeline knows its steps"):
            trace.step(0, 1)
        latents_of(pipe, **prompts(), **size(), num_inference_steps=1)()
    with Trace(unet(), layers=()) as own, torch.no_grad():
        with pytest.raises(RuntimeError, match="expected the call with the prompt before it"):
            own.step(0, 1, branch="unconditional", cfg_scale=5.0)
            unet()(noise(1, 4, 12, 8), 500, encoder_hidden_states=prompts()["prompt_embeds"])
        own.step(0, 1, branch="conditional", cfg_scale=5.0)
        unet()(noise(1, 4, 12, 8), 500, encoder_hidden_states=prompts()["prompt_embeds"])
        own.step(0, 1, branch="unconditional", cfg_scale=5.0)
        unet()(noise(1, 4, 12, 8), 500, encoder_hidden_states=prompts()["negative_prompt_embeds"])
    assert own.steps["effective_cfg_scale"].tolist() == [5.0]


def test_replaced_modules_are_found_again():
    import copy

    model = copy.deepcopy(unet())
    text = prompts()["prompt_embeds"]
    with Trace(model, "mid", ["frobenius_norm"]) as trace, torch.no_grad():
        model(noise(1, 4, 12, 8), 500, encoder_hidden_states=text)
        block = model.get_submodule(MID.rpartition(".")[0])
        block.attn1 = copy.deepcopy(block.attn1)
        block.attn1.to_out[0].weight *= 3
        model(noise(1, 4, 12, 8), 500, encoder_hidden_states=text)
    norms = trace.layers["frobenius_norm"].to_numpy()
    assert norms[1] > 1.5 * norms[0]
