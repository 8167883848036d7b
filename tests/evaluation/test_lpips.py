"""LPIPS by the package `lpips`: with it where it imports, and with a stand-in anywhere."""

import importlib
import sys
import types
from typing import ClassVar

import pytest
import torch

import smoothed_energy.evaluation.lpips as module
from smoothed_energy.evaluation.lpips import lpips_alex, lpips_vgg

PICTURES = torch.randint(
    0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
OTHERS = PICTURES.flip(3)


class StandIn(torch.nn.Module):
    """Shows what the package would be called with."""

    opened: ClassVar[list] = []
    seen: ClassVar[list] = []

    def __init__(self, **options):
        super().__init__()
        self.opened.append(options)

    def forward(self, first, second):
        assert not self.training
        self.seen.append((first, second))
        return (first - second).abs().mean((1, 2, 3), keepdim=True)


@pytest.fixture
def stand_in(monkeypatch):
    StandIn.opened.clear()
    StandIn.seen.clear()
    package = types.ModuleType("lpips")
    package.LPIPS = StandIn
    monkeypatch.setitem(sys.modules, "lpips", package)
    return StandIn


@pytest.mark.parametrize(("name", "opener"), [("vgg", lpips_vgg), ("alex", lpips_alex)])
def test_the_network_gets_pictures_from_minus_one_to_one(stand_in, name, opener):
    metric = opener()
    assert stand_in.opened == [{"net": name, "version": "0.1", "verbose": False}]
    ends = torch.zeros_like(PICTURES)
    ends[..., 0] = 255
    ends[..., 1] = 51
    found = metric(ends, OTHERS)
    first, second = stand_in.seen[0]
    assert first.unique().tolist() == pytest.approx([-1, -0.6, 1], abs=1e-6)
    torch.testing.assert_close((second + 1) * 127.5, OTHERS.float(), atol=1e-4, rtol=0)
    assert found.shape == (2,)
    assert found.tolist() == pytest.approx((first - second).abs().mean((1, 2, 3)).tolist())
    assert metric.name == f"lpips-{name}"


@pytest.mark.parametrize(
    "error",
    [ImportError("No module named 'torchvision'"), RuntimeError("operator nms does not exist")],
    ids=["missing", "unfitting"],
)
def test_a_torchvision_that_does_not_import_is_an_error_that_says_what_to_do(monkeypatch, error):
    def fail(name):
        assert name == "lpips"
        raise error

    monkeypatch.setattr(module.importlib, "import_module", fail)
    with pytest.raises(ImportError, match=r"torchvision.*smoothed-energy\[lpips\].*deep-feature"):
        lpips_vgg()


@pytest.mark.parametrize(("name", "opener"), [("vgg", lpips_vgg), ("alex", lpips_alex)])
def test_the_package_itself_with_random_backbones(monkeypatch, name, opener):
    try:
        package = importlib.import_module("lpips")
    except (ImportError, RuntimeError):
        pytest.skip("lpips or its torchvision is not installed")
    network = package.LPIPS(net=name, pnet_rand=True, verbose=False).eval()
    monkeypatch.setattr(package, "LPIPS", lambda **options: network)
    metric = opener()
    assert metric(PICTURES, PICTURES).tolist() == pytest.approx([0, 0], abs=1e-9)
    found = metric(PICTURES, OTHERS)
    # The package scales pictures in [0, 1] itself if it is told to.
    with torch.no_grad():
        expected = network(PICTURES.float() / 255, OTHERS.float() / 255, normalize=True).flatten()
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert min(found) > 1e-6
    assert metric(OTHERS, PICTURES).tolist() == pytest.approx(found.tolist(), rel=1e-5)
