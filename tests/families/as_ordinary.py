"""Modular pipelines that are called as ordinary ones are, and guided as each is."""

import functools
from contextlib import contextmanager

from diffusers.guiders import ClassifierFreeGuidance
from tiny_pipelines import quiet

from smoothed_energy.modular import SmoothedEnergyGuider


@functools.cache
def _called(cls, output):
    class AsOrdinary(cls):
        def __call__(
            self, *, num_inference_steps=None, output_type="latent", guidance_scale=None, **given
        ):
            if guidance_scale is not None:
                self.guider.guidance_scale = guidance_scale
            latents = super().__call__(
                num_inference_steps=num_inference_steps, output=output, **given
            )
            return (latents,)

    AsOrdinary.__name__ = cls.__name__
    return AsOrdinary


def as_ordinary(blocks, *, output="latents", **components):
    """The modular pipeline of these blocks, which is called as an ordinary one.

    Where it has a guider, its call takes the scale of CFG.
    """
    pipe = quiet(blocks.init_pipeline())
    object.__setattr__(pipe, "__class__", _called(type(pipe), output))
    if "guider" in pipe._component_specs:
        components = {"guider": ClassifierFreeGuidance(), **components}
    pipe.update_components(**components)
    return pipe


@contextmanager
def guided_by(guidance, pipe):
    """A block in which a pipeline is guided: by its guider, or attached to if it has none."""
    if "guider" not in getattr(pipe, "_component_specs", ()):
        with guidance.attach(pipe):
            yield
        return
    before, guider = pipe.guider, SmoothedEnergyGuider(guidance)
    guider.scheduler = pipe.scheduler
    pipe.update_components(guider=guider)
    try:
        yield
    finally:
        pipe.update_components(guider=before)
