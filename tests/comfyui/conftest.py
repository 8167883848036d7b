"""ComfyUI for these tests: a real checkout where COMFYUI_PATH names one, else the stand-in."""

import os
import sys
from pathlib import Path

import pytest

REAL = os.environ.get("COMFYUI_PATH")

if REAL:
    sys.path.insert(0, REAL)
    # ComfyUI reads the command line and looks for a GPU when it is imported.
    given, sys.argv = sys.argv, sys.argv[:1]
    from comfy.cli_args import args

    args.cpu, sys.argv = True, given
else:
    sys.path.insert(0, str(Path(__file__).parent / "stand_in"))


@pytest.fixture(autouse=True)
def _no_gradients():
    import torch

    with torch.no_grad():
        yield
