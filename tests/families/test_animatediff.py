"""Guidance of AnimateDiff: over space, over time, and over both."""

import copy
import dataclasses
import math

import pytest
import torch
from brute_force_animatediff import FoldedImage
from comparison import assert_guided_as_by_brute_force, run_of
from diffusers import AnimateDiffPAGPipeline, AnimateDiffPipeline
from diffusers.models.unets.unet_motion_model import UNetMotionOutput
from tiny_animatediff import (
    CASES,
    FRAMES,
    GRID,
    MID,
    MID_MOTION,
    MOTION,
    SPATIAL,
    animatediff,
    motion_unet,
    new_motion_unet,
)
from tiny_pipelines import MARGIN, TEXT_WIDTH, TOLERANCE, difference, new_unet, noise, prompts

from smoothed_energy import (
    GaussianBlur,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    SmoothedEnergyGuidance,
    TokenPerturbationGuidance,
)
from smoothed_energy.denoisers.image_tokens import GridError
from smoothed_energy.families import Arguments, family_of
from smoothed_energy.families.layer_selection import (
    LayerError,
    select_layers,
    self_attention_layers,
)
from smoothed_energy.methods.seg import BlurQueries
from smoothed_energy.methods.tpg import ShuffleTokens

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)
WITHOUT_AND_WITH_CFG = pytest.mark.parametrize("cfg", [False, True])
# Over space, over time, over both.
BLURS = [(1.0, None), (0.0, 1.0), (1.0, 1.0)]


@CASE
@WITHOUT_AND_WITH_CFG
@pytest.mark.parametrize(("sigma", "temporal"), BLURS)
def test_as_by_brute_force(case, cfg, sigma, temporal):
    assert_guided_as_by_brute_force(case, cfg=cfg, sigma=sigma, temporal=temporal, **prompts(2))


@pytest.mark.parametrize(
    ("case", "sigma", "temporal"),
    [
        (SPATIAL, math.inf, None),
        (SPATIAL, math.inf, 1.0),
        (MOTION, 0.0, math.inf),
        (MOTION, math.inf, math.inf),
    ],
)
def test_infinite_sigma(case, sigma, temporal):
    assert_guided_as_by_brute_force(case, sigma=sigma, temporal=temporal)


@pytest.mark.parametrize(
    ("case", "sigma", "temporal", "queries"),
    [
        (SPATIAL, math.inf, None, 1),
        (SPATIAL, math.inf, 0.0, 1),
        (SPATIAL, math.inf, 1.0, 24),
        (SPATIAL, 0.0, math.inf, 24),
        (MOTION, 0.0, math.inf, 1),
        (MOTION, math.inf, None, FRAMES),
        (MOTION, 1.0, math.inf, FRAMES),
    ],
)
def test_one_query_suffices_where_all_of_a_sequence_are_equal(
    case, sigma, temporal, queries, monkeypatch
):
    pipe = case.pipeline()
    layer = next(iter(case.images))
    guidance = SmoothedEnergyGuidance(
        blur=GaussianBlur(sigma, temporal_sigma=temporal), layers=layer
    )
    seen = set()
    attend = BlurQueries.attend

    def counted(self, call):
        def native(query, *args, **options):
            seen.add(query.shape[-2])
            return call.native(query, *args, **options)

        return attend(self, dataclasses.replace(call, native=native))

    monkeypatch.setattr(BlurQueries, "attend", counted)
    with guidance.attach(pipe):
        run_of(pipe, case)()
    assert seen == {queries}


def test_odd_sizes():
    case = dataclasses.replace(
        SPATIAL,
        images={
            MID: FoldedImage((2, 5, 3)),
            MID_MOTION[0]: FoldedImage((2, 5, 3), over="time"),
            "up_blocks.1.attentions.0.transformer_blocks.0.attn1": FoldedImage((2, 9, 5)),
            "up_blocks.1.motion_modules.1.transformer_blocks.0.attn2": FoldedImage(
                (2, 9, 5), over="time"
            ),
        },
    )
    assert_guided_as_by_brute_force(
        case, sigma=1.0, temporal=1.0, height=72, width=40, num_frames=2
    )


def test_layers_over_space_are_those_of_stable_diffusion():
    unet = motion_unet()
    layers = self_attention_layers(unet)
    of_space = [layer for layer in layers if layer.part != "motion"]
    assert of_space == list(self_attention_layers(new_unet()))
    of_time = [layer for layer in layers if layer.part == "motion"]
    assert [layer.code for layer in of_time] == [f"t{n}" for n in range(14)]
    assert [layer.dotted for layer in of_time[:3]] == ["t0.0", "t0.1", "t1.0"]
    assert select_layers(unet, "motion") == tuple(of_time)
    assert select_layers(unet, "t2.*") == tuple(of_time[4:6])
    assert tuple(layer.name for layer in of_time[4:6]) == MID_MOTION


