"""What can't be right is refused, with a reason."""

import pytest
import torch
from tiny_comfy import levels, prompt, sampled, unet

from smoothed_energy.families import LayerError
from smoothed_energy.integrations.comfyui.guide import guide, layers_of


class Other(torch.nn.Module):
    pass


def with_object(name, value):
    model = unet().clone()
    model.object_patches[name] = value
    return model


def test_a_model_of_no_known_kind():
    with pytest.raises(RuntimeError, match=r"guidance of a Other is not known .* UNetModel"):
        guide(with_object("diffusion_model", Other()), "seg")


def test_a_model_that_is_compiled():
    wrapped = Other()
    wrapped._orig_mod = unet().model.diffusion_model
    with pytest.raises(RuntimeError, match="is compiled"):
        guide(with_object("diffusion_model", wrapped), "seg")


def test_a_model_that_predicts_something_else():
    with pytest.raises(RuntimeError, match="predicts is not known; expected CONST, EDM"):
        guide(with_object("model_sampling", Other()), "seg")


def test_layers_that_a_model_does_not_have():
    with pytest.raises(LayerError, match=r"'m1' is out of range; .*mid \(m0\)"):
        guide(unet(), "seg; layers=m1")


def test_two_that_can_not_stand_together():
    with pytest.raises(RuntimeError, match="acts on this model already"):
        guide(guide(unet(), "seg"), "seg")
    with pytest.raises(RuntimeError, match="apg and tcfg each compute the sum"):
        guide(guide(unet(), "apg"), "tcfg")
    with pytest.raises(RuntimeError, match="second model"):
        guide(unet(), {"method": "autoguidance", "weak": Other()})


def test_another_node_that_predicts_itself():
    model = unet().clone()
    model.set_model_sampler_calc_cond_batch_function(lambda asked: None)
    with pytest.raises(RuntimeError, match="predicts in place of ComfyUI"):
        guide(model, "seg")
    # Put there after the guidance, it is found when a run begins.
    later = guide(unet(), "seg").clone()
    later.set_model_sampler_calc_cond_batch_function(lambda asked: None)
    with pytest.raises(RuntimeError, match="predicts in place of ComfyUI"):
        sampled(later)


@pytest.mark.parametrize("kind", ["diffusion_model", "outer_sample", "predict_noise"])
def test_a_cache_that_wraps_the_model(kind):
    model = guide(unet(), "seg")
    model.add_wrapper_with_key(kind, "easycache", lambda executor, *args: executor(*args))
    with pytest.raises(RuntimeError, match=r"a cache \(easycache\) gives the results of one pass"):
        sampled(model)


def test_a_model_that_other_nodes_compile():
    model = guide(unet(), "seg")
    model.add_wrapper_with_key("apply_model", "torch.compile", lambda executor, *args: None)
    with pytest.raises(RuntimeError, match="it is compiled"):
        sampled(model)


class TeaCache:
    def __call__(self, function, asked):
        return function(asked["input"], asked["timestep"], **asked["c"])


def test_a_cache_in_place_of_the_model_s_function():
    model = guide(unet(), "seg")
    model.set_model_unet_function_wrapper(TeaCache())
    with pytest.raises(RuntimeError, match="TeaCache"):
        sampled(model)


def test_a_layer_that_another_node_replaces():
    model = unet().clone()
    model.set_model_attn1_replace(lambda q, k, v, extra: v, "middle", 0)
    guided = guide(model, "seg; layers=mid")
    with pytest.raises(RuntimeError, match=r"diffusion_model\.middle_block\.1.* was not reached"):
        sampled(guided)
    sampled(guide(model, "seg; layers=u0"))


def rescaled(asked):
    return asked["uncond"] + asked["cond_scale"] * (asked["cond"] - asked["uncond"])


def test_two_nodes_that_take_the_place_of_cfg():
    model = guide(unet(), "apg")
    model.set_model_sampler_cfg_function(rescaled)
    with pytest.raises(RuntimeError, match=r"apg takes the place .*rescaled of another node"):
        sampled(model)
    # What is added to the sum does not mind.
    beside = guide(unet(), "pag")
    beside.set_model_sampler_cfg_function(rescaled)
    same = sampled(guide(unet(), "pag"))
    assert torch.allclose(sampled(beside), same, rtol=1e-3, atol=1e-3)


def test_a_guider_that_predicts_in_a_way_of_its_own():
    from comfy import samplers

    class PerpNeg(samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options, seed=None):
            conds = [self.conds["positive"], self.conds["negative"], None]
            found = samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
            asked = {"denoised": found[0], "input": x, "model_options": model_options}
            for function in model_options.get("sampler_post_cfg_function", []):
                asked["denoised"] = function(asked)
            return asked["denoised"]

    class Alone(PerpNeg):
        def predict_noise(self, x, timestep, model_options, seed=None):
            return 0.5 * x

    for kind, reason in ((PerpNeg, "PerpNeg and DualCFG"), (Alone, "no step of this run")):
        guider = kind(guide(unet(), "seg"))
        guider.set_conds(prompt(1), prompt(2))
        start = torch.zeros(1, 4, 12, 8)
        with pytest.raises(RuntimeError, match=reason):
            guider.sample(start + 1, start, samplers.sampler_object("euler"), levels(), seed=3)


def test_predictions_outside_of_a_run():
    model = guide(unet(), "seg")
    asked = {"model_options": model.model_options}
    with pytest.raises(RuntimeError, match="outside of a run"):
        model.model_options["sampler_calc_cond_batch_function"](asked)


def test_attention_guidance_for_several_prompts():
    both = [*prompt(1), *prompt(3)]
    for text, conds in (
        ("sag; steps=0.1:1", {"negative": both}),
        ("sag; steps=0.1:1; formulation=conditional", {"positive": both}),
    ):
        with pytest.raises(RuntimeError, match=r"looks at one prompt for each branch, .* 2"):
            sampled(guide(unet(), text), **conds)
    # The other branch may have as many as it likes.
    assert sampled(guide(unet(), "sag; steps=0.1:1"), positive=both).isfinite().all()


def test_windows_of_what_is_tied_to_its_size():
    with pytest.raises(ValueError, match="can't cut area into windows"):
        sampled(guide(unet(), "swg"), positive=prompt(1, area=(12, 4, 0, 0)))


def test_the_layers_of_a_model_have_the_codes_of_diffusers():
    layers = layers_of(unet())
    codes = [layer.code for layer in layers]
    assert codes[:4] == ["d0", "d1", "d2", "m0"]
    assert codes[4:] == [f"u{number}" for number in range(len(codes) - 4)]
    assert [layer.dotted for layer in layers[:3]] == ["d0.0", "d0.1", "d1.0"]
    assert {layer.heads for layer in layers} == {2}
    assert layers[0].name == "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1"
