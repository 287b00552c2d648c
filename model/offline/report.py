"""Text and plots of comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from model.data.intervals import format_interval
from model.offline.comparison import DOUBLY_ROBUST, RISK
from model.study.plots import OTHER_COLOUR, pyplot, save
from pages.figures import inline_drawing
from pages.page import environment

COLOURS = {"better": "#00702f", "worse": "#d94801", "cannot tell": OTHER_COLOUR}
TEMPLATES = Path(__file__).with_name("templates")
OLD_COLOUR, NEW_COLOUR = "#8fbbe0", "#08519c"


def format_comparison(figures: Mapping[str, Any]) -> str:
    """Return the text of a comparison, from its JSON."""
    lines = [f"{name}: {count}" for name, count in figures["counts"].items()]
    lines += [
        f"replay of the old bundle: log-probabilities differ by at most "
        f"{figures['skew']['largest_difference']:.2g} nats",
        f"{figures['lists']} lists of {figures['users']} users, {figures['policy']} policies",
        "",
        f"{'reward of a list':28} {figures['old']:>30} {figures['new']:>30} {'difference':>30}",
    ]
    for name, each in figures["estimates"].items():
        old, new = format_interval(each["old"]), format_interval(each["new"])
        difference = format_interval(each["difference"], signed=True)
        lines.append(f"{name:28} {old:>30} {new:>30} {difference:>30}")
    lines += ["", f"{'policy':28} position {'mean weight':>28} effective lists  clipped"]
    for control in figures["controls"]:
        lines.append(
            f"{control['policy']:28} {control['position']:8} "
            f"{format_interval(control['mean'], digits=3):>28} {control['effective']:15.1f} "
            f"{control['clipped']:8.2%}"
        )
    lines += [
        f"The intervals of mean weights hold 1 all together in {1 - RISK:.0%} of right logs.",
        "",
        f"verdict: {figures['new']} is {figures['verdict']}"
        if figures["verdict"] != "cannot tell"
        else "verdict: cannot tell",
        *(f"  {reason}" for reason in figures["reasons"]),
    ]
    return "\n".join(lines)


def comparison_page(figures: Mapping[str, Any]) -> str:
    """Return the HTML page of a comparison, from its JSON."""
    estimates = [
        {
            "estimator": name,
            figures["old"]: format_interval(each["old"]),
            figures["new"]: format_interval(each["new"]),
            "difference": format_interval(each["difference"], signed=True),
        }
        for name, each in figures["estimates"].items()
    ]
    controls = [
        {
            "policy": control["policy"],
            "position": control["position"],
            "mean weight": format_interval(control["mean"], digits=3),
            "effective lists": f"{control['effective']:.1f}",
            "clipped": f"{control['clipped']:.2%}",
        }
        for control in figures["controls"]
    ]
    title = f"{figures['new']} against {figures['old']}"
    drawing = inline_drawing(partial(plot_comparison, figures), title, "figure-1")
    return environment(TEMPLATES).get_template("comparison.html.jinja").render(
        title=title,
        figures=figures,
        facts={
            **figures["counts"], "policies": figures["policy"], "lists": figures["lists"],
            "users": figures["users"],
            "largest difference of a replayed log-probability, nats":
                f"{figures['skew']['largest_difference']:.2g}",
        },
        estimates=estimates,
        controls=controls,
        drawing=Markup(drawing),
        risk=RISK,
    )  # fmt: skip


def plot_comparison(figures: Mapping[str, Any], path: Path) -> None:
    """Draw the differences with intervals, and weights and effective lists by position."""
    figure, axes = pyplot().subplots(1, 3, figsize=(12.5, 3.4), layout="constrained")
    names = list(figures["estimates"])
    for place, name in enumerate(names):
        value, low, high = figures["estimates"][name]["difference"]
        colour = COLOURS[figures["verdict"]] if name == DOUBLY_ROBUST else OTHER_COLOUR
        axes[0].plot([low, high], [place, place], color=colour)
        axes[0].plot([value], [place], marker="o", color=colour)
    axes[0].axvline(0.0, color=OTHER_COLOUR, linewidth=0.8)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set(title=f"difference: {figures['verdict']}", xlabel="reward of a list, new - old")
    sides: dict[str, list[Mapping[str, Any]]] = {
        name: [] for name in (figures["old"], figures["new"])
    }
    for control in figures["controls"]:
        sides[control["policy"]].append(control)
    for (name, controls), colour in zip(sides.items(), (OLD_COLOUR, NEW_COLOUR), strict=True):
        positions = [control["position"] for control in controls]
        means = np.array([control["mean"] for control in controls])
        axes[1].plot(positions, means[:, 0], color=colour, marker="o", label=name)
        axes[1].fill_between(positions, means[:, 1], means[:, 2], color=colour, alpha=0.2)
        axes[2].plot(positions, [c["effective"] for c in controls], color=colour, marker="o")
    axes[1].axhline(1.0, color=OTHER_COLOUR, linewidth=0.8)
    axes[1].set(title="mean weight, must be 1", xlabel="position")
    axes[1].legend()
    axes[2].set(title="effective lists", xlabel="position", ylim=(0, None))
    for axis in axes:
        axis.grid(alpha=0.3)
    save(figure, path)


def plot_coverage(payload: Mapping[str, Any], path: Path) -> None:
    """Draw estimated against true differences, and the intervals in order of the truth."""
    figure, axes = pyplot().subplots(1, 2, figsize=(12.5, 4.2), layout="constrained")
    pairs = sorted(payload["pairs"], key=lambda pair: pair["truth"])
    for verdict, colour in COLOURS.items():
        chosen = [(n, pair) for n, pair in enumerate(pairs) if pair["verdict"] == verdict]
        ends = np.array(
            [pair["estimates"][DOUBLY_ROBUST]["difference"] for _, pair in chosen]
        ).reshape(-1, 3)
        truth = np.array([pair["truth"] for _, pair in chosen])
        axes[0].plot(
            truth, ends[:, 0], linestyle="", marker=".", color=colour,
            label=f"{verdict} ({len(chosen)})",
        )  # fmt: skip
        numbers = [number for number, _ in chosen]
        axes[1].vlines(numbers, ends[:, 1] - truth, ends[:, 2] - truth, color=colour, linewidth=1)
    reach = max(abs(pair["truth"]) for pair in pairs)
    axes[0].plot([-reach, reach], [-reach, reach], color=OTHER_COLOUR, linewidth=0.8)
    axes[0].set(xlabel="true difference, clicks a list", ylabel="doubly robust estimate")
    axes[0].legend(title="verdict")
    axes[1].axhline(0.0, color=OTHER_COLOUR, linewidth=0.8)
    axes[1].set(xlabel="pairs in order of the true difference", ylabel="95 % interval - truth")
    for axis in axes:
        axis.grid(alpha=0.3)
    save(figure, path)
