"""Plots in pages: SVG with a title and a description, or an image inside of the page."""

from __future__ import annotations

import base64
import io
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DESCRIPTION = re.compile(r"<dc:description>(.*?)</dc:description>", re.DOTALL)
METADATA = re.compile(r"<metadata>.*?</metadata>\s*", re.DOTALL)
IDENTIFIER = re.compile(r'(\bid="|href="#|url\(#)([^")]+)')


def save(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Write a figure as SVG with a description, or as PNG, as the suffix of the path says.

    Neither has the date or the version of matplotlib, so that equal figures give equal files.
    """
    if path.suffix == ".svg":
        path.write_text(drawn(figure), "utf-8")
    else:
        figure.savefig(path, dpi=dpi, metadata={"Software": None})


def drawn(figure: Figure) -> str:
    """Return a figure as an SVG document whose metadata describe it."""
    import matplotlib

    metadata = {"Date": None, "Creator": None, "Description": describe(figure)}
    document = io.StringIO()
    # Text stays text: it is smaller, can be searched, and takes a font of the reader.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(document, format="svg", metadata=metadata)
    return document.getvalue()


def describe(figure: Figure) -> str:
    """Say in words what a figure plots: the titles, axes and series of its panels."""
    panels = [text for axes in figure.axes if axes.get_visible() and (text := _panel(axes))]
    legends = [
        "Series: " + ", ".join(text.get_text() for text in legend.get_texts()) + "."
        for legend in figure.legends
    ]
    if len(panels) > 1:
        panels = [f"Panel {number}: {text}" for number, text in enumerate(panels, 1)]
    return " ".join(" ".join([*panels, *legends]).split())


def _panel(axes: Axes) -> str:
    facts = {
        "": axes.get_title(),
        "x: ": axes.get_xlabel(),
        "y: ": axes.get_ylabel(),
    }
    legend = axes.get_legend()
    if legend is not None:
        facts["series: "] = ", ".join(text.get_text() for text in legend.get_texts())
    text = "; ".join(name + value for name, value in facts.items() if value)
    return f"{text}." if text else ""


def inline(drawing: str, title: str, name: str) -> str:
    """Return an SVG document as an element of a page that a screen reader announces.

    Args:
        drawing: The SVG document, as `drawn` returns it.
        title: Its name, such as the caption of the figure.
        name: Prefix of its ids, which no other figure of the page has.
    """
    match = DESCRIPTION.search(drawing)
    description = match[1].strip() if match else ""
    element = METADATA.sub("", drawing[drawing.index("<svg") :])
    element = IDENTIFIER.sub(rf"\1{name}-\2", element)
    labels = f"{name}-title {name}-desc" if description else f"{name}-title"
    about = f'<title id="{name}-title">{escape(title)}</title>'
    if description:
        about += f'<desc id="{name}-desc">{description}</desc>'
    head, _, rest = element.partition(">")
    return f'{head} role="img" aria-labelledby="{labels}">\n{about}{rest}'


def inline_drawing(draw: Callable[[Path], None], title: str, name: str) -> str:
    """Return a figure that a function writes into a file as an element of a page; see `inline`."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "figure.svg"
        draw(path)
        return inline(path.read_text("utf-8"), title, name)


def embedded(path: Path, title: str) -> str:
    """Return a PNG as an image whose bytes are in the page. Raises OSError."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'
