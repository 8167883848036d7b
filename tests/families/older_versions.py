"""What older versions of diffusers and transformers lack, and tests that need it."""

import importlib

import diffusers
import pytest
import transformers
from packaging.version import Version

#: With these versions every tiny pipeline can be built, so that nothing may be missing.
COMPLETE = {"diffusers": "0.42", "transformers": "5"}


def are_older():
    """Whether an installed version may lack something."""
    installed = {"diffusers": diffusers.__version__, "transformers": transformers.__version__}
    return any(Version(installed[name]) < Version(at) for name, at in COMPLETE.items())


def tiny_cases(*names):
    """The cases of modules of tiny pipelines; with older versions of those that can be built."""
    found = []
    for name in names:
        try:
            found += importlib.import_module(name).CASES
        except (ImportError, RuntimeError):
            if not are_older():
                raise
    return found


def first_case(name):
    """The first tiny pipeline of a module; skips the test where older versions lack it."""
    found = tiny_cases(name)
    if not found:
        pytest.skip(f"the installed diffusers or transformers lacks what {name} needs")
    return found[0]
