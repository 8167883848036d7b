"""The settings of ``generate``, each with all that the command line knows of it."""

from __future__ import annotations

__all__ = ["CFG_WITHOUT_PROMPT", "DEFAULT_MODEL", "DTYPES", "OPTIONS", "GenerateSettings"]

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from ..settings.text import split_settings
from .followed import is_kept
from .option import ByModel, Option, options_of
from .setting_kinds import (
    FLAG,
    NUMBER,
    NUMBER_OR_TEXT,
    PATH,
    PICTURE,
    SIZE,
    TEXT,
    TEXT_OR_NONE,
    TEXTS,
    integer_from,
)

DEFAULT_MODEL = "avatars"

DTYPES = ("auto", "float32", "float16", "bfloat16")

#: Classifier-free guidance is off without a prompt: there is no condition to strengthen.
CFG_WITHOUT_PROMPT = 1.0

_CFG = ByModel(5.0, avatars=3.0)

_GUIDANCE, _CONTROL, _SAMPLING, _OUTPUT = "Guidance", "Control", "Sampling", "Output"


@dataclass(frozen=True, kw_only=True)
class GenerateSettings:
    """Everything that ``generate`` can be told.

    Each field is an option of the command line, in the order of the help. An image remembers those
    that decide how it looks.

    ``method`` is a text that may have settings without an option of their own; an option that the
    method does not have is None. ``size`` is height and width in pixels, None the model's own.
    ``control`` and ``canny`` are paths of pictures: of edges, or one whose edges are to be found.
    Once it is in the size of what is drawn, the picture's digest takes the place of both.
    """

    prompt: Annotated[
        str,
        Option(
            TEXT,
            "What to draw. Without it the model draws unconditionally.",
            default="",
            is_argument=True,
        ),
    ]
    model: Annotated[
        str,
        Option(
            TEXT,
            "A model of this package, a folder, or an id of the Hugging Face hub.",
            default=DEFAULT_MODEL,
        ),
    ]

    method: Annotated[
        str,
        Option(
            TEXT,
            "What is guided away from; `smoothed-energy methods` lists them. Further settings "
            'follow after semicolons: "pag; adaptive_scale=0.01".',
            default="seg",
            group=_GUIDANCE,
        ),
    ]
    blur: Annotated[
        str | None,
        Option(
            TEXT_OR_NONE,
            "How queries are smoothed: gaussian:SIGMA, gaussian:inf, box:SIZE, ema:DECAY.",
            default=ByModel("gaussian:10", avatars="gaussian:1"),
            group=_GUIDANCE,
            is_of_method=True,
        ),
    ]
    scale: Annotated[
        float | str | None,
        Option(
            NUMBER_OR_TEXT,
            "Guidance scale; 0 is no guidance. linear:3:0 changes it over the steps.",
            default=ByModel(3.0, avatars=0.7),
            group=_GUIDANCE,
            is_of_method=True,
        ),
    ]
    layers: Annotated[
        str | None,
        Option(
            TEXT_OR_NONE,
            "Which self-attention layers: down, mid, up, all, d4, m0.7, u0-u5, ... "
            "`smoothed-energy layers` lists them.",
            default=ByModel("mid", avatars="down,mid"),
            group=_GUIDANCE,
            is_of_method=True,
        ),
    ]
    steps: Annotated[
        str,
        Option(
            TEXT,
            "Which steps are guided: all, begin, mid, end, 0.2:0.7, every:2, ...",
            default=ByModel("begin", avatars="all"),
            group=_GUIDANCE,
            is_of_method=True,
        ),
    ]
    formulation: Annotated[
        str | None,
        Option(
            TEXT_OR_NONE,
            "Which prediction is perturbed: conditional, or unconditional (the paper's "
            "equation 10).",
            default="conditional",
            group=_GUIDANCE,
            is_of_method=True,
        ),
    ]
    stack: Annotated[
        tuple[str, ...],
        Option(
            TEXTS,
            'A further guidance beside it, such as "pag; scale=1; layers=up" or '
            '"interval; steps=sigma:0.3:5". Can be given more than once.',
            default=(),
            group=_GUIDANCE,
        ),
    ]

    control: Annotated[
        str | None,
        Option(
            PICTURE,
            "A picture of edges, white on black, that a ControlNet follows.",
            group=_CONTROL,
            metavar="IMAGE",
        ),
    ]
    canny: Annotated[
        str | None,
        Option(
            PICTURE,
            "A picture whose edges it follows (found with OpenCV: the extra `control`).",
            group=_CONTROL,
            metavar="IMAGE",
            is_remembered=False,
        ),
    ]
    controlnet: Annotated[
        str | None,
        Option(
            TEXT_OR_NONE,
            "The ControlNet: a name, a folder, or a hub id.",
            default=ByModel(None, avatars="canny"),
            group=_CONTROL,
        ),
    ]
    control_scale: Annotated[
        float,
        Option(
            NUMBER,
            "How strictly the edges are followed.",
            default=1.0,
            default_words="1",
            group=_CONTROL,
        ),
    ]

    cfg: Annotated[
        float,
        Option(
            NUMBER,
            "Scale of classifier-free guidance; 1 or 0 is off.",
            default=_CFG,
            default_words=f"{_CFG}; without a prompt {CFG_WITHOUT_PROMPT:g}",
            group=_SAMPLING,
        ),
    ]
    num_inference_steps: Annotated[
        int, Option(integer_from(1), "Denoising steps.", default=30, group=_SAMPLING)
    ]
    negative_prompt: Annotated[
        str, Option(TEXT, "What not to draw; needs --cfg above 1.", default="", group=_SAMPLING)
    ]
    seed: Annotated[
        int,
        Option(
            integer_from(0),
            "Seed of the first image; the next ones count up from it.",
            default=0,
            group=_SAMPLING,
        ),
    ]
    count: Annotated[int, Option(integer_from(1), "How many images.", default=1, group=_SAMPLING)]
    size: Annotated[
        tuple[int, int] | None,
        Option(
            SIZE,
            "Height and width in pixels.",
            default_words="the model's",
            group=_SAMPLING,
            metavar="HxW",
        ),
    ]
    batch_size: Annotated[
        int,
        Option(
            integer_from(1),
            "Images drawn at once; does not change them (adaptive steps: always one).",
            default=ByModel(1, avatars=8),
            group=_SAMPLING,
            is_remembered=False,
        ),
    ]
    dtype: Annotated[str, Option(TEXT, f"{', '.join(DTYPES)}.", default="auto", group=_SAMPLING)]
    device: Annotated[
        str,
        Option(
            TEXT,
            "cpu, cuda, mps, ...",
            default="auto",
            default_words="the best",
            group=_SAMPLING,
            is_remembered=False,
        ),
    ]

    out: Annotated[
        Path,
        Option(
            PATH,
            "Folder for the images.",
            default=Path("out"),
            default_words="",
            group=_OUTPUT,
            is_remembered=False,
        ),
    ]
    compare: Annotated[
        bool,
        Option(
            FLAG,
            "Draw every seed without and with guidance, and both on one sheet.",
            default=False,
            group=_OUTPUT,
            flags=("--compare/--no-compare",),
        ),
    ]
    source: Annotated[
        Path | None,
        Option(
            PATH,
            "Repeat the run that wrote this image or sheet; other options override it.",
            group=_OUTPUT,
            flags=("--from",),
            metavar="IMAGE",
            is_remembered=False,
        ),
    ]
    trust: Annotated[
        bool,
        Option(
            FLAG,
            "Load what the image of --from names: models of the hub, folders.",
            default=False,
            group=_OUTPUT,
            flags=("--trust",),
            is_remembered=False,
        ),
    ]
    overwrite: Annotated[
        bool,
        Option(
            FLAG,
            "Draw images that exist already again, and replace them.",
            default=False,
            group=_OUTPUT,
            flags=("--overwrite",),
            is_remembered=False,
        ),
    ]
    json: Annotated[
        bool,
        Option(
            FLAG,
            "Print each file as a line of JSON.",
            default=False,
            group=_OUTPUT,
            flags=("--json",),
            is_remembered=False,
        ),
    ]

    @property
    def seeds(self) -> range:
        """One seed for each image."""
        return range(self.seed, self.seed + self.count)

    @property
    def is_guided(self) -> bool:
        """Whether any guidance acts."""
        return self.scale != 0 or bool(self.stack)

    @property
    def is_controlled(self) -> bool:
        """Whether a ControlNet takes part."""
        return self.control is not None or self.canny is not None

    def of_image(self, seed: int, *, guided: bool) -> GenerateSettings:
        """The settings that draw one image alone."""
        alone = replace(self, seed=seed, count=1, compare=False)
        if guided:
            return alone
        from ..guidance.result_guidance import ResultGuidance
        from ..methods import METHODS

        plain = replace(alone, scale=0.0, stack=())
        # A scale of 0 turns others off; rules for CFG have none.
        name, _ = split_settings(self.method)
        acts_on_result = name in METHODS and issubclass(METHODS[name], ResultGuidance)
        return replace(plain, method="seg") if acts_on_result else plain

    def guidance_settings(self) -> dict[str, Any]:
        """The settings of the main guidance, as `guidance_from_dict` reads them."""
        name, settings = split_settings(self.method)
        own = {
            option: getattr(self, option)
            for option, known in OPTIONS.items()
            if known.is_of_method and getattr(self, option) is not None
        }
        return {"method": name, **settings, **own}

    def to_dict(self) -> dict[str, Any]:
        """What an image should remember, as JSON values."""
        remembered = {
            name: value
            for name, value in asdict(self).items()
            if OPTIONS[name].is_remembered
            and (self.is_controlled or OPTIONS[name].group != _CONTROL)
            and not (name == "scale" and value is None)
        }
        # The user's path of a picture says nothing about it; its digest does, when it is known.
        if self.is_controlled and not (self.control and is_kept(self.control)):
            remembered["control"] = None
        return remembered


#: What the command line knows of each setting, by its name.
OPTIONS = options_of(GenerateSettings)
