"""Pages written into one HTML file that needs nothing else."""

from __future__ import annotations

__all__ = ["PICTURE_LIMIT", "render_page", "write_page"]

import base64
import hashlib
import itertools
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...files import whole_file
from ...settings.checks import check_count
from .document import Page, Provenance, Section
from .text import inline_html, plain_text, text_html
from .verdict import VERDICTS, Verdict
from .view import BlockViews, View

if TYPE_CHECKING:
    from jinja2 import Environment

PICTURE_LIMIT = 768
STYLES = ("page.css", "blocks.css", "viewer.css", "print.css")
#: What runs before anything is shown, and what runs when everything is there.
SCRIPTS = {
    "first": ("theme.js",),
    "last": ("page.js", "tables.js", "viewer.js", "grids.js"),
}


def write_page(page: Page, path: Path | str, *, picture_limit: int = PICTURE_LIMIT) -> None:
    """Write a page into one HTML file, which asks for no other.

    The same page gives the same bytes, with the same versions of Pillow. A file that is half
    written is never left behind.

    Args:
        page: The page.
        path: The file; its folder is made if it is missing.
        picture_limit: Pixels of the longest side that larger pictures are reduced to. The page says
            of each how large it was.

    Raises:
        ImportError: If Jinja2 is not there.
        OSError: If it cannot be written; what was there before stays.
        ValueError: If a picture is not there or can't be read.
    """
    path = Path(path)
    text = render_page(page, picture_limit=picture_limit)
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))


def render_page(page: Page, *, picture_limit: int = PICTURE_LIMIT) -> str:
    """A page as the text of its HTML file.

    Raises:
        ImportError: If Jinja2 is not there.
        ValueError: If a picture is not there or can't be read.
    """
    environment = _environment()
    from markupsafe import Markup  # noqa: PLC0415 - comes with Jinja2

    views = BlockViews(check_count("picture_limit", picture_limit))
    sections = [
        {**vars(section), "blocks": [views.view(block) for block in section.blocks]}
        for section in page.sections
    ]
    parts = [
        {"name": name, "sections": list(members)}
        for name, members in itertools.groupby(sections, key=lambda section: section["part"])
    ]
    scripts = {name: _script(files) for name, files in SCRIPTS.items()}
    # Nothing is fetched, and no script runs but ours, whatever is in a text.
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {' '.join(map(_digest, scripts.values()))}; base-uri 'none'; "
        "form-action 'none'"
    )
    text: str = environment.get_template("page.html").render(
        page=page,
        parts=parts,
        verdicts=_overview(page.sections),
        provenance=_provenance(page.provenance),
        pictures=views.pictures,
        grids=views.grids,
        policy=policy,
        style=Markup("\n" + "".join(map(_asset, STYLES))),
        scripts={name: Markup(script) for name, script in scripts.items()},
    )
    return text


@lru_cache(maxsize=1)
def _environment() -> Environment:
    try:
        import jinja2  # noqa: PLC0415 - an extra
        from markupsafe import Markup  # noqa: PLC0415 - comes with it
    except ImportError as error:
        raise ImportError(
            "pages need Jinja2, which is not installed; "
            "expected `pip install 'smoothed-energy[measure]'`"
        ) from error
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FunctionLoader(_asset),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["text"] = lambda text: Markup(text_html(text))
    environment.filters["inline"] = lambda text: Markup(inline_html(text))
    environment.filters["plain"] = plain_text
    return environment


def _script(files: tuple[str, ...]) -> str:
    return '(() => {\n"use strict";\n' + "".join(map(_asset, files)) + "})();\n"


def _digest(script: str) -> str:
    """How a content security policy names an inline script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _overview(sections: tuple[Section, ...] | Any) -> View | None:
    """All verdicts of a page with the places of their sections, and how many there are of each."""
    found = [
        {"anchor": section.anchor, **vars(block)}
        for section in sections
        for block in section.blocks
        if isinstance(block, Verdict)
    ]
    if not found:
        return None
    counts = {word: sum(item["verdict"] == word for item in found) for word in VERDICTS}
    words = {"holds": "hold", "does not hold": "do not hold"}
    tally = [
        (word if count == 1 else words.get(word, word), count)
        for word, count in counts.items()
        if count
    ]
    return {"all": found, "tally": tally}


def _provenance(provenance: Provenance) -> list[tuple[str, Mapping[str, str]]] | None:
    """The lists of a provenance that have entries; None if there is nothing to show."""
    lists = [
        ("Settings", provenance.settings),
        ("Hardware", provenance.hardware),
        ("Versions", provenance.versions),
        ("Hashes", provenance.hashes),
    ]
    shown = [(name, entries) for name, entries in lists if entries]
    return shown if shown or provenance.command or provenance.date else None
