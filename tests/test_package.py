"""The package's public face."""

import importlib
import subprocess
import sys

import pytest

import smoothed_energy


@pytest.mark.parametrize("name", smoothed_energy.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(smoothed_energy, name).__doc__
    assert name in dir(smoothed_energy)


@pytest.mark.parametrize(
    "path", ["combination", "layers", "modular", "perturbation", "places", "scales", "steps"]
)
def test_older_paths_give_the_objects_of_the_new_ones(path):
    module = importlib.import_module(f"smoothed_energy.{path}")
    assert module.__all__
    for name in module.__all__:
        found = getattr(module, name)
        home = getattr(found, "__module__", None)
        if home is not None and home.startswith("smoothed_energy.") and path != "modular":
            assert home != module.__name__
            known_as = getattr(found, "__name__", name)
            assert getattr(importlib.import_module(home), known_as) is found


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'SmoothEnergyGuidance'"):
        smoothed_energy.SmoothEnergyGuidance


def test_importing_the_package_and_its_guidance_imports_no_pipelines():
    code = (
        "import sys, smoothed_energy; from smoothed_energy import SmoothedEnergyGuidance; "
        "print([m for m in ('transformers', 'diffusers', 'matplotlib', 'gradio', 'ray')"
        " if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
