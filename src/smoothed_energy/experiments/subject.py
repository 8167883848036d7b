"""What experiments are made on: a model, with the settings of the papers or their like for it."""

from __future__ import annotations

__all__ = ["AVATARS", "SDXL", "SUBJECTS", "Subject", "subject_of"]

from dataclasses import dataclass, replace
from pathlib import Path

from ..files import read_text
from ..models import model_folder


@dataclass(frozen=True)
class Subject:
    """A model and the settings that experiments use for it.

    Args:
        name: The model: a name of this package, a folder, or an id of the hub.
        title: What pages call it.
        features: The extractor of set distances.
        num_inference_steps: Denoising steps.
        size: Height and width in pixels; None is the model's own.
        scheduler: The class of the scheduler; None is the model's own.
        sag_scheduler: That of self-attention guidance, where a paper uses another.
        cfg: A scale of classifier-free guidance that is usual for it.
        cfg_scales: Scales of it to sweep.
        scales: The grid of guidance scales of which the best is chosen.
        paper_scale: The scale of the SEG paper, and of PAG in it.
        mild_scale: A scale at which pictures of this model are not spoiled.
        sigmas: Blurs, as texts.
        kernels: Sizes of truncated Gaussian blurs that its middle layers tell apart; the last one
            is full.
        box_kernels: Sizes of box blurs.
        grid: Height and width of the tokens in the middle layers.
        layers: The layers of the paper.
        prompts: Prompts for pictures.
        captions: A file of captions for tables, one a line.
        reference: A folder of real pictures, or a file of `write_reference`.
        square: The side of the middle squares that pictures of a folder are cut to; None takes them
            as they are.
        attributes: Whether a classifier can tell what its pictures show.
        controlnet: A ControlNet for it.
        picture_seeds: Seeds of pictures that are looked at; the [Re] study's for SDXL.
    """

    name: str
    title: str
    features: str
    num_inference_steps: int
    size: tuple[int, int] | None
    scheduler: str | None
    sag_scheduler: str | None
    cfg: float
    cfg_scales: tuple[float, ...]
    scales: tuple[float, ...]
    paper_scale: float
    mild_scale: float
    sigmas: tuple[str, ...]
    kernels: tuple[int, ...]
    box_kernels: tuple[int, ...]
    grid: tuple[int, int]
    layers: str
    prompts: tuple[str, ...]
    captions: Path | None
    reference: Path | None
    square: int | None
    attributes: bool
    controlnet: str | None
    picture_seeds: tuple[int, ...]

    @property
    def stem(self) -> str:
        """Its name as part of a file's name."""
        return self.name.rsplit("/", 1)[-1]

    def read_captions(self, count: int) -> list[str]:
        """The first captions of its file, from the start again if there are not enough.

        Raises:
            ValueError: If it has no captions.
        """
        if self.captions is None:
            raise ValueError(
                f"experiments with prompts need captions for {self.name}; expected --captions "
                "FILE, a text file with one caption a line (the papers use those of MS-COCO 2014)"
            )
        lines = read_text(self.captions, most=256 * 2**20).splitlines()
        captions = [line.strip() for line in lines if line.strip()]
        if not captions:
            raise ValueError(f"{self.captions} has no captions; expected one a line")
        return [captions[index % len(captions)] for index in range(count)]


def _embedded(*parts: str) -> Path:
    return Path(model_folder("avatars")).joinpath("reference", *parts)


#: The embedded model, on which everything runs with no network and no GPU.
AVATARS = Subject(
    name="avatars",
    title="the embedded model, avatars",
    features="efficientnet-lite0",
    num_inference_steps=15,
    size=None,
    scheduler=None,
    sag_scheduler=None,
    cfg=3.0,
    cfg_scales=(1.0, 2.0, 3.0, 5.0),
    scales=(0.3, 0.7, 1.0, 2.0, 3.0),
    paper_scale=3.0,
    mild_scale=0.7,
    sigmas=("gaussian:1", "gaussian:2", "gaussian:5", "gaussian:10", "gaussian:inf"),
    kernels=(3, 7, 11, 13),
    box_kernels=(3, 5, 7, 13),
    grid=(12, 12),
    layers="mid",
    prompts=(
        "a personas portrait of someone with a red mohawk and sunglasses, on a yellow background",
        "a toon portrait of someone with spiky green hair wearing a red t-shirt, "
        "on a purple background",
        "a dylan portrait of someone with long curly pink hair and a confused face, "
        "on a teal background",
    ),
    captions=_embedded("captions.txt"),
    reference=_embedded("drawings.safetensors"),
    square=None,
    attributes=True,
    controlnet="canny",
    picture_seeds=(0, 1, 2),
)

#: The papers' model and settings: 30 Euler steps, 1024 x 1024, kernels on 32 x 32 tokens.
SDXL = Subject(
    name="stabilityai/stable-diffusion-xl-base-1.0",
    title="Stable Diffusion XL",
    features="inception",
    num_inference_steps=30,
    size=(1024, 1024),
    scheduler="EulerDiscreteScheduler",
    sag_scheduler="DDIMScheduler",
    cfg=5.0,
    cfg_scales=(1.0, 3.0, 5.0, 7.5),
    scales=(1.0, 2.0, 3.0, 4.0, 5.0),
    paper_scale=3.0,
    mild_scale=3.0,
    sigmas=("gaussian:1", "gaussian:2", "gaussian:5", "gaussian:10", "gaussian:inf"),
    kernels=(3, 17, 31, 33),
    box_kernels=(5, 17, 31, 61),
    grid=(32, 32),
    layers="mid",
    prompts=(
        "a corgi with the head of a cat",
        "a lighthouse on a cliff at dusk, oil painting",
        "a bowl of fruit beside a window",
    ),
    captions=None,
    reference=None,
    # Pictures of MS-COCO are some 640 x 480, of either orientation.
    square=480,
    attributes=False,
    controlnet="diffusers/controlnet-canny-sdxl-1.0",
    picture_seeds=(77, 5867991739709137916, 53647657),
)

#: The subjects by the names of their models.
SUBJECTS = {subject.name: subject for subject in (AVATARS, SDXL)}


def subject_of(
    model: str,
    *,
    reference: Path | None = None,
    captions: Path | None = None,
    square: int | None = None,
) -> Subject:
    """The subject for a model.

    A model without settings of its own has the scales and kernels of SDXL, and the scheduler and
    size that it comes with; experiments with a ControlNet are not for it.

    Args:
        model: A name of this package, a folder, or an id of the hub.
        reference: A folder of real pictures, in place of its own.
        captions: A file of captions, in place of its own.
        square: The side of middle squares of the reference, in place of its own.
    """
    found = SUBJECTS.get(model)
    if found is None:
        found = replace(
            SDXL,
            name=model,
            title=model,
            size=None,
            scheduler=None,
            sag_scheduler=None,
            controlnet=None,
        )
    return replace(
        found,
        reference=reference or found.reference,
        captions=captions or found.captions,
        square=square or found.square,
    )
