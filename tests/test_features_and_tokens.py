"""Grids of tokens where other packages shrink feature maps, merge tokens, or attend in tiles.

Each is a stand-in of the structure of the package, and the brute force runs with it as well.
"""

import copy
import math
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import product

import pytest
import tiny_pixart
import torch
import torch.nn.functional as F
from brute_force_guidance import BlurredLogits, Term
from comparison import run_of
from tiny_pipelines import (
    ALONE,
    DOWN,
    MARGIN,
    MID,
    TEXT_WIDTH,
    TOLERANCE,
    UP,
    assert_guided_as_by_brute_force,
    cfg,
    difference,
    latents_of,
    new_unet,
    noise,
    prompts,
    sd,
    size,
)

from other_caches import replaced
from smoothed_energy import (
    EntropyRectifyingGuidance,
    GuidanceInterval,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SlidingWindowGuidance,
    SmoothedEnergyGuidance,
    Steps,
    TokenPerturbationGuidance,
)
from smoothed_energy.denoisers.image_tokens import GridError


@contextmanager
def deep_shrink(unet, to):
    """Kohya's: feature maps are smaller from within the first block to within the last."""

    def shrink(original, hidden_states, *args, **kwargs):
        return F.interpolate(original(hidden_states, *args, **kwargs), to)

    def enlarge(original, *, hidden_states, res_hidden_states_tuple, **kwargs):
        states, *others = (F.interpolate(x, to) for x in (hidden_states, *res_hidden_states_tuple))
        output = original(hidden_states=states, res_hidden_states_tuple=tuple(others), **kwargs)
        return F.interpolate(output, (12, 8))

    with (
        replaced(unet.down_blocks[0].resnets[0], shrink),
        replaced(unet.up_blocks[1], enlarge),
    ):
        yield


# 4 x 6 has as many tokens as the level below, of 6 x 4; no level has 35.
@pytest.mark.parametrize("to", [(6, 4), (4, 6), (5, 7)])
@pytest.mark.parametrize(("scale", "branches"), [(1.0, ALONE), (5.0, cfg(5.0))])
def test_layers_have_the_grid_of_the_feature_map_that_enters_them(to, scale, branches):
    pipe = sd(model=new_unet())
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=scale)
    below = tuple(math.ceil(side / 2) for side in to)
    term = Term({DOWN: to, MID: below, UP[0]: to, UP[1]: to})
    with deep_shrink(pipe.unet, to):
        assert_guided_as_by_brute_force(pipe, run, term, branches, replay=(True, False))


def test_self_attention_guidance_has_the_grid_of_the_feature_map_too():
    pipe = sd(model=new_unet())
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=1.0)
    guidance = SelfAttentionGuidance(layers="d0")
    results = []
    for to in ((4, 6), (5, 7)):
        with deep_shrink(pipe.unet, to):
            plain = run()
            with guidance.attach(pipe):
                results.append(difference(run(), plain))
    assert min(results) > 1e-3


