"""The guidances of a run: the one of ``--method`` and those of ``--stack``."""

from __future__ import annotations

__all__ = ["attached", "check_comparable", "check_guidable", "guidances_of", "images_at_once"]

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from .generate_settings import GenerateSettings

if TYPE_CHECKING:
    from ..guidance import Guidance


def guidances_of(settings: GenerateSettings) -> tuple[Guidance, ...]:
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


def check_comparable(settings: GenerateSettings, guidances: Sequence[Guidance]) -> None:
    """Refuse to compare without a guidance that acts.

    Raises:
        ValueError: If there is none.
    """
    if settings.compare and all(guidance.is_off for guidance in guidances):
        raise ValueError(
            f"--compare has nothing to compare: {_off_option(settings)} is no guidance; expected "
            "another value, or a guidance with --stack"
        )


def check_guidable(
    pipeline: Any,
    arguments: Mapping[str, Any],
    guidances: Sequence[Guidance],
    settings: GenerateSettings,
) -> None:
    """Refuse guidance that does not fit the pipeline before the unguided images are drawn.

    Raises:
        ValueError: If it does not fit, or the pipeline has guidance of its own.
    """
    from ..integrations.picture_call import refuse_guided_call

    try:
        refuse_guided_call(pipeline, arguments)
        with attached(guidances, pipeline):
            pass
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{settings.model} cannot be guided: {error}") from error


@contextmanager
def attached(guidances: Sequence[Guidance], pipeline: Any) -> Iterator[None]:
    """A block in which guidances are attached to a pipeline.

    Without any, its runs still are checked to be finite numbers.
    """
    from ..guidance import GuidanceInterval

    with ExitStack() as stack:
        for guidance in guidances or (GuidanceInterval(),):
            stack.enter_context(guidance.attach(pipeline))
        yield


def images_at_once(settings: GenerateSettings, guidances: Sequence[Guidance]) -> int:
    """How many images are drawn at once, such that an image does not depend on the others."""
    # Steps that look at predictions look at those of the whole batch.
    if any(guidance.depends_on_batch for guidance in guidances):
        return 1
    return settings.batch_size


def _off_option(settings: GenerateSettings) -> str:
    """The option that turns the main guidance off."""
    if settings.scale == 0:
        return "--scale 0"
    if settings.blur is not None:
        return f"--blur {settings.blur}"
    return f"--method {settings.method} --scale {settings.scale}"
