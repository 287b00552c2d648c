"""The plot of the report: NDCG@10 of replayed logs over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadtest.plots import new_figure
from pages import figures

COLOURS = {
    "shown order": "tab:gray",
    "ids and inline history": "tab:red",
    "fresh features inline": "tab:blue",
    "ids with the store": "tab:green",
}


def draw_replay(curves: Mapping[str, Any], path: Path) -> None:
    """Plot a panel for each log: a curve for each way to rank."""
    figure = new_figure(10, 4)
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False).flatten()
    for axes, (case, curve) in zip(panels, curves.items(), strict=True):
        for name, colour in COLOURS.items():
            style = "--" if name == "fresh features inline" else "-"
            axes.plot(curve["lists"], curve[name], style, color=colour, marker="o", markersize=3,
                      label=name)  # fmt: skip
        axes.set(title=case, xlabel="lists since the bundle's moment")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("NDCG@10, mean of a block of lists")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(COLOURS), frameon=False)
    figures.save(figure, path)
