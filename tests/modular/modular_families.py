"""Modular pipelines of other families, made of the components of the ordinary ones."""

import functools
import importlib

import torch
from modular_pipelines import is_patched
from tiny_pipelines import MARGIN, TOLERANCE, difference, quiet

STEPS = 2


def blocks_of(path):
    """Blocks by their path in `diffusers.modular_pipelines`: `"flux.modular_blocks_flux.Class"`."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"diffusers.modular_pipelines.{module}"), name)()


def modular(path, ordinary, **components):
    """A modular pipeline of these blocks, with the components of an ordinary pipeline."""
    pipe = quiet(blocks_of(path).init_pipeline())
    for name in pipe._component_specs:
        found = getattr(ordinary, name, None)
        if found is not None and name not in components:
            components[name] = found
    pipe.update_components(**components)
    return pipe


def generate(pipe, arguments):
    """A run of a modular pipeline, always on the same random numbers."""
    torch.manual_seed(7)
    generator = torch.Generator().manual_seed(7)
    return pipe(**{"num_inference_steps": STEPS, **arguments}, generator=generator)


def last_latents(scheduler, run):
    """What the scheduler's last step of a run gave."""
    step, found = scheduler.step, []

    @functools.wraps(step)  # pipelines look at its parameters
    def kept(*args, **kwargs):
        output = step(*args, **kwargs)
        found.append(output[0])
        return output

    scheduler.step = kept
    try:
        run()
    finally:
        del scheduler.step
    return found[-1]


def assert_same(found, expected, plain, pipe, tolerance=TOLERANCE):
    changed, error = difference(plain, expected), difference(found, expected)
    print(f"\nerror {error:.1e}, effect {changed:.1e}")
    assert changed > MARGIN * tolerance, "the guidance does too little for a test"
    assert error < tolerance
    assert not is_patched(pipe.transformer)
