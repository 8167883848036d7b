"""Modular pipelines that are called as ordinary ones are."""

import functools

from tiny_pipelines import quiet


@functools.cache
def _called(cls):
    class AsOrdinary(cls):
        def __call__(self, *, num_inference_steps=None, output_type="latent", **arguments):
            latents = super().__call__(
                num_inference_steps=num_inference_steps, output="latents", **arguments
            )
            return (latents,)

    AsOrdinary.__name__ = cls.__name__
    return AsOrdinary


def as_ordinary(blocks, **components):
    """The modular pipeline of these blocks, which is called as an ordinary one."""
    pipe = quiet(blocks.init_pipeline())
    object.__setattr__(pipe, "__class__", _called(type(pipe)))
    pipe.update_components(**components)
    return pipe