def test_layers_are_listed_as_they_run():
    pipe = animatediff()
    names = [layer.name for layer in self_attention_layers(pipe.unet)]
    seen = []
    hooks = [
        pipe.unet.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: seen.append(name)
        )
        for name in names
    ]
    run_of(pipe, SPATIAL, num_inference_steps=1)()
    for hook in hooks:
        hook.remove()
    assert seen == names


def test_grids_without_running():
    unet = motion_unet()
    family = family_of(unet)
    grids = {
        layer.name: family.layer_grid(unet, layer, (FRAMES, 12, 8))
        for layer in self_attention_layers(unet)
    }
    assert grids[MID] == grids[MID_MOTION[1]] == GRID
    assert grids["down_blocks.1.motion_modules.0.transformer_blocks.0.attn1"] == GRID
    assert grids["up_blocks.0.motion_modules.0.transformer_blocks.0.attn1"] == GRID
    assert grids["up_blocks.1.motion_modules.0.transformer_blocks.0.attn1"] == (FRAMES, 12, 8)
    assert family.layer_grid(unet, self_attention_layers(unet)[0], (12, 8)) == (1, 12, 8)


@pytest.mark.parametrize(("layer", "count"), [(MID, 23), (MID_MOTION[0], 4)])
def test_another_number_of_tokens(layer, count):
    unet = motion_unet()
    latents = {"sample": torch.zeros(1, 4, FRAMES, 12, 8)}
    found = family_of(unet).tokens(unet, Arguments(latents.get), layer, count)
    assert found.count == count
    with pytest.raises(GridError, match=rf"{layer} attends with {count} tokens, but .* expected"):
        _ = found.grid


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("mid_block.attentions", "m0"),
        ("mid_block.motion_modules", "t4,t5"),
        ("down_blocks.0", ["d0", "t0", "t1"]),
    ],
)
@WITHOUT_AND_WITH_CFG
def test_perturbed_attention_as_in_diffusers(theirs, ours, cfg):
    reference = animatediff(
        AnimateDiffPAGPipeline, model=copy.deepcopy(motion_unet()), pag_applied_layers=theirs
    )
    expected = run_of(reference, SPATIAL, cfg=cfg, pag_scale=3.0)()
    pipe = animatediff()
    run = run_of(pipe, SPATIAL, cfg=cfg)
    assert difference(run(), expected) > MARGIN * TOLERANCE
    for replay in (True, False):
        with PerturbedAttentionGuidance(scale=3.0, layers=ours).attach(pipe, replay=replay):
            error = difference(run(), expected)
        print(f"\nerror {error:.1e}")
        assert error < TOLERANCE


@pytest.mark.parametrize(
    ("case", "skip", "inside"),
    [(SPATIAL, "block", ""), (MOTION, "block", ""), (SPATIAL, "feed-forward", ".ff")],
)
def test_skipped_modules(case, skip, inside, monkeypatch):
    pipe = case.pipeline()
    layer = next(iter(case.images))
    name = layer.rpartition(".")[0] + inside
    module, forward = pipe.unet.get_submodule(name), pipe.unet.forward
    run = run_of(pipe, case)
    plain = run()

    def guided(*args, **kwargs):
        clean = forward(*args, **kwargs).sample
        with monkeypatch.context() as patch:
            patch.setattr(module, "forward", lambda hidden_states, *args, **kwargs: hidden_states)
            skipped = forward(*args, **kwargs).sample
        return UNetMotionOutput(clean + 2.0 * (clean - skipped))

    with monkeypatch.context() as patch:
        patch.setattr(pipe.unet, "forward", guided)
        expected = run()
    assert difference(plain, expected) > MARGIN * TOLERANCE
    for replay in (True, False):
        guidance = SkipLayerGuidance(scale=2.0, layers=layer, skip=skip)
        with guidance.attach(pipe, replay=replay):
            assert difference(run(), expected) < TOLERANCE


