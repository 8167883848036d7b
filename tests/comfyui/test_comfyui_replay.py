"""What comes before the first perturbed layer runs once, where ComfyUI keeps the rows in order."""

import pytest
import torch
from tiny_comfy import noise, prompt, sampled, transformer, unet

from smoothed_energy.integrations.comfyui.guide import guide


def counted(model, run, *paths):
    """How often convolutions inside of modules run, and what a run gives."""
    counts = dict.fromkeys(paths, 0)
    network = model.model.diffusion_model
    hooks = []
    for path in paths:

        def count(module, args, output, path=path):
            counts[path] += 1

        inside = network.get_submodule(path).modules()
        first = next(module for module in inside if isinstance(module, torch.nn.Conv2d))
        hooks.append(first.register_forward_hook(count))
    try:
        return run(), list(counts.values())
    finally:
        for hook in hooks:
            hook.remove()


STEM, AFTER = "input_blocks.3.0", "output_blocks.0.0"


def test_the_stem_of_a_u_net_runs_once():
    model = guide(unet(), "seg; layers=mid")
    _, (stem, after) = counted(unet(), lambda: sampled(model), STEM, AFTER)
    assert (stem, after) == (3, 6)
    # Of two guidances each replays up to its own first edit.
    model = guide(model, "pag; layers=u0")
    counts = counted(unet(), lambda: sampled(model), STEM, AFTER, "output_blocks.1.0")[1]
    assert counts == [3, 6, 9]


def test_nothing_is_replayed_where_rows_are_split(monkeypatch):
    from comfy import samplers

    if hasattr(samplers, "MOST_ROWS"):
        monkeypatch.setattr(samplers, "MOST_ROWS", 2)
    else:
        from comfy import model_management

        free = {False: 1, True: (2**30, 2**30)}
        monkeypatch.setattr(
            model_management,
            "get_free_memory",
            lambda device=None, torch_free_too=False: free[torch_free_too],
        )
    model = guide(unet(), "seg; layers=mid")
    _, (stem,) = counted(unet(), lambda: sampled(model), STEM)
    assert stem == 9


def test_nothing_is_replayed_where_a_branch_has_two_prompts():
    model = guide(unet(), "seg; layers=mid")
    both = [*prompt(1), *prompt(3)]
    _, (stem,) = counted(unet(), lambda: sampled(model, positive=both), STEM)
    assert stem == 6


@pytest.mark.parametrize("inference", [False, True])
def test_replay_changes_nothing(inference, monkeypatch):
    from smoothed_energy.families import Family
    from smoothed_energy.integrations.comfyui.family import ComfyFamily

    assert ComfyFamily.keeps_rows is not Family.keeps_rows
    cases = [(unet(), "seg; layers=mid", {}), (unet(), "slg; layers=u0", {})]
    latents = torch.randn(2, 16, 12, 8, generator=torch.Generator().manual_seed(3))
    texts = {"positive": prompt(1, pooled_output=torch.ones(1, 16))}
    texts["negative"] = prompt(2, pooled_output=torch.ones(1, 16))
    cases.append((transformer("Flux"), "seg; layers=s0", {"latents": latents, **texts}))
    for model, text, settings in cases:
        found = []
        for replays in (True, False):
            if not replays:
                monkeypatch.setattr(ComfyFamily, "keeps_rows", lambda *args: False)
            with torch.inference_mode(inference):
                found.append(sampled(guide(model, text), **settings).clone())
            monkeypatch.undo()
        assert torch.allclose(*found, rtol=1e-4, atol=1e-4)


def test_a_batch_of_other_latents_may_follow():
    model = guide(unet(), "seg; layers=mid")
    shapes = [(2, 12, 8), (1, 16, 12), (2, 12, 8)]
    found = [sampled(model, latents=noise(*shape)) for shape in shapes]
    assert torch.equal(found[0], found[2])
    assert found[1].shape == (1, 4, 16, 12)
