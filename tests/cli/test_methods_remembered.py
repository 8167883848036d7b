"""A picture remembers the method that it was drawn with, or that it was drawn without one."""

import json

import pytest

from smoothed_energy import guidance_from_dict
from smoothed_energy.cli.resolve import resolve_settings
from smoothed_energy.methods import METHODS

# The interval goes beside a method, and autoguidance needs a second model.
NAMES = [name for name in METHODS if name not in ("interval", "autoguidance")]


def read_back(settings):
    return resolve_settings({}, json.loads(json.dumps(settings.to_dict())))


@pytest.mark.parametrize("method", NAMES)
def test_the_settings_of_every_method_are_read_back(method):
    settings = resolve_settings({"method": method, "prompt": "x"}, {})
    again = read_back(settings.of_image(0, guided=True))
    assert again.is_guided
    assert again.guidance_settings() == settings.guidance_settings()


@pytest.mark.parametrize("method", NAMES)
def test_the_unguided_picture_beside_it_is_read_back_as_one(method):
    settings = resolve_settings({"method": method, "prompt": "x", "compare": True}, {})
    again = read_back(settings.of_image(0, guided=False))
    assert not again.is_guided
    assert guidance_from_dict(again.guidance_settings()).is_off
