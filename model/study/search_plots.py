"""Plots of the study of learning from search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.study.plots import OTHER_COLOUR, colour, pyplot, save
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
FIGURES = ("search_regret.png", "search_entropy.png")


def plot_search(payload: Mapping[str, Any], directory: Path) -> None:
    """Write FIGURES: regret against steps, and entropy by position, a column per data set."""
    plot_regret(payload["datasets"], directory / FIGURES[0])
    plot_entropy(payload["datasets"], directory / FIGURES[1])


def plot_regret(datasets: list[Entry], path: Path) -> None:
    """Draw regret to the teacher against mean steps by gate, with bands of 95 % intervals."""
    figure, axes = pyplot().subplots(
        1, len(datasets), figsize=(4.6 * len(datasets) + 0.4, 4.4), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    handles: dict[str, Any] = {}
    for axis, dataset in zip(axes[0], datasets, strict=True):
        rows = {(row["model"], row["gate"]): row for row in dataset["rows"]}
        model = FULL[0]
        name = f"{model.partition(' ')[0]} {HOST_NAME}"
        host = rows[name, NONE]
        handles[name] = axis.axhline(host["regret"][0], color="#737373", linestyle="--")
        band(axis, [0, rows[model, ALWAYS]["steps"][0]], [host["regret"]] * 2, "#737373")
        for kind, (hue, marker) in LINES.items():
            gates = [NONE, *(gate_name(kind, share) for share in reversed(SHARES)), ALWAYS]
            points = [rows[model, gate] for gate in gates if (model, gate) in rows]
            if kind == HALTING:
                points = points[1:-1]  # a single point, since it takes at least a step
            if points:
                handles[f"{model}, {kind} gate"] = line(axis, points, hue, marker)
        for token, hue in CONTROLS.items():
            control = f"{model.partition(' ')[0]} {token}"
            gates = [NONE, *(gate_name(KINDS[0], share) for share in reversed(SHARES)), ALWAYS]
            points = [rows[control, gate] for gate in gates if (control, gate) in rows]
            if points:
                handles[f"{control}, entropy gate"] = line(axis, points, hue, "x", ":")
        axis.set(
            title=f"{dataset['name']}, {dataset['seeds']} seeds",
            xlabel="mean reasoning steps per slate",
        )
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0, 0].set(ylabel="regret to the teacher")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    save(figure, path)


def line(axis: Any, points: list[Entry], hue: str, marker: str, style: str = "-") -> Any:
    """Draw regret against steps with its band, and return the line."""
    steps = [point["steps"][0] for point in points]
    intervals = [point["regret"] for point in points]
    band(axis, steps, intervals, hue)
    (drawn,) = axis.plot(
        steps, [i[0] for i in intervals], style, color=hue, marker=marker, markersize=4
    )
    return drawn


def band(axis: Any, x: list[float], intervals: list[Any], hue: str) -> None:
    """Shade 95 % intervals (mean, low, high), where there are any."""
    if all(low is not None for _, low, _ in intervals):
        axis.fill_between(
            x, [i[1] for i in intervals], [i[2] for i in intervals], color=hue, alpha=0.12,
            linewidth=0,
        )  # fmt: skip


def plot_entropy(datasets: list[Entry], path: Path) -> None:
    """Draw the choice entropy by position of the slate, before and after every reasoning step."""
    figure, axes = pyplot().subplots(
        1, len(datasets), figsize=(4.6 * len(datasets) + 0.4, 4.2), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    handles: dict[str, Any] = {}
    for axis, dataset in zip(axes[0], datasets, strict=True):
        entries = {(entry["model"], entry["gate"]): entry for entry in dataset["entropy"]}
        for model in dict.fromkeys(model for model, _ in entries):
            host, _, variant = model.partition(" ")
            if variant not in (HOST_NAME, "EGLR"):
                continue
            if variant == HOST_NAME:
                values = entries[model, NONE]["entropy before"]
                (handles[model],) = axis.plot(values, ":", color=colour(f"{host} host"))
                continue
            entry, hue = entries[model, ALWAYS], colour(f"{host} eglr")
            (handles[f"{model}, before"],) = axis.plot(entry["entropy before"], "--", color=hue)
            (handles[f"{model}, after"],) = axis.plot(
                entry["entropy after"], color=hue, marker="o", markersize=3
            )
        axis.set(title=dataset["name"], xlabel="position (0-based)")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0, 0].set(ylabel="choice entropy (nats), every step taken")
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=3,
        title="The paper reports low, high, low: sure first and last, unsure in the middle.",
    )  # fmt: skip
    save(figure, path)
