"""Markdown of a report as the HTML of its page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

from pages.page import Heading, is_numeric, slug

# HTML of an image, from its address and its alternative text.
Draw = Callable[[str, str], str]
# Address that a link of the page gets, from the address that the Markdown has.
Link = Callable[[str], str]


@dataclass
class Document:
    """The parts of a page: the title is the first heading, the body all behind it."""

    title: str
    body: str
    headings: list[Heading] = field(default_factory=list)


def convert(text: str, draw: Draw, link: Link) -> Document:
    """Convert Markdown; raw HTML in it is text. Numbers in tables stand right.

    Args:
        draw: Returns the HTML of an image; a paragraph that has nothing else becomes a figure.
        link: Returns the address of a link.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    title = _take_title(tokens)
    headings = _name_headings(tokens)
    _label_tables(tokens, title)
    for token in tokens:
        for child in token.children or ():
            if child.type == "link_open":
                child.attrSet("href", link(str(child.attrGet("href"))))
    body = []
    for part in _with_figures(tokens):
        if isinstance(part, Token):
            body.append(_figure(part, draw))
        else:
            body.append(parser.renderer.render(part, parser.options, {}))
    return Document(title, "".join(body), headings)


def _take_title(tokens: list[Token]) -> str:
    """Remove the first heading, and return its text; empty without one of the first level."""
    for index, token in enumerate(tokens):
        if token.type == "heading_open" and token.tag == "h1":
            text = _plain(tokens[index + 1])
            del tokens[index : index + 3]
            return text
    return ""


def _name_headings(tokens: list[Token]) -> list[Heading]:
    """Give every heading an id, and return those of the second level."""
    taken: set[str] = set()
    sections = []
    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            text = _plain(inline)
            name = slug(text, taken)
            taken.add(name)
            token.attrSet("id", name)
            if token.tag == "h2":
                sections.append(Heading(name, text))
    return sections


def _label_tables(tokens: list[Token], title: str) -> None:
    """Wrap tables into regions that scroll by keyboard, and mark columns of numbers."""
    heading, tables, index = title, 0, 0
    while index < len(tokens):
        token = tokens[index]
        if token.type == "heading_open":
            heading = _plain(tokens[index + 1])
        elif token.type == "table_open":
            tables += 1
            end = next(i for i in range(index, len(tokens)) if tokens[i].type == "table_close")
            _mark_numbers(tokens[index:end])
            label = escape(f"Table {tables}: {heading}")
            tokens.insert(end + 1, _html("</div>\n"))
            opening = f'<div class="table" role="region" tabindex="0" aria-label="{label}">\n'
            tokens.insert(index, _html(opening))
            index = end + 2
        index += 1


def _mark_numbers(table: list[Token]) -> None:
    columns: list[list[str]] = []
    cells: list[tuple[int, Token]] = []
    column = 0
    for token, inline in pairwise(table):
        if token.type == "tr_open":
            column = 0
        elif token.type in ("th_open", "td_open"):
            cells.append((column, token))
            columns += [[] for _ in range(column + 1 - len(columns))]
            if token.type == "td_open":
                columns[column].append(_plain(inline))
            else:
                token.attrSet("scope", "col")
            column += 1
    for column, cell in cells:
        if is_numeric(columns[column]):
            cell.attrSet("class", "number")


def _with_figures(tokens: list[Token]) -> list[list[Token] | Token]:
    """Split tokens where a paragraph is one image; such an image is a token alone."""
    parts: list[list[Token] | Token] = [[]]
    index = 0
    while index < len(tokens):
        children = tokens[index + 1].children if index + 1 < len(tokens) else None
        if (
            tokens[index].type == "paragraph_open"
            and children
            and [child.type for child in children] == ["image"]
        ):
            parts += [children[0], []]
            index += 3
            continue
        last = parts[-1]
        assert isinstance(last, list)
        last.append(tokens[index])
        index += 1
    return parts


def _figure(image: Token, draw: Draw) -> str:
    drawing = draw(str(image.attrGet("src")), image.content)
    return f"<figure>\n{drawing}\n<figcaption>{escape(image.content)}</figcaption>\n</figure>\n"


def _plain(inline: Token) -> str:
    """Return the text of a line without its markup."""
    return "".join(
        child.content for child in inline.children or () if child.type in ("text", "code_inline")
    )


def _html(text: str) -> Token:
    return Token("html_block", "", 0, content=Markup(text))
