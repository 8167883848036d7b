"""Text of a page: a small part of Markdown, as HTML that can hold nothing else."""

from __future__ import annotations

__all__ = ["inline_html", "literal", "plain_text", "text_html"]

import html
import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

RULES = ["emphasis", "backticks", "link", "escape", "entity", "list"]


def literal(text: str) -> str:
    """A text in which nothing is markup: what comes from elsewhere, such as a prompt."""
    text = re.sub(r"([\\`*_\[\]<>&!#+.)-])", r"\\\1", text)
    return re.sub(r"\s+", " ", text)


def text_html(text: str) -> str:
    """Paragraphs and lists as HTML."""
    return str(_markdown().render(text)).strip()


def inline_html(text: str) -> str:
    """A text of one paragraph as HTML, without a paragraph around it."""
    return str(_markdown().renderInline(text)).strip()


def plain_text(text: str) -> str:
    """A text of one paragraph without its markup."""
    return html.unescape(re.sub(r"<[^>]*>", "", inline_html(text)))


@lru_cache(maxsize=1)
def _markdown() -> MarkdownIt:
    """A parser that knows no HTML; it leaves links alone whose address could run code."""
    from markdown_it import MarkdownIt  # noqa: PLC0415 - `import smoothed_energy.report` stays light

    return MarkdownIt("zero", {"html": False, "typographer": False}).enable(RULES)