class ToMe:
    """Two tokens, one above the other, are merged for self-attention, and apart again after it.

    The structure of tomesd: a forward pre-hook of the denoiser notes the size of the latents, and
    the class of every transformer block is changed.
    """

    def __init__(self, unet):
        self.unet = unet
        self.size = None

    def __enter__(self):
        self.hook = self.unet.register_forward_pre_hook(self._note)
        self.blocks = [m for m in self.unet.modules() if hasattr(m, "attn1")]
        self.classes = [type(block) for block in self.blocks]
        for block, cls in zip(self.blocks, self.classes, strict=True):
            block.__class__ = self._merging(cls)
            block._tome_info = self
        return self

    def __exit__(self, *_):
        self.hook.remove()
        for block, cls in zip(self.blocks, self.classes, strict=True):
            block.__class__ = cls
            del block._tome_info

    def _note(self, module, args):
        self.size = tuple(args[0].shape[-2:])

    def shape(self, count):
        down = math.ceil(math.sqrt(math.prod(self.size) // count))
        return tuple(math.ceil(side / down) for side in self.size)

    def merge(self, x):
        height, width = self.shape(x.shape[1])
        return x.reshape(len(x), height // 2, 2, width, -1).mean(2).flatten(1, 2)

    def unmerge(self, x, count):
        _, width = self.shape(count)
        rows = x.reshape(len(x), -1, 1, width, x.shape[-1])
        return rows.expand(-1, -1, 2, -1, -1).flatten(1, 3)

    @staticmethod
    def _merging(cls):
        class ToMeBlock(cls):
            def forward(self, hidden_states, *, encoder_hidden_states=None, **_):
                info = self._tome_info
                attended = self.attn1(info.merge(self.norm1(hidden_states)))
                hidden_states = hidden_states + info.unmerge(attended, hidden_states.shape[1])
                hidden_states = hidden_states + self.attn2(
                    self.norm2(hidden_states), encoder_hidden_states=encoder_hidden_states
                )
                return hidden_states + self.ff(self.norm3(hidden_states))

        return ToMeBlock


@contextmanager
def hyper_tile(unet, tile):
    """Attention of every level within tiles of a size, which lie in the batch."""
    with ExitStack() as stack:
        for name in (DOWN, MID, *UP):
            height, width = (6, 4) if name == MID else (12, 8)
            rows, columns = height // tile[0], width // tile[1]
            if not rows or not columns:
                continue

            def tiled(original, x, *args, rows=rows, columns=columns, **kwargs):
                inside = x.reshape(len(x), rows, tile[0], columns, tile[1], -1)
                inside = inside.transpose(2, 3).flatten(0, 2).flatten(1, 2)
                out = original(inside, *args, **kwargs)
                out = out.reshape(len(x), rows, columns, *tile, -1)
                return out.transpose(2, 3).reshape(x.shape)

            stack.enter_context(replaced(unet.get_submodule(name), tiled))
        yield


# A tile of 3 x 8 has as many tokens as the level of 6 x 4.
CHANGES = pytest.mark.parametrize(
    ("change", "layer", "tokens"),
    [
        (ToMe, MID, 12),
        (ToMe, DOWN, 48),
        (lambda unet: hyper_tile(unet, (3, 8)), DOWN, 24),
        (lambda unet: hyper_tile(unet, (6, 4)), UP[1], 24),
        (lambda unet: hyper_tile(unet, (2, 2)), MID, 4),
    ],
    ids=["tome-mid", "tome-down", "tiles-3x8", "tiles-6x4", "tiles-2x2"],
)


def inputs(batch=2):
    return {
        "sample": noise(batch, 4, 12, 8, seed=1),
        "timestep": torch.tensor(500.0),
        "encoder_hidden_states": noise(batch, 5, TEXT_WIDTH, seed=2),
    }


def predicted(unet, **changes):
    given = {**inputs(), **changes}
    with torch.no_grad():
        return unet(given["sample"], given["timestep"], given["encoder_hidden_states"]).sample


def guided(unet, guidance):
    with guidance.attach(unet) as attachment:
        attachment.step(0, 2, conditional_rows=2)
        return predicted(unet)


@contextmanager
def processed(unet, layer, processor):
    module = unet.get_submodule(layer)
    before, module.processor = module.processor, processor
    try:
        yield
    finally:
        module.processor = before


class Identity:
    """Every token attends to itself."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        output = attn.to_v(hidden_states)
        for layer in attn.to_out:
            output = layer(output)
        return output


@contextmanager
def shuffled(unet, layer, guidance):
    block = unet.get_submodule(layer.rpartition(".")[0])

    def shuffle(module, args):
        order = guidance.perturbation.permutation(layer, 0, args[0].shape[1])
        return args[0][:, order], *args[1:]

    hook = block.register_forward_pre_hook(shuffle)
    try:
        yield
    finally:
        hook.remove()


@CHANGES
def test_what_needs_no_grid_is_guided_as_by_brute_force(change, layer, tokens):
    unet = new_unet()
    shuffling = TokenPerturbationGuidance(layers=[layer])
    tempered = BlurredLogits((tokens, 1), 0, temperature=4.0)
    cases = [
        (PerturbedAttentionGuidance(layers=[layer]), processed(unet, layer, Identity())),
        (EntropyRectifyingGuidance(layers=[layer]), processed(unet, layer, tempered)),
        (shuffling, shuffled(unet, layer, shuffling)),
    ]
    untouched = predicted(unet)
    with change(unet):
        clean = predicted(unet)
        assert difference(clean, untouched) > 1e-3
        for guidance, by_hand in cases:
            with by_hand:
                expected = clean + guidance.scale * (clean - predicted(unet))
            error, effect = (
                difference(guided(unet, guidance), expected),
                difference(clean, expected),
            )
            print(f"\n{guidance.method}: error {error:.1e}, effect {effect:.1e}")
            assert error < TOLERANCE
            assert effect > MARGIN * TOLERANCE


@pytest.mark.parametrize(
    "guidance",
    [
        SmoothedEnergyGuidance(blur="gaussian:1"),
        SmoothedEnergyGuidance(),
        SmoothedEnergyGuidance(blur="gaussian:1", on="key"),
        SelfAttentionGuidance(),
    ],
    ids=["blur", "uniform", "keys", "sag"],
)
@CHANGES
def test_what_needs_the_grid_is_an_error_that_says_what_to_do(change, layer, tokens, guidance):
    pipe = sd(model=new_unet())
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0)
    # Layer, number of tokens, cause, and ways out.
    message = (
        rf"{layer} attends with {tokens} tokens, but its feature map is \d+x\d+; .*merges.*PAG"
    )
    with (
        change(pipe.unet),
        replace(guidance, layers=[layer]).attach(pipe),
        pytest.raises(GridError, match=message),
    ):
        run()


def test_other_levels_than_the_tiled_are_guided_as_by_brute_force():
    pipe = sd(model=new_unet())
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0)
    # The middle is smaller than a tile.
    with hyper_tile(pipe.unet, (12, 4)):
        assert_guided_as_by_brute_force(pipe, run, Term({MID: (6, 4)}), cfg(5.0))


def through_windows(unet):
    """The mean of the predictions for windows of 8 x 6, as whole calls of the denoiser."""
    total, seen = torch.zeros(2, 4, 12, 8), torch.zeros(2, 4, 12, 8)
    for top, left in product((0, 4), (0, 2)):
        where = (..., slice(top, top + 8), slice(left, left + 6))
        total[where] += predicted(unet, sample=inputs()["sample"][where])
        seen[where] += 1
    return total / seen


WINDOWS = SlidingWindowGuidance(scale=1.0, window=2 / 3, count=2, masked=False)


class TestPreHooksOfTheDenoiser:
    def test_merged_tokens_in_sliding_windows_equal_brute_force(self):
        unet = new_unet()
        with ToMe(unet):
            clean = predicted(unet)
            expected = 2 * clean - through_windows(unet)
            error, effect = difference(guided(unet, WINDOWS), expected), difference(clean, expected)
        print(f"\nerror {error:.1e}, effect {effect:.1e}")
        assert error < TOLERANCE
        assert effect > MARGIN * TOLERANCE

    @pytest.mark.parametrize("with_kwargs", [False, True])
    def test_they_see_the_arguments_of_every_pass(self, with_kwargs):
        unet = new_unet()
        seen = []
        unet.register_forward_pre_hook(
            lambda _, args, *kwargs: seen.append((tuple(args[0].shape), *kwargs)),
            with_kwargs=with_kwargs,
        )
        guided(unet, WINDOWS)
        more = ({},) if with_kwargs else ()
        assert seen == [((2, 4, 12, 8), *more)] + 4 * [((2, 4, 8, 6), *more)]
        seen.clear()
        pipe = sd(model=unet)
        run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0, num_inference_steps=1)
        with PerturbedAttentionGuidance().attach(pipe):
            run()
        assert [item[0][0] for item in seen] == [2, 1]

    def test_what_they_change_is_changed_once(self):
        unet = new_unet()
        pag = PerturbedAttentionGuidance(layers=[MID])
        unet.register_forward_pre_hook(lambda _, args: (0.5 * args[0], *args[1:]))
        for guidance, by_hand in (
            (WINDOWS, lambda: through_windows(unet)),
            (pag, lambda: predicted(unet)),
        ):
            clean = predicted(unet)
            with ExitStack() as stack:
                if guidance is pag:
                    stack.enter_context(processed(unet, MID, Identity()))
                expected = clean + guidance.scale * (clean - by_hand())
            assert difference(guided(unet, guidance), expected) < TOLERANCE
            assert difference(clean, expected) > 1e-3

    def test_those_of_a_denoiser_inside_of_a_compiled_one_see_every_pass(self):
        unet = new_unet()
        compiled = torch.compile(unet, backend="eager")
        seen = []
        unet.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
        with torch.compiler.set_stance("force_eager"):  # tracing takes long
            guided(compiled, WINDOWS)
        assert seen == [(2, 4, 12, 8)] + 4 * [(2, 4, 8, 6)]

    def test_without_cfg_at_a_step_they_see_the_conditional_rows(self):
        unet = new_unet()
        seen = []
        unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        pipe = sd(model=unet)
        run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0)
        with GuidanceInterval(Steps(0.5, 1)).attach(pipe):
            run()
        assert seen == [2, 1, 2]


def test_transformers_with_merged_tokens_need_no_grid_either():
    case = tiny_pixart.CASES[0]
    pipe = case.pipeline()
    denoiser = pipe.transformer = copy.deepcopy(pipe.transformer)
    layer, image = next(iter(case.images.items()))
    attention = denoiser.get_submodule(layer)
    height, width = image.grid
    calls = []
    hook = denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    run_of(pipe, case, num_inference_steps=1)()
    hook.remove()
    args, kwargs = calls[0]

    def predict():
        with torch.no_grad():
            return denoiser(*args, **kwargs)[0]

    def merged(original, x, *args, **kwargs):
        rows = x.reshape(len(x), height // 2, 2, width, -1)
        out = original(rows.mean(2).flatten(1, 2), *args, **kwargs)
        out = out.reshape(len(x), height // 2, 1, width, -1)
        return out.expand(-1, -1, 2, -1, -1).flatten(1, 3)

    def identity(original, x, *args, **kwargs):
        return Identity()(attention, x)

    with replaced(attention, identity), replaced(attention, merged):
        perturbed = predict()
    with replaced(attention, merged):
        clean = predict()
        expected = clean + 3 * (clean - perturbed)
        with PerturbedAttentionGuidance(layers=[layer]).attach(denoiser) as attachment:
            attachment.step(0, 1, conditional_rows=len(clean))
            # The second half of the channels is a variance.
            error = difference(*(x.chunk(2, dim=1)[0] for x in (predict(), expected)))
        print(f"\nerror {error:.1e}, effect {difference(clean, expected):.1e}")
        assert error < TOLERANCE
        assert difference(clean, expected) > MARGIN * TOLERANCE
        message = rf"{layer} attends with \d+ tokens, but a Pix.*PAG"
        with (
            SmoothedEnergyGuidance(layers=[layer]).attach(pipe),
            pytest.raises(GridError, match=message),
        ):
            run_of(pipe, case, num_inference_steps=1)()
