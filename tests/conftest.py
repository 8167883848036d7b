"""Fixtures of the core's tests."""

import importlib.util
import sys

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from hypothesis import settings
from older_versions import are_older

import smoothed_energy.evaluation.metric as metric
import smoothed_energy.evaluation.picture_metric as picture_metric
import smoothed_energy.families.registry as family_registry
import smoothed_energy.guidance.softmax as softmax
import smoothed_energy.methods.registry as method_registry
from small_models import small_pipeline, small_unet

pytest_plugins = ["browser_pages"]

# A test that shares its processor with others takes any time; timing is for benchmarks/.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Skips files of families that older versions of diffusers or transformers lack."""
    report = yield
    if report.failed and isinstance(collector, pytest.Module) and are_older():
        said = str(report.longrepr)
        if "from 'diffusers'" in said or "Failed to import diffusers." in said:
            last = said.strip().splitlines()[-1].removeprefix("E").strip()
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 0, f"Skipped: {last}")
    return report


@pytest.fixture(autouse=True)
def _one_seed():
    torch.manual_seed(0)


@pytest.fixture
def unet() -> UNet2DConditionModel:
    return small_unet()


@pytest.fixture
def pipe() -> StableDiffusionXLPipeline:
    return small_pipeline()


@pytest.fixture
def registries():
    """What a test registers is forgotten after it."""
    kept = (
        method_registry._methods,
        family_registry._families,
        metric._metrics,
        picture_metric._registered,
    )
    before = [dict(registry) for registry in kept]
    softmax_free = list(softmax.softmax_free)
    yield
    for registry, entries in zip(kept, before, strict=True):
        registry.clear()
        registry.update(entries)
    softmax.softmax_free[:] = softmax_free


@pytest.fixture
def own_file(registries, tmp_path, monkeypatch):
    """Writes one file of Python, as a user would, imports it and returns the module."""

    def import_file(source, name="own_file"):
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return import_file
