"""Pipelines with additional conditions and weights: guided they equal brute force."""

import pytest
import torch
from brute_force_guidance import Term, brute_force
from diffusers import (
    MultiAdapter,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetPipeline,
    T2IAdapter,
)
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection
from peft import LoraConfig
from tiny_pipelines import (
    ALONE,
    DOWN,
    TEXT_WIDTH,
    TOLERANCE,
    UP,
    assert_guided_as_by_brute_force,
    cfg,
    ddim,
    difference,
    guidance_for,
    latents_of,
    mask,
    mid_grids,
    new_controlnet,
    new_unet,
    new_xl_unet,
    noise,
    picture,
    prompts,
    quiet,
    sd,
    size,
    unet,
    vae,
    xl,
    xl_mid_grids,
    xl_prompts,
    xl_unet,
)
from transformers import CLIPTextConfig, CLIPTextModel

from letters import letter_tokenizer

CFG_CASES = pytest.mark.parametrize(
    ("scale", "branches"), [(1.0, ALONE), (5.0, cfg(5.0))], ids=["without-cfg", "cfg"]
)
BOTH = (True, False)


# ControlNet


@pytest.mark.parametrize(
    ("count", "guess_mode", "scale", "branches"),
    [
        (1, False, 1.0, ALONE),
        (1, False, 5.0, cfg(5.0)),
        (1, True, 1.0, ALONE),
        (1, True, 5.0, cfg(5.0)),
        (2, False, 5.0, cfg(5.0)),
        (2, True, 5.0, cfg(5.0)),
    ],
)
def test_controlnet_equals_brute_force(count, guess_mode, scale, branches):
    nets = [new_controlnet(unet(), seed) for seed in range(count)]
    pipe = sd(StableDiffusionControlNetPipeline, controlnet=nets[0] if count == 1 else nets)
    images = [picture(seed=seed) for seed in range(count)]
    run = latents_of(
        pipe,
        **prompts(),
        **size(),
        image=images[0] if count == 1 else images,
        controlnet_conditioning_scale=0.8 if count == 1 else [0.8, 0.5],
        guidance_scale=scale,
        guess_mode=guess_mode,
    )
    assert_guided_as_by_brute_force(pipe, run, Term(mid_grids()), branches, replay=BOTH)


@pytest.mark.parametrize(
    ("count", "guess_mode", "scale", "branches"),
    [(1, False, 1.0, ALONE), (1, True, 5.0, cfg(5.0)), (2, False, 5.0, cfg(5.0))],
)
def test_controlnet_xl_equals_brute_force(count, guess_mode, scale, branches):
    nets = [new_controlnet(xl_unet(), seed) for seed in range(count)]
    pipe = xl(StableDiffusionXLControlNetPipeline, controlnet=nets[0] if count == 1 else nets)
    images = [picture(seed=seed) for seed in range(count)]
    run = latents_of(
        pipe,
        **xl_prompts(),
        **size(),
        image=images[0] if count == 1 else images,
        controlnet_conditioning_scale=0.8 if count == 1 else [0.8, 0.5],
        guidance_scale=scale,
        guess_mode=guess_mode,
    )
    assert_guided_as_by_brute_force(pipe, run, Term(xl_mid_grids()), branches)


def test_controlnet_img2img_equals_brute_force():
    controlnet = new_controlnet(unet(), 0)
    pipe = sd(StableDiffusionControlNetImg2ImgPipeline, controlnet=controlnet)
    run = latents_of(
        pipe,
        **prompts(),
        **size(),
        image=picture(),
        control_image=picture(seed=1),
        num_inference_steps=4,
        strength=0.5,
        guidance_scale=5.0,
    )
    assert_guided_as_by_brute_force(pipe, run, Term(mid_grids()), cfg(5.0))


def test_controlnet_inpainting_equals_brute_force():
    controlnet = new_controlnet(unet(), 0)
    pipe = sd(StableDiffusionControlNetInpaintPipeline, controlnet=controlnet)
    run = latents_of(
        pipe,
        **prompts(),
        **size(),
        image=picture(),
        mask_image=mask(),
        control_image=picture(seed=1),
        guidance_scale=5.0,
    )
    assert_guided_as_by_brute_force(pipe, run, Term(mid_grids()), cfg(5.0))