@CASE
def test_shuffled_tokens(case, monkeypatch):
    pipe = case.pipeline()
    run = run_of(pipe, case)
    plain = run()
    guidance = TokenPerturbationGuidance(scale=1.0, layers=list(case.images))
    results = []
    for replay in (True, False):
        with guidance.attach(pipe, replay=replay):
            results.append(run())
    assert difference(results[0], results[1]) < TOLERANCE
    assert difference(results[0], plain) > MARGIN * TOLERANCE
    # In the order in which they are, nothing is perturbed.
    monkeypatch.setattr(
        ShuffleTokens, "permutation", lambda self, name, index, count: torch.arange(count)
    )
    with guidance.attach(pipe):
        assert difference(run(), plain) < TOLERANCE


def test_free_init():
    def with_free_init():
        pipe = animatediff()
        pipe.enable_free_init(num_iters=2, use_fast_sampling=True)
        return pipe

    case = dataclasses.replace(MOTION, pipeline=with_free_init)
    assert_guided_as_by_brute_force(case, sigma=1.0, temporal=1.0)
    pipe = with_free_init()
    with SmoothedEnergyGuidance(layers=MID, steps="0:0.4").attach(pipe) as attachment:
        run_of(pipe, SPATIAL, num_inference_steps=4)()
    # Of 2 steps the first, then of 4 steps the first two.
    assert attachment.last_run.guided_calls == 3


def test_free_init_begins_anew():
    pipe = animatediff()
    pipe.enable_free_init(num_iters=2, use_fast_sampling=False)
    with SmoothedEnergyGuidance(layers=MID, every=2).attach(pipe) as attachment:
        run_of(pipe, SPATIAL, num_inference_steps=3)()
    # Twice 3 steps: the first and the third have a second pass, the second uses the first's again.
    assert attachment.last_run.guided_calls == 4
    assert attachment.last_run.reused_calls == 2


def test_positional_arguments_have_a_row_for_every_frame_too():
    unet = motion_unet()
    sample = noise(2, 4, FRAMES, 12, 8, seed=1)
    text = noise(2, 5, TEXT_WIDTH, seed=2).repeat_interleave(FRAMES, dim=0)
    clean = unet(sample, 500, text).sample
    guidance = SmoothedEnergyGuidance(layers=MID, scale=2.0)
    results = []
    with guidance.attach(unet) as attachment:
        attachment.step(0, 1, conditional_rows=1)
        results.append(unet(sample, 500, text).sample)
        results.append(unet(sample, 500, encoder_hidden_states=text).sample)
        attachment.step(0, 1)
        alone = unet(sample[1:], 500, text[FRAMES:]).sample
    delta = alone - clean[1:]
    for result in results:
        assert difference(result, clean + delta) < TOLERANCE
    assert difference(result, clean) > MARGIN * TOLERANCE


class WithFramePrompts(AnimateDiffPipeline):
    """FreeNoise takes no embeddings, so here a prompt's are random numbers of its own."""

    def encode_prompt(self, prompt, *args, negative_prompt=None, **kwargs):
        def embedded(texts):
            return torch.cat([noise(1, 5, TEXT_WIDTH, seed=len(text)) for text in texts])

        return embedded(prompt), None if negative_prompt is None else embedded(negative_prompt)


@WITHOUT_AND_WITH_CFG
@pytest.mark.parametrize(
    "images",
    [
        {MID: FoldedImage((5, 6, 4))},
        # Windows of 4 of the 5 frames, the second of which begins with the second frame.
        {name: FoldedImage((4, 6, 4), over="time") for name in MID_MOTION},
    ],
    ids=["space", "time"],
)
def test_free_noise(images, cfg):
    def with_free_noise():
        pipe = animatediff(WithFramePrompts, model=new_motion_unet())
        pipe.enable_free_noise(context_length=4, context_stride=1)
        return pipe

    arguments = {"prompt": {0: "a", 2: "bbb"}, "height": 96, "width": 64, "num_frames": 5}
    case = dataclasses.replace(
        SPATIAL,
        pipeline=with_free_noise,
        arguments={**arguments, "guidance_scale": 1.0},
        images=images,
    )
    assert_guided_as_by_brute_force(case, cfg=cfg, sigma=1.0, temporal=1.0)


def test_split_inference_is_refused():
    pipe = animatediff(model=new_motion_unet())
    with SmoothedEnergyGuidance(layers="mid").attach(pipe):
        pipe.enable_free_noise_split_inference(spatial_split_size=8, temporal_split_size=2)
        with pytest.raises(LayerError, match="split inference"):
            run_of(pipe, SPATIAL)()
    with pytest.raises(LayerError, match="split inference"):
        SmoothedEnergyGuidance(layers="mid").attach(pipe)
