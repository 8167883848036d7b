"""Token perturbation guidance equals a second pass with tokens shuffled by hooks."""

import contextlib

import pytest
import torch
from tiny_pipelines import (
    DOWN,
    MARGIN,
    MID,
    TOLERANCE,
    difference,
    latents_of,
    new_unet,
    prompts,
    sd,
    size,
)

from smoothed_energy import TokenPerturbationGuidance
from smoothed_energy.methods.tpg import ShuffleTokens


@contextlib.contextmanager
def guided_by_hand(unet, names, scale, seed):
    """Two plain passes, the second with hooks that shuffle; counts the steps by itself."""
    forward = unet.forward
    step = -1

    def shuffle(name):
        def hook(block, args):
            tokens = args[0]
            order = ShuffleTokens(seed).permutation(name, step, tokens.shape[1])
            return (torch.stack([sample[order] for sample in tokens]), *args[1:])

        return hook

    def guided(*args, **kwargs):
        nonlocal step
        step += 1
        kwargs["return_dict"] = False
        clean = forward(*args, **kwargs)[0]
        blocks = {name: unet.get_submodule(name.rpartition(".")[0]) for name in names}
        hooks = [block.register_forward_pre_hook(shuffle(name)) for name, block in blocks.items()]
        shuffled = forward(*args, **kwargs)[0]
        for hook in hooks:
            hook.remove()
        delta = scale * (clean - shuffled).chunk(2)[-1]
        return (clean + torch.cat([delta, delta]),)

    unet.forward = guided
    try:
        yield
    finally:
        del unet.forward


@pytest.mark.parametrize("names", [[DOWN], [MID, DOWN]], ids=["down", "down and mid"])
def test_stable_diffusion(names):
    pipe = sd(model=new_unet())
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=5.0, num_inference_steps=3)
    plain = run()
    with guided_by_hand(pipe.unet, names, 3.0, 5):
        expected = run()
    guidance = TokenPerturbationGuidance(layers=names, seed=5)
    assert guidance.from_json(guidance.to_json()) == guidance
    for replay in (True, False):
        with guidance.attach(pipe, replay=replay):
            assert difference(run(), expected) < TOLERANCE
    assert difference(plain, expected) > MARGIN * TOLERANCE
    torch.manual_seed(0)
    ShuffleTokens(0).permutation("a", 0, 9)
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(0))
    with TokenPerturbationGuidance(layers=names, seed=6).attach(pipe):
        assert difference(run(), expected) > MARGIN * TOLERANCE


def test_a_permutation_is_of_all_tokens_and_its_own_in_every_layer_and_step():
    shuffle = ShuffleTokens(0)
    found = [shuffle.permutation(name, index, 30) for name in "ab" for index in range(3)]
    assert all(sorted(order.tolist()) == list(range(30)) for order in found)
    assert len({tuple(order.tolist()) for order in found}) == 6
    assert torch.equal(found[0], shuffle.permutation("a", 0, 30))


@pytest.mark.parametrize("seed", [-1, 1.5, True, "x", None, float("nan")])
def test_a_seed_is_a_number(seed):
    with pytest.raises(ValueError, match=r"seed=.*integer >= 0"):
        TokenPerturbationGuidance(seed=seed)
