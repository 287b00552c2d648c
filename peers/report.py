"""The comparison of servers as a page, and a plot of the capacities."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from pages import figures
from pages.reports import write_reports
from peers import PEERS
from peers.summary import SERVICE

RESPONSES = {True: "the same", False: "DIFFER", None: "of another model"}
HEADINGS = {
    "history": "Lists with a history of 48 entries, which no request repeats",
    "ids": "Lists of ids alone",
}
COLOURS = {
    SERVICE: "tab:blue",
    "peer, same model": "tab:grey",
    "peer, another model": "tab:orange",
}
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # Markdown
)


def write_page(directory: Path) -> None:
    """Write peers.md and peers.png from the peers.json in a directory."""
    report = json.loads((directory / "peers.json").read_text("utf-8"))
    (directory / "peers.md").write_text(page(report), "utf-8")
    plot(report, directory / "peers.png")


def write_html(directory: Path, pages: Path) -> None:
    """Write peers.html into another directory, from the Markdown and JSON of a report."""
    write_reports(directory, ["peers"], pages, {"peers.png": ("peers.json", plot)})


def page(report: dict[str, Any]) -> str:
    """Render the report as Markdown."""
    packages = {peer.name: f"{peer.distribution} " for peer in PEERS} | {SERVICE: ""}
    rows = sorted(report["rows"], key=lambda row: -row["capacity_rps"])
    scenarios = list(dict.fromkeys(row["scenario"] for row in report["rows"]))
    values = {
        **report,
        "tables": {name: [r for r in rows if r["scenario"] == name] for name in scenarios},
        "headings": HEADINGS,
        "packages": {row["server"]: packages.get(row["server"], "") for row in report["rows"]},
        "settings": {row["server"]: row["settings"] for row in rows},
        "service": SERVICE,
        "responses": RESPONSES,
        "equal_load": report["equal_load"] or {},
    }
    return TEMPLATES.get_template("peers.md.jinja").render(values)


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Plot each server's capacity as a dot with the range of its rounds."""
    from matplotlib.figure import Figure

    main = report["rows"][0]["scenario"]
    rows = [row for row in report["rows"] if row["scenario"] == main]
    rows.sort(key=lambda row: row["capacity_rps"])
    figure = Figure(figsize=(8, 0.4 * len(rows) + 1.6), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(rows)), [row["server"] for row in rows])
    for kind, colour in COLOURS.items():
        points = [(place, row) for place, row in enumerate(rows) if kind_of(row) == kind]
        if not points:
            continue
        capacities = [row["capacity_rps"] for _, row in points]
        spread = [
            [row["capacity_rps"] - row["low"] for _, row in points],
            [row["high"] - row["capacity_rps"] for _, row in points],
        ]
        axes.errorbar(capacities, [place for place, _ in points], xerr=spread, fmt="o",
                      color=colour, capsize=4, label=kind)  # fmt: skip
    axes.set(xlabel=f"requests per second with p99 of at most {report['p99_ms']:g} ms",
             xlim=(0, None), ylim=(-0.6, len(rows) - 0.4))  # fmt: skip
    axes.grid(axis="x", alpha=0.3)
    axes.legend(title="mean and range of the rounds", loc="lower right")
    figures.save(figure, path)


def kind_of(row: dict[str, Any]) -> str:
    """Return the key of COLOURS that a server belongs to."""
    if row["server"] == SERVICE:
        return SERVICE
    return "peer, another model" if row["same_answers"] is None else "peer, same model"