# T2I-Adapter


@pytest.mark.parametrize(
    ("layers", "scale", "branches"),
    [
        (mid_grids(), 1.0, ALONE),
        (mid_grids(), 5.0, cfg(5.0)),
        ({DOWN: (12, 8)}, 5.0, cfg(5.0)),
        ({UP[0]: (12, 8)}, 5.0, cfg(5.0)),
    ],
)
def test_t2i_adapter_equals_brute_force(layers, scale, branches):
    torch.manual_seed(0)
    adapter = T2IAdapter(channels=[32, 64], num_res_blocks=1, downscale_factor=8)
    pipe = sd(StableDiffusionAdapterPipeline, adapter=adapter.eval())
    run = latents_of(pipe, **prompts(), **size(), image=picture(), guidance_scale=scale)
    assert_guided_as_by_brute_force(pipe, run, Term(layers), branches, replay=BOTH)


def test_several_t2i_adapters_equal_brute_force():
    torch.manual_seed(0)
    adapters = [
        T2IAdapter(channels=[32, 64], num_res_blocks=1, downscale_factor=8) for _ in range(2)
    ]
    pipe = sd(StableDiffusionAdapterPipeline, adapter=MultiAdapter(adapters).eval())
    run = latents_of(
        pipe,
        **prompts(),
        **size(),
        image=[picture(seed=1), picture(seed=2)],
        adapter_conditioning_scale=[0.5, 0.5],
        guidance_scale=5.0,
    )
    assert_guided_as_by_brute_force(pipe, run, Term(mid_grids()), cfg(5.0))


@CFG_CASES
def test_t2i_adapter_xl_equals_brute_force(scale, branches):
    torch.manual_seed(0)
    adapter = T2IAdapter(
        channels=[32, 64], num_res_blocks=1, downscale_factor=16, adapter_type="full_adapter_xl"
    )
    pipe = xl(StableDiffusionXLAdapterPipeline, adapter=adapter.eval())
    run = latents_of(pipe, **xl_prompts(), **size(), image=picture(), guidance_scale=scale)
    assert_guided_as_by_brute_force(pipe, run, Term(xl_mid_grids()), branches, replay=BOTH)


# IP-Adapter


def with_ip_adapter(model, tokens=4):
    """The U-Net with random weights of an IP-Adapter."""
    torch.manual_seed(3)
    weights = {}
    for index, name in enumerate(model.attn_processors):
        if name.endswith("attn2.processor"):
            block = model.get_submodule(name.removesuffix(".processor"))
            processor = IPAdapterAttnProcessor2_0(block.to_k.out_features, TEXT_WIDTH)
            state = processor.state_dict()
            weights[f"{index}.to_k_ip.weight"] = 4 * state["to_k_ip.0.weight"]
            weights[f"{index}.to_v_ip.weight"] = 4 * state["to_v_ip.0.weight"]
    projection = ImageProjection(TEXT_WIDTH, TEXT_WIDTH, num_image_text_embeds=tokens)
    state = projection.state_dict()
    image = {
        "proj.weight": state["image_embeds.weight"],
        "proj.bias": state["image_embeds.bias"],
        "norm.weight": state["norm.weight"],
        "norm.bias": state["norm.bias"],
    }
    # The keys count attention processors from 1, text attention only.
    numbers = sorted({int(name.split(".")[0]) for name in weights})
    weights = {
        f"{2 * numbers.index(int(name.split('.')[0])) + 1}.{name.split('.', 1)[1]}": value
        for name, value in weights.items()
    }
    model._load_ip_adapter_weights([{"image_proj": image, "ip_adapter": weights}])
    return model.eval()


