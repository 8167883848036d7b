"""Who drew the styles, and the licence of each, as their packages state them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ALLOWED", "CREDITS", "Credit", "attribution"]

#: Licences under which drawings may be trained on here, and their texts.
ALLOWED: Mapping[str, str] = {
    "CC0 1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
}


@dataclass(frozen=True)
class Credit:
    """The origin of a style.

    Attributes:
        title: The title of the artwork.
        artist: Who made it.
        source: Where it was published.
        licence: Its licence.
    """

    title: str
    artist: str
    source: str
    licence: str = "CC BY 4.0"


_FIGMA = "https://www.figma.com/community/file"

#: The credits of every style, by its DiceBear name.
CREDITS: Mapping[str, Credit] = {
    "personas": Credit(
        "Personas by Draftbit", "Draftbit - draftbit.com", "https://personas.draftbit.com/"
    ),
    "toonHead": Credit("ToonHead", "Johan Melin", f"{_FIGMA}/1589627891082866389"),
    "dylan": Credit(
        "Dylan! The Avatar Generator", "Natalia Spivak", f"{_FIGMA}/1356575240759683500"
    ),
    "micah": Credit("Avatar Illustration System", "Micah Lanier", f"{_FIGMA}/829741575478342595"),
    "bigSmile": Credit("Custom Avatar", "Ashley Seo", f"{_FIGMA}/881358461963645496"),
    "miniavs": Credit("Miniavs - Free Avatar Creator", "Webpixels", f"{_FIGMA}/923211396597067458"),
}


def attribution() -> str:
    """A Markdown table of all styles."""
    lines = ["| style | title | artist | licence |", "|---|---|---|---|"]
    for name, credit in CREDITS.items():
        lines.append(
            f"| `{name}` | [{credit.title}]({credit.source}) | {credit.artist} "
            f"| [{credit.licence}]({ALLOWED[credit.licence]}) |"
        )
    return "\n".join(lines)
