import json
import subprocess
import sys

import pytest
import torch

from smoothed_energy import models

LIMIT = 64_000_000
CANNY = models.model_folder("avatars") / "controlnets" / "canny"


def test_importing_models_imports_no_torch():
    code = "import sys, smoothed_energy.models.loading as m; assert 'diffusers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(models.UnknownModelError, match="avatars"):
        models.load("avatar")


def test_no_name_is_no_model():
    with pytest.raises(models.UnknownModelError, match=r"no model '': .*available: avatars"):
        models.load("")


@pytest.mark.parametrize(
    ("index", "named"),
    [
        ({"_class_name": "NoSuchPipeline"}, "'NoSuchPipeline'"),
        ({"_class_name": "UNet2DModel"}, "'UNet2DModel'"),
        ({"_class_name": ["pipeline", "Mine"]}, r"\['pipeline', 'Mine'\]"),
        ({}, "None"),
        ([], "None"),
    ],
    ids=str,
)
@pytest.mark.parametrize("controlnet", [None, CANNY], ids=["alone", "controlled"])
def test_a_pipeline_that_is_not_of_diffusers_is_refused(tmp_path, index, named, controlnet):
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    message = f"_class_name={named} in its model_index.json is not a pipeline .* expected one such"
    with pytest.raises(models.ModelError, match=message) as caught:
        models.load(tmp_path, controlnet=controlnet)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_library_that_a_pipeline_needs_is_named(tmp_path, monkeypatch):
    import diffusers
    from diffusers.utils.dummy_torch_and_librosa_objects import AudioDiffusionPipeline

    # What stands for the pipeline where librosa is not installed.
    monkeypatch.setattr(diffusers, "AudioDiffusionPipeline", AudioDiffusionPipeline)
    monkeypatch.setattr("diffusers.utils.import_utils._librosa_available", False)
    (tmp_path / "model_index.json").write_text('{"_class_name": "AudioDiffusionPipeline"}')
    with pytest.raises(models.ModelError, match="requires the librosa library") as caught:
        models.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(models.ModelError, match=r"model_index\.json"):
        models.load(tmp_path)


def test_a_file_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(models.ModelError, match="expected a folder"):
        models.load(path)


def test_pickled_weights_are_refused_and_named(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"}))
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(models.PickledWeightsError, match=r"diffusion_pytorch_model\.bin") as caught:
        models.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_lone_checkpoint_is_refused_and_named(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(models.PickledWeightsError, match=r"model\.ckpt"):
        models.load(tmp_path)


def test_safetensors_beside_pickled_weights_are_accepted(tmp_path):
    from smoothed_energy.models.locations import check_folder

    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.bin").write_bytes(b"")
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"")
    check_folder(tmp_path)


def test_a_folder_loads_with_the_dtype_that_is_asked_for(tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    pipe = models.load(tmp_path, dtype=torch.bfloat16, device="cpu")
    assert pipe.unet.dtype == torch.bfloat16
    assert models.load(tmp_path, device="cpu").unet.dtype == torch.float32


def test_the_embedded_weights_are_safetensors_and_small():
    folder = models.model_folder("avatars")
    weights = list(folder.rglob("*.safetensors"))
    parts = {"unet", "vae", "text_encoder_2", "canny", "classifier", "reference"}
    assert {p.parent.name for p in weights} == parts
    assert sum(p.stat().st_size for p in weights) <= LIMIT
    assert not [p for p in folder.rglob("*") if p.suffix in {".bin", ".pt", ".ckpt"}]


@pytest.fixture(scope="module")
def avatars():
    return models.load(device="cpu")


def test_the_embedded_model_has_sdxls_classes(avatars):
    assert type(avatars).__name__ == "StableDiffusionXLPipeline"
    assert type(avatars.unet).__name__ == "UNet2DConditionModel"
    assert avatars.text_encoder is None
    assert type(avatars.text_encoder_2).__name__ == "CLIPTextModelWithProjection"
    assert avatars.unet.dtype == avatars.text_encoder_2.dtype == avatars.vae.dtype == torch.float32


def test_plain_diffusers_loads_the_folder_and_draws_the_same(avatars):
    from diffusers import StableDiffusionXLPipeline

    plain = StableDiffusionXLPipeline.from_pretrained(models.model_folder("avatars"))
    drawn = []
    for pipe in (avatars, plain):
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        drawn.append(
            pipe(
                "a red mohawk",
                num_inference_steps=2,
                guidance_scale=3.0,
                generator=generator,
                output_type="pt",
            ).images
        )
    torch.testing.assert_close(*drawn)
    assert drawn[0].shape[1] == 3


def test_the_empty_prompt_is_what_training_dropped_captions_to(avatars):
    embeds, negative, pooled, negative_pooled = avatars.encode_prompt("", device="cpu")
    torch.testing.assert_close(embeds, negative)
    torch.testing.assert_close(pooled, negative_pooled)
    assert embeds.abs().sum() > 0
