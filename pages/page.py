"""The HTML page that all reports share: its template, style sheet and script are in `assets/`."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

ASSETS = Path(__file__).with_name("assets")


@dataclass(frozen=True)
class Heading:
    """A section of a page, for its table of contents."""

    id: str
    text: str


def environment(*directories: Path) -> jinja2.Environment:
    """Return an environment for HTML that has the shared templates and those of `directories`.

    A template extends `page.html.jinja` and imports the macros of `parts.html.jinja`.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*directories, ASSETS]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style, script = (_asset(name) for name in ("style.css", "tables.js"))
    templates.globals |= {
        "style": Markup(style),
        "script": Markup(script),
        # Nothing is loaded, and only the script of this package runs. Matplotlib styles elements.
        "policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'",
        "numeric_columns": numeric_columns,
        "slug": slug,
    }
    return templates


def page(title: str, body: str, headings: Sequence[Heading] = (), source: str = "") -> str:
    """Return a whole page around HTML.

    Args:
        body: Trusted HTML without the page's first heading.
        headings: Sections for the table of contents; a page with fewer than three has none.
        source: Name of the file that the page was made from, for its last line.
    """
    template = environment().get_template("report.html.jinja")
    return template.render(title=title, body=Markup(body), headings=headings, source=source)


NUMBER = re.compile(r"[<>≤≥±~]?\s*[+\-−]?(\d|\.\d)")
MISSING = frozenset({"", "-", "–", "—", "none", "n/a"})


def is_numeric(cells: Collection[str]) -> bool:
    """Return true if every cell of a column that is not missing begins with a number."""
    present = [cell for cell in map(str.strip, cells) if cell.lower() not in MISSING]
    return bool(present) and all(NUMBER.match(cell) for cell in present)


def numeric_columns(rows: Sequence[Mapping[str, object]]) -> list[bool]:
    """Return, for each key of the rows, true if its column holds numbers."""
    return [is_numeric([str(row[name]) for row in rows]) for name in rows[0]]


def slug(text: str, taken: Collection[str] = ()) -> str:
    """Return an id for a heading, as GitHub forms its anchors; a number ends a repeated one."""
    base = re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") or "section"
    candidate, number = base, 0
    while candidate in taken:
        number += 1
        candidate = f"{base}-{number}"
    return candidate


def _asset(name: str) -> str:
    return (ASSETS / name).read_text("utf-8")


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
