"""Fixtures of the core's tests."""

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from hypothesis import settings

from small_models import small_pipeline, small_unet

# A test that shares its processor with others takes any time; timing is for benchmarks/.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _one_seed():
    torch.manual_seed(0)


@pytest.fixture
def unet() -> UNet2DConditionModel:
    return small_unet()


@pytest.fixture
def pipe() -> StableDiffusionXLPipeline:
    return small_pipeline()
