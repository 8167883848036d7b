"""The run of ``generate``: draws batch after batch, and writes each at once."""

from __future__ import annotations

__all__ = ["generate"]

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from .comparison import comparison_sheet
from .control import fit_control, open_control, own_size
from .generate_settings import GenerateSettings
from .guidances import attached, check_comparable, check_guidable, guidances_of, images_at_once
from .opening import open_pipeline
from .output import OutputPaths, make_folder, write_images
from .pipeline_call import call_arguments, draw_batch
from .progress import ImageProgress
from .stored import remembered
from .warning_lines import warnings_as_lines

if TYPE_CHECKING:
    from PIL import Image


def generate(settings: GenerateSettings, paths: OutputPaths) -> None:
    """Draw the images of a run, write them, and print where they are.

    Args:
        settings: The settings of the run.
        paths: Where its files are written.

    Raises:
        ValueError: If it cannot be done with these settings, or a file cannot be written.
    """
    guidances = guidances_of(settings)
    check_comparable(settings, guidances)
    picture = open_control(settings)  # a mistake in it should not wait for the model
    pipeline = open_pipeline(settings)
    accepted = frozenset(inspect.signature(pipeline.__call__).parameters)
    arguments = call_arguments(type(pipeline).__name__, accepted, settings)
    if picture is not None:
        edges = fit_control(picture, own_size(pipeline, settings), find_edges=bool(settings.canny))
        arguments |= {"image": edges, "controlnet_conditioning_scale": settings.control_scale}
    modes = sorted({guided for _, guided in paths.images})
    progress = ImageProgress(len(settings.seeds) * len(modes), settings.num_inference_steps)
    images: dict[tuple[int, bool], Image.Image] = {}
    with warnings_as_lines(progress.note):
        check_guidable(pipeline, arguments, guidances, settings)
        make_folder(settings.out)
        if paths.edges is not None:
            write_images({paths.edges: (edges, remembered(settings))})
        with progress as advance:
            for seeds in _batches(settings.seeds, images_at_once(settings, guidances)):
                for guided in modes:
                    with attached(guidances if guided else (), pipeline):
                        drawn = draw_batch(pipeline, accepted, arguments, seeds, advance)
                    batch = {}
                    for seed, image in zip(seeds, drawn, strict=True):
                        images[seed, guided] = image
                        own = settings.of_image(seed, guided=guided)
                        batch[paths.images[seed, guided]] = image, remembered(own)
                    write_images(batch)

    if paths.sheet is None:
        for path in paths.files:
            typer.echo(path)
    else:
        write_images({paths.sheet: (comparison_sheet(settings, images), remembered(settings))})
        typer.echo(paths.sheet)


def _batches(seeds: range, size: int) -> Iterator[range]:
    return (seeds[start : start + size] for start in range(0, len(seeds), size))
