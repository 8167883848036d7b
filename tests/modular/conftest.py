"""Silence about guiders being experimental, and the check that nothing stays behind."""

import diffusers
import pytest
from modular_pipelines import is_patched
from tiny_pipelines import xl_unet
from tiny_sd3 import transformer


@pytest.fixture(autouse=True)
def _without_notes_about_guiders():
    before = diffusers.logging.get_verbosity()
    diffusers.logging.set_verbosity_error()
    yield
    diffusers.logging.set_verbosity(before)


@pytest.fixture(autouse=True)
def _nothing_stays_patched():
    yield
    assert not is_patched(xl_unet())
    assert not is_patched(transformer())
