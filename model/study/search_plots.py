"""Plots of the study of learning from search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.study.plots import OTHER_COLOUR, colour, errorbar, pyplot, save
from model.study.search_gates import ALWAYS, HALTING, KINDS, NONE, SHARES, gate_name
from model.study.search_models import FULL, HOST_NAME

Entry = Mapping[str, Any]
LINES = {  # kind of gate -> colour and marker
    "entropy": ("#00702f", "o"),
    "random": ("#d94801", "s"),
    "middle": ("#7a3d9a", "^"),
    "first": ("#b8860b", "v"),
    HALTING: ("#08519c", "D"),
}
CONTROLS = {"zero token": "#252525", "learned token": OTHER_COLOUR}
DIFFERENCE = "regret - host"
FIGURES = ("search_regret.png", "search_entropy.png")


def plot_search(payload: Mapping[str, Any], directory: Path) -> None:
    """Write FIGURES: regret against steps, and entropy by position.

    Each data set that compares gates has a column; without any, nothing is written.
    """
    datasets = [entry for entry in payload["datasets"] if entry["gates"]]
    if not datasets:
        return
    plot_regret(datasets, directory / FIGURES[0])
    plot_entropy(datasets, directory / FIGURES[1])


def plot_regret(datasets: Sequence[Entry], path: Path) -> None:
    """Draw regret minus the plain host's against mean steps, with paired 95 % intervals.

    Bands belong to the entropy and the random gate; other lines have arms, side by side.
    """
    figure, axes = panels(datasets)
    handles: dict[str, Any] = {}
    host, _, _ = FULL[0].partition(" ")
    for axis, dataset in zip(axes, datasets, strict=True):
        rows = {(row["model"], row["gate"]): row for row in dataset["rows"]}
        handles[f"{host} {HOST_NAME}"] = axis.axhline(0.0, color=OTHER_COLOUR, linestyle="--")
        for place, (kind, (hue, marker)) in enumerate(LINES.items()):
            points = curve(rows, FULL[0], kind)
            style = {"color": hue, "marker": marker, "markersize": 5}
            if points:
                drawn = line if kind in ("entropy", "random") else side_by_side
                handles[f"{FULL[0]}, {kind} gate"] = drawn(axis, points, place, style)
        for place, (token, hue) in enumerate(CONTROLS.items()):
            points = curve(rows, f"{host} {token}", KINDS[0])
            style = {"color": hue, "marker": "x", "linestyle": ":"}
            if points:
                name = f"{host} {token}, entropy gate"
                handles[name] = side_by_side(axis, points, len(LINES) + place, style)
        axis.set(title=title(dataset), xlabel="mean reasoning steps per slate")
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="regret minus that of the plain host")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    save(figure, path)


def panels(datasets: Sequence[Entry]) -> tuple[Any, Any]:
    """Return a figure with one axis for each data set, and the axes."""
    figure, axes = pyplot().subplots(
        1, len(datasets), figsize=(4.8 * len(datasets) + 0.4, 4.8), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    return figure, axes[0]


def title(dataset: Entry) -> str:
    """Return the title of a data set's panel."""
    seeds = "1 seed" if dataset["seeds"] == 1 else f"{dataset['seeds']} seeds"
    return f"{dataset['name']}, {seeds}"


def curve(rows: Mapping[tuple[str, str], Entry], model: str, kind: str) -> list[Entry]:
    """Return the rows of a model behind gates of a kind, by rising steps."""
    equal = [gate_name(kind, share) for share in reversed(SHARES)]
    # Halting takes at least a step, so it has one point and no line to the ends.
    gates = equal if kind == HALTING else [NONE, *equal, ALWAYS]
    return [rows[model, gate] for gate in gates if (model, gate) in rows]


def line(axis: Any, points: Sequence[Entry], _place: int, style: Mapping[str, Any]) -> Any:
    """Draw differences in regret against steps with a band, and return the line."""
    steps = [point["steps"][0] for point in points]
    ends = [point[DIFFERENCE] for point in points]
    (drawn,) = axis.plot(steps, [mean for mean, _, _ in ends], linewidth=2, **style)
    if all(low is not None for _, low, _ in ends):
        axis.fill_between(
            steps, [low for _, low, _ in ends], [high for _, _, high in ends],
            color=style["color"], alpha=0.15, linewidth=0,
        )  # fmt: skip
    return drawn


def side_by_side(axis: Any, points: Sequence[Entry], place: int, style: Mapping[str, Any]) -> Any:
    """Draw differences in regret against steps with arms, a little to the right by place."""
    highest = max(point["steps"][0] for point in points)
    steps = [point["steps"][0] + 0.005 * place * highest for point in points]
    errorbar(axis, steps, [point[DIFFERENCE] for point in points], linewidth=1, **style)
    return axis.containers[-1]


def plot_entropy(datasets: Sequence[Entry], path: Path) -> None:
    """Draw the choice entropy by position of the slate, before and after every reasoning step."""
    figure, axes = panels(datasets)
    handles: dict[str, Any] = {}
    for axis, dataset in zip(axes, datasets, strict=True):
        entries = {(entry["model"], entry["gate"]): entry for entry in dataset["entropy"]}
        for model in dict.fromkeys(model for model, _ in entries):
            host, _, variant = model.partition(" ")
            if variant == HOST_NAME:
                values = entries[model, NONE]["entropy before"]
                (handles[model],) = axis.plot(values, ":", color=colour(model), linewidth=2.5)
            elif variant == "EGLR":
                entry, style = entries[model, ALWAYS], {"color": colour(f"{host} eglr")}
                before, after = entry["entropy before"], entry["entropy after"]
                (handles[f"{model}, before"],) = axis.plot(before, "--", **style)
                (handles[f"{model}, after"],) = axis.plot(after, "o-", markersize=4, **style)
        axis.set(title=title(dataset), xlabel="position in the slate (0-based)")
        axis.set_xticks(range(len(dataset["entropy"][0]["entropy before"])))
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="choice entropy (nats), every step taken")
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=3,
        title="The paper's claim is low, high, low: unsure in the middle of the slate",
    )  # fmt: skip
    save(figure, path)
