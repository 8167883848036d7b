"""Fixtures of the core's tests."""

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

from small_models import small_pipeline, small_unet


@pytest.fixture(autouse=True)
def _one_seed():
    torch.manual_seed(0)


@pytest.fixture
def unet() -> UNet2DConditionModel:
    return small_unet()


@pytest.fixture
def pipe() -> StableDiffusionXLPipeline:
    return small_pipeline()
