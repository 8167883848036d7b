"""``smoothed-energy generate``: pictures, with and without guidance."""

from __future__ import annotations

__all__ = ["command"]

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import check_output, make_folder, write_images
from .settings import (
    CONTROLNETS,
    DEFAULT_MODEL,
    DEFAULTS,
    DTYPES,
    Settings,
    output_paths,
    parse_size,
    resolve_settings,
)
from .warning_lines import warnings_as_lines

if TYPE_CHECKING:
    from PIL import Image

    from ..guidance.attachable import Attachable


def _default(name: str) -> str:
    """A default as the help tells it, for the embedded model and for others."""
    own, other = DEFAULTS[DEFAULT_MODEL][name], DEFAULTS[""][name]
    if own == other:
        return f"Default: {own}."
    return f"Default: {own} for {DEFAULT_MODEL}, else {other}."


_GUIDANCE, _CONTROL, _SAMPLING, _OUTPUT = "Guidance", "Control", "Sampling", "Output"


def command(
    prompt: Annotated[
        str | None,
        typer.Argument(help="What to draw. Without it the model draws unconditionally."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model of this package, a folder, or an id of the Hugging Face hub. "
            f"Default: {DEFAULT_MODEL}.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="What is guided away from; `smoothed-energy methods` lists them. Further settings "
            'follow after semicolons: "pag; adaptive_scale=0.01". Default: seg.',
            rich_help_panel=_GUIDANCE,
        ),
    ] = None,
    blur: Annotated[
        str | None,
        typer.Option(
            help="How queries are smoothed: gaussian:SIGMA, gaussian:inf, box:SIZE, ema:DECAY. "
            + _default("blur"),
            rich_help_panel=_GUIDANCE,
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            help="Guidance scale; 0 is no guidance. linear:3:0 changes it over the steps. "
            + _default("scale"),
            rich_help_panel=_GUIDANCE,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Which self-attention layers: down, mid, up, all, d4, m0.7, u0-u5, ... "
            "`smoothed-energy layers` lists them. " + _default("layers"),
            rich_help_panel=_GUIDANCE,
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help="Which steps are guided: all, begin, mid, end, 0.2:0.7, every:2, ... "
            + _default("steps"),
            rich_help_panel=_GUIDANCE,
        ),
    ] = None,
    formulation: Annotated[
        str | None,
        typer.Option(
            help="Which prediction is perturbed: conditional, or unconditional (the paper's "
            "equation 10). Default: conditional.",
            rich_help_panel=_GUIDANCE,
        ),
    ] = None,
    stack: Annotated[
        list[str] | None,
        typer.Option(
            help='A further guidance beside it, such as "pag; scale=1; layers=up" or '
            '"interval; steps=sigma:0.3:5". Can be given more than once.',
            rich_help_panel=_GUIDANCE,
        ),
    ] = None,
    control: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGE",
            help="A picture of edges, white on black, that a ControlNet follows.",
            rich_help_panel=_CONTROL,
        ),
    ] = None,
    canny: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGE",
            help="A picture whose edges it follows (found with OpenCV: the extra `control`).",
            rich_help_panel=_CONTROL,
        ),
    ] = None,
    controlnet: Annotated[
        str | None,
        typer.Option(
            help="The ControlNet: a name, a folder, or a hub id. "
            + f"Default: {CONTROLNETS[DEFAULT_MODEL]} for {DEFAULT_MODEL}.",
            rich_help_panel=_CONTROL,
        ),
    ] = None,
    control_scale: Annotated[
        float | None,
        typer.Option(
            help="How strictly the edges are followed. Default: 1.", rich_help_panel=_CONTROL
        ),
    ] = None,
    cfg: Annotated[
        float | None,
        typer.Option(
            help="Scale of classifier-free guidance; 1 or 0 is off. "
            + _default("cfg")[:-1]
            + "; without a prompt 1.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    num_inference_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Denoising steps. " + _default("num_inference_steps"),
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    negative_prompt: Annotated[
        str | None,
        typer.Option(help="What not to draw; needs --cfg above 1.", rich_help_panel=_SAMPLING),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Seed of the first image; the next ones count up from it. Default: 0.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="How many images. Default: 1.", rich_help_panel=_SAMPLING),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Height and width in pixels. Default: the model's.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images drawn at once; does not change them (adaptive steps: always one). "
            + _default("batch_size"),
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(DTYPES)}. Default: auto.", rich_help_panel=_SAMPLING),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, mps, ... Default: the best.", rich_help_panel=_SAMPLING),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the images.", rich_help_panel=_OUTPUT)
    ] = Path("out"),
    compare: Annotated[
        bool | None,
        typer.Option(
            "--compare/--no-compare",
            help="Draw every seed without and with guidance, and both on one sheet.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="IMAGE",
            help="Repeat the run that wrote this image or sheet; other options override it.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace images that exist already.", rich_help_panel=_OUTPUT
        ),
    ] = False,
) -> None:
    """Draw images with smoothed energy guidance, each a PNG that remembers its settings."""
    stored: dict[str, Any] = {}
    if source is not None:
        from ..report.png import read_settings

        stored = read_settings(source)
        stored.pop("made_with", None)
    given = {
        "model": model,
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "method": method,
        "blur": blur,
        "scale": scale,
        "layers": layers,
        "steps": steps,
        "formulation": formulation,
        "stack": stack or None,
        "control": None if control is None else str(control),
        "canny": None if canny is None else str(canny),
        "controlnet": controlnet,
        "control_scale": control_scale,
        "cfg": cfg,
        "num_inference_steps": num_inference_steps,
        "seed": seed,
        "count": count,
        "size": None if size is None else parse_size(size),
        "compare": compare,
        "dtype": dtype,
        "batch_size": batch_size,
        "device": device,
    }
    settings = resolve_settings(given, stored)
    paths = output_paths(settings, out)
    check_output(out, paths.values(), overwrite=overwrite)
    _generate(settings, out, paths)


