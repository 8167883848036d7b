"""The run of ``generate``: draws batch after batch, and writes each at once."""

from __future__ import annotations

__all__ = ["Drawing", "prepare"]

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .comparison import comparison_sheet
from .control import check_size, fit_control, open_control, own_size
from .failures import telling_memory
from .generate_settings import GenerateSettings
from .guidances import attached, check_comparable, check_guidable, guidances_of, images_at_once
from .opening import open_pipeline
from .output import OutputPaths, drawn_already, make_folder, output_paths, write_images
from .pipeline_call import call_arguments, draw_batch
from .progress import ImageProgress
from .prompt_length import what_is_cut
from .published import with_published
from .resolve import read_options, resolve_settings
from .stored import read_image, read_stored, remembered
from .trust import check_trusted
from .warning_lines import warnings_as_lines

if TYPE_CHECKING:
    from PIL import Image

    from ..guidance import Guidance
    from .followed import Followed

#: An image of a run: its seed, and whether it is guided.
_Key = tuple[int, bool]


def prepare(options: Mapping[str, Any]) -> Drawing:
    """Do all that comes before the first image: read the settings, check them, load the model.

    Args:
        options: The options as Typer read them.

    Raises:
        ValueError: If it can't be done with these options.
    """
    source = options["source"]
    stored = {} if source is None else read_stored(source)
    given = read_options(options)
    settings = resolve_settings(given, stored)
    check_trusted(settings, given, stored)
    settings = with_published(settings, given, stored)
    paths = output_paths(settings)
    guidances = guidances_of(settings)
    check_comparable(settings, guidances)
    picture = open_control(settings)  # a mistake in it should not wait for the model
    with telling_memory(f"loading {settings.model}"):
        pipeline = open_pipeline(settings)
    check_size(pipeline, settings)
    arguments = call_arguments(pipeline, settings)
    followed = None
    if picture is not None:
        followed = fit_control(picture, own_size(pipeline, settings), settings)
        settings = replace(settings, control=followed.digest, canny=None)
        arguments["image"] = followed.picture
        arguments["controlnet_conditioning_scale"] = settings.control_scale
    there = drawn_already(settings, paths)
    return Drawing(settings, paths, guidances, pipeline, arguments, followed, there)


@dataclass(frozen=True)
class Drawing:
    """A run that is ready to draw.

    Args:
        settings: The settings of the run.
        paths: Where its files are written.
        guidances: The guidances of guided images.
        pipeline: What draws.
        arguments: The arguments of all its calls.
        followed: The picture that a ControlNet follows.
        there: The files that an earlier run has written.
    """

    settings: GenerateSettings
    paths: OutputPaths
    guidances: tuple[Guidance, ...]
    pipeline: Any
    arguments: dict[str, Any]
    followed: Followed | None
    there: set[Path]

    def run(self) -> None:
        """Draw the images that are not there, write them, and print where all of them are.

        Raises:
            ValueError: If a guidance doesn't fit the pipeline, or a file cannot be written.
        """
        images = self.paths.images
        missing = [key for key, path in images.items() if path not in self.there]
        progress = ImageProgress(len(images), self.settings.num_inference_steps)
        with warnings_as_lines(progress.note):
            check_guidable(self.pipeline, self.arguments, self.guidances, self.settings)
            texts = self.settings.prompt, self.settings.negative_prompt
            for line in what_is_cut(self.pipeline, *texts):
                progress.note(f"warning: {line}")
            make_folder(self.settings.out)
            for path in filter(self.there.__contains__, self.paths.files):
                self._tell(path, progress)
            edges = self.paths.edges
            if edges is not None and edges not in self.there and self.followed is not None:
                self._write({edges: (self.followed.picture, self.settings)}, progress)
            with progress:
                progress.advance(len(images) - len(missing))
                drawn = dict(self._draw(missing, progress))
            sheet = self.paths.sheet
            if sheet is not None and sheet not in self.there:
                for key in images.keys() - drawn:
                    drawn[key] = read_image(images[key])
                picture = comparison_sheet(self.settings, drawn)
                self._write({sheet: (picture, self.settings)}, progress)

    def _draw(
        self, keys: list[_Key], progress: ImageProgress
    ) -> Iterator[tuple[_Key, Image.Image]]:
        """Draw images and write them, a batch at a time, and give what a sheet needs."""
        size = images_at_once(self.settings, self.guidances)
        missing = {*keys}
        seeds = list(dict.fromkeys(seed for seed, _ in keys))
        for start in range(0, len(seeds), size):
            together = seeds[start : start + size]
            for guided in sorted({guided for _, guided in self.paths.images}):
                batch = [seed for seed in together if (seed, guided) in missing]
                if batch:
                    drawn = self._draw_batch(batch, guided, progress)
                    yield from drawn.items() if self.settings.compare else ()

    def _draw_batch(
        self, seeds: list[int], guided: bool, progress: ImageProgress
    ) -> dict[_Key, Image.Image]:
        prompt = self.settings.prompt
        with (
            attached(self.guidances if guided else (), self.pipeline),
            telling_memory(f"drawing {len(seeds)} at once"),
        ):
            images = draw_batch(self.pipeline, self.arguments, prompt, seeds, progress.advance)
        drawn = {(seed, guided): image for seed, image in zip(seeds, images, strict=True)}
        self._write(
            {
                self.paths.images[key]: (image, self.settings.of_image(key[0], guided=guided))
                for key, image in drawn.items()
            },
            progress,
        )
        return drawn

    def _write(
        self, images: Mapping[Path, tuple[Image.Image, GenerateSettings]], progress: ImageProgress
    ) -> None:
        write_images(
            {path: (image, remembered(settings)) for path, (image, settings) in images.items()},
            control=None if self.followed is None else self.followed.as_text(),
            replace=self.settings.overwrite,
            wrote=lambda path: self._tell(path, progress),
        )

    def _tell(self, path: Path, progress: ImageProgress) -> None:
        """Print where a file is: as JSON, or its path if there is no sheet that shows it."""
        paths = self.paths
        if self.settings.json:
            found: dict[str, Any] = {"path": str(path), "drawn": path not in self.there}
            if path in paths.keys:
                seed, guided = paths.keys[path]
                found |= {"kind": "image", "seed": seed, "guided": guided}
            else:
                found["kind"] = "sheet" if path == paths.sheet else "edges"
            progress.print(json.dumps(found))
        elif paths.sheet in (None, path):
            progress.print(path)