@CFG_CASES
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_ip_adapter_equals_brute_force(masked, scale, branches):
    pipe = sd(model=with_ip_adapter(new_unet()))
    embeds = noise(1, 1, TEXT_WIDTH, seed=6)
    if scale > 1:
        embeds = torch.cat([torch.zeros_like(embeds), embeds])
    masks = {"ip_adapter_masks": [mask()]} if masked else None

    def run_at(strength):
        pipe.set_ip_adapter_scale(strength)
        return latents_of(
            pipe,
            **prompts(),
            **size(),
            ip_adapter_image_embeds=[embeds],
            cross_attention_kwargs=masks,
            guidance_scale=scale,
        )

    without = run_at(0.0)()
    run = run_at(0.9)
    assert difference(run(), without) > 1e-3
    assert_guided_as_by_brute_force(pipe, run, Term(mid_grids()), branches, replay=BOTH)


def test_ip_adapter_xl_equals_brute_force():
    pipe = xl(model=with_ip_adapter(new_xl_unet()))
    embeds = noise(1, 1, TEXT_WIDTH, seed=6)
    run = latents_of(
        pipe,
        **xl_prompts(2),
        **size(),
        ip_adapter_image_embeds=[torch.cat([torch.zeros_like(embeds), embeds])],
        num_images_per_prompt=2,
        guidance_scale=5.0,
    )
    assert_guided_as_by_brute_force(pipe, run, Term(xl_mid_grids()), cfg(5.0))


# LoRA


def with_lora(model):
    torch.manual_seed(4)
    modules = ["to_q", "to_k", "to_v", "to_out.0"]
    model.add_adapter(LoraConfig(r=4, target_modules=modules, init_lora_weights=False))
    return model.eval()


@pytest.mark.parametrize("strength", [None, 0.5])
def test_lora_equals_brute_force(strength):
    pipe = new_text_pipe(with_lora(new_unet()))
    run = latents_of(
        pipe,
        prompt="a lighthouse",
        **size(),
        guidance_scale=5.0,
        cross_attention_kwargs=None if strength is None else {"scale": strength},
    )
    with_weights = run()
    pipe.unet.disable_adapters()
    assert difference(run(), with_weights) > 1e-2
    pipe.unet.enable_adapters()
    assert_guided_as_by_brute_force(pipe, run, Term(mid_grids()), cfg(5.0), replay=BOTH)


def test_lora_xl_equals_brute_force():
    pipe = xl(model=with_lora(new_xl_unet()))
    run = latents_of(pipe, **xl_prompts(), **size(), guidance_scale=5.0)
    assert_guided_as_by_brute_force(pipe, run, Term(xl_mid_grids()), cfg(5.0))


# Textual inversion


def new_text_pipe(model):
    """Stable Diffusion with a text encoder and a tokenizer of single letters."""
    tokenizer = letter_tokenizer("abcdefghijklmnopqrstuvwxyz")
    words = len(tokenizer)
    torch.manual_seed(5)
    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=TEXT_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )
    return quiet(
        StableDiffusionPipeline(
            vae=vae(),
            unet=model,
            scheduler=ddim(),
            text_encoder=CLIPTextModel(config).eval(),
            tokenizer=tokenizer,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


@pytest.fixture(scope="module")
def text_pipe():
    return new_text_pipe(unet())


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_textual_inversion_equals_brute_force(text_pipe, guidance_scale):
    token = f"<thing{guidance_scale:g}>"
    run = latents_of(text_pipe, prompt=f"a {token} cat", **size(), guidance_scale=guidance_scale)
    unknown = run()
    text_pipe.load_textual_inversion({token: noise(2, TEXT_WIDTH, seed=8)})
    assert difference(run(), unknown) > 1e-3
    branches = ALONE if guidance_scale == 1.0 else cfg(guidance_scale)
    assert_guided_as_by_brute_force(text_pipe, run, Term(mid_grids()), branches)


def test_textual_inversion_loaded_while_attached_equals_brute_force(text_pipe):
    term = Term(mid_grids())
    run = latents_of(text_pipe, prompt=["a <late> cat", "b"], **size(), guidance_scale=5.0)
    with guidance_for(term).attach(text_pipe):
        text_pipe.load_textual_inversion({"<late>": noise(1, TEXT_WIDTH, seed=9)})
        actual = run()
    with brute_force(text_pipe.unet, term, cfg(5.0)):
        assert difference(actual, run()) < TOLERANCE