def _generate(settings: Settings, out: Path, paths: dict[tuple[int, bool] | str, Path]) -> None:
    from .control import fit_control, open_control, own_size
    from .opening import open_pipeline
    from .progress import ImageProgress

    guidances = _guidances(settings)
    if settings.compare and all(guidance.is_off for guidance in guidances):
        raise ValueError(
            f"--compare has nothing to compare: {_off_option(settings)} is no guidance; expected "
            "another value, or a guidance with --stack"
        )
    picture = open_control(settings)  # a mistake in it should not wait for the model
    pipeline = open_pipeline(settings)
    accepted = frozenset(inspect.signature(pipeline.__call__).parameters)
    arguments = _call_arguments(type(pipeline).__name__, accepted, settings)
    if picture is not None:
        edges = fit_control(picture, own_size(pipeline, settings), find_edges=bool(settings.canny))
        arguments |= {"image": edges, "controlnet_conditioning_scale": settings.control_scale}
    modes = sorted({key[1] for key in paths if isinstance(key, tuple)})
    progress = ImageProgress(len(settings.seeds) * len(modes), settings.num_inference_steps)
    images: dict[tuple[int, bool], Image.Image] = {}
    with warnings_as_lines(progress.note):
        _check_guidable(pipeline, arguments, guidances, settings)
        make_folder(out)
        made_with = _versions()
        if "edges" in paths:
            write_images({paths["edges"]: (edges, {**settings.to_dict(), "made_with": made_with})})
        with progress as advance:
            for seeds in _batches(settings.seeds, _batch_size(settings, guidances)):
                for guided in modes:
                    with _attached(guidances if guided else (), pipeline):
                        drawn = _draw(pipeline, accepted, arguments, seeds, advance)
                    batch = {}
                    for seed, image in zip(seeds, drawn, strict=True):
                        images[seed, guided] = image
                        remembered = settings.of_image(seed, guided=guided).to_dict()
                        batch[paths[seed, guided]] = image, {**remembered, "made_with": made_with}
                    write_images(batch)

    if "sheet" in paths:
        sheet = _compare_sheet(settings, images)
        write_images({paths["sheet"]: (sheet, {**settings.to_dict(), "made_with": made_with})})
        typer.echo(paths["sheet"])
    else:
        for path in paths.values():
            typer.echo(path)


def _check_guidable(
    pipeline: Any,
    arguments: Mapping[str, Any],
    guidances: Sequence[Attachable],
    settings: Settings,
) -> None:
    """Refuse guidance that does not fit the pipeline now, and not after the unguided images.

    Raises:
        ValueError: If it does not fit, or the pipeline has guidance of its own.
    """
    from ..integrations.pipeline_facts import refuse_own_guidance

    call = inspect.signature(pipeline.__call__).bind_partial(**arguments)
    call.apply_defaults()
    try:
        refuse_own_guidance(pipeline, call.arguments)
        with _attached(guidances, pipeline):
            pass
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{settings.model} cannot be guided: {error}") from error


def _call_arguments(name: str, accepted: frozenset[str], settings: Settings) -> dict[str, Any]:
    """The arguments of every call of the pipeline, apart from seeds and what depends on them.

    Raises:
        ValueError: If the pipeline has no such argument.
    """
    arguments: dict[str, Any] = {"num_inference_steps": settings.num_inference_steps}
    if "num_frames" in accepted:
        raise ValueError(
            f"{settings.model} is a {name}, which makes videos; this command draws pictures, so "
            "attach the guidance in Python"
        )
    if "prompt" in accepted:
        arguments["prompt"] = settings.prompt
        if settings.negative_prompt:
            arguments["negative_prompt"] = settings.negative_prompt
        if "true_cfg_scale" in accepted:
            # Their guidance_scale is an input of the denoiser; CFG needs a negative prompt, if only
            # an empty one.
            arguments["true_cfg_scale"] = settings.cfg
            arguments["negative_prompt"] = settings.negative_prompt
        else:
            arguments["guidance_scale"] = settings.cfg
    elif settings.prompt:
        raise ValueError(f"{settings.model} is a {name}, which takes no prompt; leave it out")
    elif settings.negative_prompt:
        raise ValueError(
            f"--negative-prompt {settings.negative_prompt}: {settings.model} is a {name}, which "
            "takes no prompt; leave it out"
        )
    elif settings.cfg > 1:
        raise ValueError(
            f"--cfg {settings.cfg:g}: {settings.model} is a {name}, which has no classifier-free "
            "guidance; expected 1 (off), the default"
        )
    if settings.size is not None:
        if not {"height", "width"} <= accepted:
            raise ValueError(f"{settings.model} is a {name}, which has one size; leave --size out")
        arguments["height"], arguments["width"] = settings.size
    for argument in arguments:
        if argument not in accepted:
            raise ValueError(
                f"{settings.model} is a {name}, which has no {argument}; "
                "expected a pipeline from text to images, or from nothing to images"
            )
    return arguments


