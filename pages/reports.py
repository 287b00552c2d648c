"""Pages of committed reports: their Markdown, with plots drawn again from their JSON as SVG."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pages.figures import embedded, inline_drawing
from pages.markdown import convert
from pages.page import environment, page

# Draws the figures of a report, from its JSON, into a file whose suffix is .svg.
Drawing = Callable[[Mapping[str, Any], Path], None]


class UnknownReportError(ValueError):
    """A name that no report has."""


def report_names(reports: Path) -> list[str]:
    """Return the names of all reports below a directory, such as six_steps/world_law."""
    return sorted(str(path.relative_to(reports).with_suffix("")) for path in reports.rglob("*.md"))


def check_names(reports: Path, names: Sequence[str]) -> None:
    """Raise UnknownReportError for a name without a Markdown file below the directory."""
    for name in names:
        if not (reports / f"{name}.md").is_file():
            choices = ", ".join(report_names(reports)) or "none"
            raise UnknownReportError(f"{reports}: no report {name!r}; it has {choices}")


def write_reports(
    reports: Path,
    names: Sequence[str],
    out: Path,
    drawings: Mapping[str, tuple[str, Drawing]],
) -> list[Path]:
    """Write the pages of reports and return their paths.

    A plot without a drawing, or whose JSON lacks, is the committed PNG inside of the page.

    Args:
        reports: Directory of the reports.
        names: Reports to write, without suffix.
        out: Directory of the pages; links between reports lead to pages of the same names.
        drawings: Name of an image -> name of its JSON file, beside the report, and its drawing.
    """
    check_names(reports, names)
    return [_write(reports, name, out, drawings) for name in names]


def _write(
    reports: Path, name: str, out: Path, drawings: Mapping[str, tuple[str, Drawing]]
) -> Path:
    source = reports / f"{name}.md"
    number = 0

    def draw(address: str, alternative: str) -> str:
        nonlocal number
        number += 1
        image = source.parent / address
        if address in drawings:
            data, drawing = drawings[address]
            figures = image.with_name(data)
            if figures.is_file():
                payload = json.loads(figures.read_text("utf-8"))
                return inline_drawing(
                    functools.partial(drawing, payload), alternative, f"figure-{number}"
                )
        return embedded(image, alternative)

    path = out / f"{name}.html"

    def link(address: str) -> str:
        return _address(address, reports, source, path, out)

    document = convert(source.read_text("utf-8"), draw, link)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = page(document.title, document.body, document.headings, f"{name}.md")
    path.write_text(text, "utf-8")
    return path


def _address(address: str, reports: Path, source: Path, page_path: Path, out: Path) -> str:
    """Lead a link between reports to the page of the other, and one to another file to that."""
    file, hash_sign, anchor = address.partition("#")
    target = (source.parent / file).resolve()
    if not file or ":" in file or not target.exists():
        return address
    if target.suffix == ".md" and target.is_relative_to(reports.resolve()):
        target = out.resolve() / target.relative_to(reports.resolve()).with_suffix(".html")
    return os.path.relpath(target, page_path.parent.resolve()) + hash_sign + anchor


def write_index(reports: Path, names: Sequence[str], out: Path) -> Path:
    """Write index.html, a table of the pages of reports, and return its path."""
    rows = [{"name": name, "title": _title(reports / f"{name}.md")} for name in names]
    out.mkdir(parents=True, exist_ok=True)
    path = out / "index.html"
    template = environment().get_template("index.html.jinja")
    path.write_text(template.render(title="Reports", rows=rows), "utf-8")
    return path


def _title(source: Path) -> str:
    """Return the first heading of a Markdown file."""
    return convert(source.read_text("utf-8"), lambda address, _: address, str).title
