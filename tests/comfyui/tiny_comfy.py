"""A tiny model in ComfyUI, with random weights, and runs of its samplers."""

import functools
import importlib
import os
from pathlib import Path

import torch
from comfy import model_patcher, samplers

PACK = Path(__file__).parents[2] / "comfyui"
IS_REAL = bool(os.environ.get("COMFYUI_PATH"))


def of_this_version(*names):
    """Those transformers that this version of ComfyUI has; the stand-in has none of them."""
    known = importlib.import_module("comfy.supported_models") if IS_REAL else None
    return [name for name in names if hasattr(known, name)]


SIGMAS = torch.tensor([14.0, 4.0, 1.0, 0.0])


def _weights(model):
    """Random weights, with attention that is far from uniform."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        fan = weight[0].numel() if weight.ndim > 1 else 1
        std = fan**-0.5 if weight.ndim > 1 else 0.1
        if any(part in name for part in ("to_q", "to_k", "qkv")):
            std *= 1.4
        weight.data = std * torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1 and name.endswith("weight"):  # of a norm
            weight.data += 1
    for name, places in model.named_buffers():
        if name.endswith("pos_embed"):
            places.copy_(torch.randn(places.shape, generator=generator))
    return model.eval()


def _unet_settings():
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "num_res_blocks": [1, 1],
        "transformer_depth": [2, 1],
        "transformer_depth_output": [2, 2, 1, 1],
        "transformer_depth_middle": 1,
        "channel_mult": (1, 2),
        "num_heads": 2,
        "use_spatial_transformer": True,
        "context_dim": 16,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "dtype": torch.float32,
    }


def _real_unet(kind):
    from comfy import model_base, supported_models

    known = supported_models.SD15(_unet_settings())
    known.unet_config = _unet_settings()
    known.set_inference_dtype(torch.float32, None)
    kinds = {"EPS": "EPS", "V_PREDICTION": "V_PREDICTION", "CONST": "FLOW"}
    return model_base.BaseModel(known, model_type=model_base.ModelType[kinds[kind]], device="cpu")


_OF_VIDEO = {
    "in_channels": 8,
    "adm_in_channels": 768,
    "num_classes": "sequential",
    "use_linear_in_transformer": True,
    "use_temporal_attention": True,
    "use_temporal_resblock": True,
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
    "merge_strategy": "learned_with_images",
    "video_kernel_size": [3, 1, 1],
}


@functools.cache
def video_unet():
    """A MODEL: a tiny Stable Video Diffusion, whose frames are the rows of its latents."""
    from comfy import model_base, supported_models

    known = supported_models.SVD_img2vid(_unet_settings() | _OF_VIDEO)
    known.unet_config = _unet_settings() | _OF_VIDEO
    known.set_inference_dtype(torch.float32, None)
    device = torch.device("cpu")
    model = _weights(model_base.SVD_img2vid(known, device="cpu"))
    return model_patcher.ModelPatcher(model, device, device)


def _stand_in_unet(kind):
    from comfy.model_base import BaseModel
    from comfy.unet import UNetModel

    return BaseModel(UNetModel(), kind)


@functools.cache
def unet(kind="EPS"):
    """A MODEL: a tiny U-Net that predicts noise, a velocity or a flow."""
    model = _weights((_real_unet if IS_REAL else _stand_in_unet)(kind))
    device = torch.device("cpu")
    return model_patcher.ModelPatcher(model, device, device)


_TRANSFORMERS = {
    "Flux": {
        "in_channels": 16,
        "out_channels": 16,
        "vec_in_dim": 16,
        "context_in_dim": 16,
        "hidden_size": 32,
        "mlp_ratio": 2.0,
        "num_heads": 2,
        "depth": 2,
        "depth_single_blocks": 2,
        "axes_dim": [4, 6, 6],
        "theta": 10000,
        "patch_size": 2,
        "qkv_bias": True,
        "guidance_embed": False,
        "txt_ids_dims": [],
    },
    "QwenImage": {
        "in_channels": 64,
        "out_channels": 16,
        "num_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 16,
        "axes_dims_rope": (4, 6, 6),
    },
    "WAN21": {
        "patch_size": (1, 2, 2),
        "in_dim": 16,
        "out_dim": 16,
        "dim": 24,
        "ffn_dim": 48,
        "freq_dim": 32,
        "text_dim": 16,
        "num_heads": 2,
        "num_layers": 3,
    },
}
_TRANSFORMERS["ZImage"] = {
    "patch_size": 2,
    "in_channels": 16,
    "dim": 256,  # as many as of the time
    "n_layers": 3,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "multiple_of": 16,
    "qk_norm": True,
    "cap_feat_dim": 16,
    "axes_dims": (32, 48, 48),
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 16,
}
_TRANSFORMERS["SD3"] = {
    "input_size": None,
    "in_channels": 16,
    "depth": 2,  # and as many heads of 64
    "num_blocks": 3,
    "mlp_ratio": 2.0,
    "adm_in_channels": 16,
    "context_size": 16,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 16, "out_features": 128},
    },
    "qk_norm": "rms",
    "x_block_self_attn_layers": [0],
    "num_patches": 256,
    "pos_embed_max_size": 16,
}
_TRANSFORMERS["HiDream"] = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "caption_channels": [16, 16],
    "text_emb_dim": 16,
    "num_routed_experts": 0,
    "axes_dims_rope": (4, 6, 6),
    "max_resolution": (16, 16),
    "llama_layers": [0, 1, 1, 0],
}
_TRANSFORMERS["HunyuanVideo"] = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 16,
    "context_in_dim": 16,
    "hidden_size": 32,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [4, 6, 6],
    "theta": 256,
    "patch_size": [1, 2, 2],
    "qkv_bias": True,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
    "meanflow_sum": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
}
_TRANSFORMERS["LTXV"] = {
    "in_channels": 16,
    "cross_attention_dim": 32,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "caption_channels": 16,
    "num_layers": 3,
}
_TRANSFORMERS["Chroma"] = {
    **_TRANSFORMERS["Flux"],
    "in_channels": 64,
    "out_channels": 64,
    "in_dim": 64,
    "out_dim": 32,
    "hidden_dim": 32,
    "n_layers": 2,
}
_TRANSFORMERS["Flux2"] = {
    **_TRANSFORMERS["Flux"],
    "in_channels": 128,
    "out_channels": 128,
    "vec_in_dim": None,
    "axes_dim": [4, 4, 4, 4],
    "patch_size": 1,
    "qkv_bias": False,
    "txt_ids_dims": [3],
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
}


def _known(name):
    """Those settings of a transformer that this version of ComfyUI has."""
    settings = dict(_TRANSFORMERS[name])
    if name in ("Flux", "Chroma", "HunyuanVideo"):
        folder = "hunyuan_video" if name == "HunyuanVideo" else name.lower()
        module = importlib.import_module(f"comfy.ldm.{folder}.model")
        fields = getattr(module, f"{name}Params").__dataclass_fields__
        settings = {key: value for key, value in settings.items() if key in fields}
    return settings


@functools.cache
def transformer(name):
    """A MODEL: a tiny transformer that predicts a flow."""
    if IS_REAL:
        from comfy import model_base, supported_models

        known = getattr(supported_models, {"WAN21": "WAN21_T2V"}.get(name, name))
        known = known({"hidden_size": 32})
        known.unet_config = {**_known(name), "dtype": torch.float32}
        known.set_inference_dtype(torch.float32, None)
        model = getattr(model_base, {"ZImage": "Lumina2"}.get(name, name))(known, device="cpu")
    else:
        from comfy import transformers
        from comfy.model_base import BaseModel

        classes = {"QwenImage": "QwenImageTransformer2DModel", "WAN21": "WanModel"}
        channels = {} if name == "WAN21" else {"channels": 16}
        model = BaseModel(getattr(transformers, classes.get(name, name))(**channels), "CONST")
    device = torch.device("cpu")
    return model_patcher.ModelPatcher(_weights(model), device, device)


def prompt(seed, tokens=5, **extra):
    """A conditioning of one entry."""
    text = torch.randn(1, tokens, 16, generator=torch.Generator().manual_seed(seed))
    return [[text, extra]]


def noise(batch=2, height=12, width=8):
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(7))


def levels(kind="EPS"):
    """The noise levels of a run: times for a flow."""
    return SIGMAS / (1 + SIGMAS) if kind == "CONST" else SIGMAS


def sampled(model, cfg=4.0, *, sampler="euler", sigmas=None, latents=None, **prompts):
    """The latents of a run."""
    guider = samplers.CFGGuider(model)
    negative = prompts.get("negative", prompt(2))
    guider.set_conds(prompts.get("positive", prompt(1)), negative)
    guider.set_cfg(cfg)
    start = noise() if latents is None else latents
    sigmas = levels() if sigmas is None else sigmas
    sampler = samplers.sampler_object(sampler)
    return guider.sample(start, torch.zeros_like(start), sampler, sigmas, seed=3)
