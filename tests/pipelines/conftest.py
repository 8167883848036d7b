"""Silence about what `diffusers` does inside."""

import warnings

import pytest


@pytest.fixture(autouse=True)
def _without_numpy_deprecations():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy")
        yield
