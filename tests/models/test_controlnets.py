"""ControlNets that come with the embedded models, and others."""

import pytest
from diffusers import StableDiffusionXLControlNetPipeline

from smoothed_energy import models
from smoothed_energy.models import ModelError, UnknownModelError, embedded_controlnets

LIMIT = 16_000_000


def test_avatars_has_one_for_edges():
    assert embedded_controlnets("avatars") == ["canny"]
    pipe = models.load("avatars", controlnet="canny", device="cpu")
    assert isinstance(pipe, StableDiffusionXLControlNetPipeline)
    # The conditions are as large as the pictures.
    edges = pipe.controlnet.config.conditioning_embedding_out_channels
    assert 2 ** (len(edges) - 1) == pipe.vae_scale_factor


def test_the_weights_are_small():
    folder = models.model_folder("avatars") / "controlnets"
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) <= LIMIT


def test_a_folder_is_loaded():
    folder = models.model_folder("avatars") / "controlnets" / "canny"
    pipe = models.load("avatars", controlnet=folder, device="cpu")
    assert isinstance(pipe, StableDiffusionXLControlNetPipeline)


def test_an_unknown_one_lists_what_there_is():
    with pytest.raises(UnknownModelError, match=r"no ControlNet 'depth'.*canny.*a folder"):
        models.load("avatars", controlnet="depth")


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="cannot load"):
        models.load("avatars", controlnet=tmp_path)