def _draw(
    pipeline: Any,
    accepted: frozenset[str],
    arguments: dict[str, Any],
    seeds: Sequence[int],
    advance: Callable[[float], None],
) -> list[Image.Image]:
    """One batch of images, one seed each."""
    import torch

    # Noise is drawn on the CPU and for each image by itself, so that a seed means the same picture
    # on every device and in every batch.
    call: dict[str, Any] = dict(arguments)
    call["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    for text in ("prompt", "negative_prompt"):
        if text in call:
            call[text] = [call[text]] * len(seeds)
    if "prompt" not in call:
        call["batch_size"] = len(seeds)

    done = 0.0
    if "callback_on_step_end" in accepted:

        def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> Any:
            nonlocal done
            now = len(seeds) * (step + 1) / max(pipe.num_timesteps, step + 1)
            advance(now - done)
            done = now
            return tensors

        call["callback_on_step_end"] = on_step_end
    drawn: list[Image.Image] = pipeline(**call).images
    advance(len(seeds) - done)
    return drawn


def _batch_size(settings: Settings, guidances: Sequence[Attachable]) -> int:
    """How many images are drawn at once, such that an image does not depend on the others."""
    # Steps that look at predictions look at those of the whole batch.
    if any(guidance.needs_similarity for guidance in guidances):
        return 1
    return settings.batch_size


def _batches(seeds: range, size: int) -> Iterator[range]:
    return (seeds[start : start + size] for start in range(0, len(seeds), size))


def _guidances(settings: Settings) -> tuple[Attachable, ...]:
    """The main guidance and those beside it.

    Raises:
        ValueError: If one is not understood.
    """
    from ..methods import guidance_from_dict, guidance_from_text

    try:
        main = guidance_from_dict(settings.guidance_settings())
    except TypeError as error:
        raise ValueError(f"--method {settings.method}: {error}") from error
    if main.limits_cfg:
        raise ValueError(
            f"--method {settings.method} makes no correction; give it with --stack, and --scale 0 "
            "to use it alone"
        )
    return (main, *map(guidance_from_text, settings.stack))


def _off_option(settings: Settings) -> str:
    """The option that turns the main guidance off."""
    if settings.scale == 0:
        return "--scale 0"
    if settings.blur is not None:
        return f"--blur {settings.blur}"
    return f"--method {settings.method} --scale {settings.scale}"


@contextmanager
def _attached(guidances: Sequence[Attachable], pipeline: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for guidance in guidances:
            stack.enter_context(guidance.attach(pipeline))
        yield


def _compare_sheet(settings: Settings, images: dict[tuple[int, bool], Image.Image]) -> Image.Image:
    from ..report import Series, contact_sheet

    seeds = settings.seeds
    scale = f"{settings.scale:g}" if isinstance(settings.scale, float) else settings.scale
    what = settings.method if settings.blur is None else settings.blur
    detail = f"{what}   scale {scale}"
    if settings.layers is not None:
        detail += f"   layers {settings.layers}"
    detail += f"   steps {settings.steps}"
    if settings.formulation not in ("conditional", None):
        detail += f"   {settings.formulation}"
    detail = "   +   ".join([detail, *settings.stack])
    facts = [settings.model, f"{settings.num_inference_steps} steps"]
    facts.append(f"cfg {settings.cfg:g}" if settings.cfg > 1 else "no cfg")
    if settings.is_controlled:
        followed = Path(settings.control or settings.canny or "").name
        strength = "" if settings.control_scale == 1 else f" at {settings.control_scale:g}"
        facts.append(f"edges of {followed}{strength}")
    if settings.negative_prompt:
        facts.append(f"without “{settings.negative_prompt}”")
    return contact_sheet(
        [
            Series("unguided", [images[seed, False] for seed in seeds]),
            Series("guided", [images[seed, True] for seed in seeds], detail),
        ],
        columns=[f"seed {seed}" for seed in seeds],
        title=f"“{settings.prompt}”" if settings.prompt else "No prompt",
        subtitle="  ·  ".join(facts),
    )


def _versions() -> dict[str, str]:
    import diffusers
    import torch

    from .. import __version__

    return {
        "smoothed-energy": __version__,
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
    }
