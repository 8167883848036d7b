"""SVG of plots: checked, and made part of a page."""

from __future__ import annotations

__all__ = ["check_svg", "page_svg"]

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from .palette import THEME_COLOURS

SHAPES = ("path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "image", "text")
PARTS = ("svg", "g", "defs", "symbol", "use", "tspan", "title", "desc", "style")
PAINTS = ("clipPath", "mask", "marker", "pattern", "linearGradient", "radialGradient", "stop")
ELEMENTS = frozenset({*SHAPES, *PARTS, *PAINTS})
#: The one style sheet that may be in it, matplotlib's; `page.css` has its rules.
STYLE_SHEET = "*{stroke-linejoin: round; stroke-linecap: butt}"
SVG_NAMESPACE = "http://www.w3.org/2000/svg"


def check_svg(svg: str) -> None:
    """Refuse what is no SVG, or one that does more than draw.

    Raises:
        ValueError: If it can't be read, runs code, asks for other files, or has styles for others.
    """
    _parsed(svg)


def page_svg(svg: str, prefix: str, description: str) -> str:
    """An SVG as a part of an HTML page.

    Args:
        svg: The SVG.
        prefix: Put before all of its ids, which would otherwise meet those of other plots.
        description: What it shows.

    Returns:
        An ``<svg>`` element that takes the width it is given and the colours of the theme.

    Raises:
        ValueError: As `check_svg`.
    """
    root = _parsed(svg)
    _drop(root, "style")
    for element in root.iter():
        for name, value in element.attrib.items():
            element.set(name, _in_page(name, value, prefix))
    if "viewBox" not in root.attrib:
        raise ValueError("the SVG has no viewBox; expected one, so that it can be scaled")
    width = root.attrib.pop("width", "")
    root.attrib.pop("height", None)
    natural = re.fullmatch(r"([0-9.]+)(pt|px|)", width)
    if natural:  # no wider than it was drawn
        pixels = float(natural[1]) * (96 / 72 if natural[2] == "pt" else 1)
        root.set("style", f"max-width: {pixels:.0f}px")
    root.set("role", "img")
    root.set("aria-label", description)
    return ElementTree.tostring(root, encoding="unicode")


def _in_page(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name == "href" and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    value = re.sub(r"url\((['\"]?)#", rf"url(\1#{prefix}", value)
    if name in ("style", "fill", "stroke", "stop-color", "color"):
        value = re.sub(
            r"#[0-9a-fA-F]{6}\b", lambda hit: THEME_COLOURS.get(hit[0].lower(), hit[0]), value
        )
    return value


def _parsed(svg: str) -> ElementTree.Element:
    """The root, without namespaces and metadata.

    Raises:
        ValueError: As `check_svg`.
    """
    if "<!ENTITY" in svg:
        raise ValueError("the SVG defines entities; expected one without")
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise ValueError(f"the plot is no SVG: {error}; it starts with {svg[:40]!r}") from None
    _drop(root, f"{{{SVG_NAMESPACE}}}metadata")
    for element in root.iter():
        namespace, _, element.tag = element.tag.lstrip("{").rpartition("}")
        if namespace not in ("", SVG_NAMESPACE) or element.tag not in ELEMENTS:
            raise ValueError(f"the SVG has an element <{element.tag}>, which a plot may not have")
        for name, value in list(element.attrib.items()):
            del element.attrib[name]
            element.set(name.rpartition("}")[2], value)
    if root.tag != "svg":
        raise ValueError(f"the plot is <{root.tag}>; expected <svg>")
    for reason in _reasons_against(root):
        raise ValueError(f"the SVG {reason}")
    return root


def _drop(root: ElementTree.Element, tag: str) -> None:
    for parent in list(root.iter()):
        for child in parent.findall(tag):
            parent.remove(child)


def _reasons_against(root: ElementTree.Element) -> Iterator[str]:
    for element in root.iter():
        sheet = " ".join((element.text or "").split())
        if element.tag == "style" and sheet != STYLE_SHEET:
            yield f"has the style sheet {sheet!r}; expected styles in attributes"
        for name, value in element.attrib.items():
            if name.lower().startswith("on"):
                yield f"has the attribute {name}, which runs code"
            embedded = element.tag == "image" and value.startswith("data:image/png;base64,")
            if name in ("href", "src") and not (value.startswith("#") or embedded):
                yield f"refers to {value[:80]!r}; expected everything inside it"
            if re.search(r"url\((?!['\"]?#)", value) or "@import" in value:
                yield f"refers to {value[:80]!r}; expected everything inside it"
