"""Plots of the reports. One table of colours: the hue is the host, the depth the reasoning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.study.variants import NEURAL
from pages import figures

# By the model's name in lower case, as the reports of several studies spell it differently.
COLOURS = {
    "transformer host": "#8fbbe0",
    "transformer eglr": "#08519c",
    "gru host": "#fdae6b",
    "gru eglr": "#d94801",
    "pointer host": "#98d594",
    "pointer eglr": "#00702f",
    "one head": "#6a51a3",
    "evaluator": "#08519c",
    "second evaluator": "#d94801",
    "observed": "#252525",
}
OTHER_COLOUR = "#737373"  # of a model that COLOURS lacks, a new host for example
BUDGET_COLOURS = ("#8fbbe0", "#6baed6", "#2f7fbd", "#08306b")  # S = 0, the plain host, to S = 3
DPI = 90
Entry = Mapping[str, Any]


def colour(model: str) -> str:
    """Return the colour of a model, the same in every plot; grey for one without an entry."""
    return COLOURS.get(model.lower(), OTHER_COLOUR)


def pyplot() -> Any:
    """Return matplotlib.pyplot drawing into files, without a display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG or SVG, and free it."""
    figures.save(figure, path, DPI)
    pyplot().close(figure)


def plot_entropy(
    positions: Sequence[Entry], keys: Sequence[tuple[str, str, str]], path: Path
) -> None:
    """Draw entropy before and after reasoning, and steps, by position.

    One panel for each of `keys` (data set, split, track) that `positions` has an entry for.
    """
    entries: dict[tuple[str, str, str], dict[str, Entry]] = {}
    for entry in positions:
        key = entry["dataset"], entry["split"], entry["track"]
        entries.setdefault(key, {})[entry["model"]] = entry
    keys = [key for key in keys if key in entries]
    if not keys:
        return
    columns = min(3, len(keys))
    blocks = -(-len(keys) // columns)
    figure, axes = pyplot().subplots(
        2 * blocks, columns, figsize=(4.2 * columns, 4.6 * blocks + 0.6), squeeze=False,
        layout="constrained", height_ratios=[3, 2] * blocks,
    )  # fmt: skip
    handles: dict[str, Any] = {}
    for number in range(blocks * columns):
        block, column = divmod(number, columns)
        above, below = axes[2 * block, column], axes[2 * block + 1, column]
        if number >= len(keys):
            above.set_axis_off()
            below.set_axis_off()
            continue
        models = entries[keys[number]]
        for name in (name for name in NEURAL if name in models):
            entry = models[name]
            style = {"color": colour(name), "marker": "o", "markersize": 3}
            above.plot(entry["entropy_before"], "--", color=colour(name), linewidth=1)
            (handles[name],) = above.plot(entry["entropy_after"], **style)
            below.plot(entry["steps_by_position"], **style)
        above.set(title=", ".join(keys[number]))
        above.tick_params(labelbottom=False)
        below.set(xlabel="position (0-based)", ylim=(-0.1, None))
        if column == 0:
            above.set(ylabel="choice entropy (nats)")
            below.set(ylabel="steps per position")
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles),
        title="solid: entropy after reasoning, dashed: before",
    )  # fmt: skip
    save(figure, path)


def plot_world(payload: Mapping[str, Any], path: Path) -> None:
    """Draw regret by model, entropy against ambiguity by seed, and gain against steps."""
    figure, (left, middle, right) = pyplot().subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    models = [entry["model"] for entry in payload["ambiguity"]][::-1]
    trained = [row for row in payload["tables"] if row["model"] in models][::-1]
    for place, row in enumerate(trained):
        left.errorbar(
            row["regret"][0], place, xerr=arms([row["regret"]]), fmt="o", capsize=3,
            color=colour(row["model"]),
        )  # fmt: skip
    left.set_yticks(range(len(trained)), labels=[row["model"] for row in trained])
    left.set(xlabel="regret (share of the best slate's clicks)", title="Regret, 95 % interval")
    for place, entry in enumerate(payload["ambiguity"][::-1]):
        values = entry["correlation"]
        middle.plot(values, [place] * len(values), "o", alpha=0.6, color=colour(entry["model"]))
    middle.set_yticks(range(len(models)), labels=models)
    middle.set(xlabel="Spearman's correlation, one dot per seed", title="Entropy and ambiguity")
    for number, host in enumerate(dict.fromkeys(point["host"] for point in payload["gates"])):
        points = [point for point in payload["gates"] if point["host"] == host]
        steps = [point["steps"] + 0.15 * number for point in points]  # intervals side by side
        errorbar(
            right, steps, [point["gain"] for point in points],
            fmt="o-", color=colour(f"{host} eglr"), markersize=4, label=f"{host} eglr",
        )  # fmt: skip
    right.axhline(0.0, color="grey", linestyle="--", linewidth=1)
    right.set(xlabel="reasoning steps per slate", ylabel="gain to the plain host (clicks)",
              title="Other thresholds, 95 % interval")  # fmt: skip
    right.legend(loc="lower right")
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
    save(figure, path)


def plot_evaluator(payload: Mapping[str, Any], path: Path) -> None:
    """Draw the calibration and the like rate by shown position of both evaluators."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(10, 4), layout="constrained")
    (diagonal,) = left.plot([0, 1], [0, 1], ":", color="grey")
    for name, marker in (("evaluator", "o"), ("second evaluator", "x")):
        curve, style = payload[name]["calibration"], {"color": colour(name), "label": name}
        left.plot(curve["predicted"], curve["observed"], marker, linestyle="-", **style)
        right.plot(payload[name]["position"]["predicted"], marker=marker, markersize=4, **style)
    observed = payload["evaluator"]["position"]["observed"]
    right.plot(observed, "--", color=colour("observed"), label="observed")
    limit = 1.05 * max(payload["evaluator"]["calibration"]["observed"])
    left.set(xlabel="predicted like probability, by decile", ylabel="observed like rate",
             xlim=(0, limit), ylim=(0, limit), title="Calibration")  # fmt: skip
    right.set(xlabel="position in the logged list (0-based)", ylabel="like rate",
              title="Like rate by position")  # fmt: skip
    handles, labels = right.get_legend_handles_labels()
    figure.legend([*handles, diagonal], [*labels, "calibrated"], loc="outside lower center",
                  ncols=4)  # fmt: skip
    for axis in (left, right):
        axis.grid(alpha=0.3)
    save(figure, path)


def errorbar(axis: Any, x: Sequence[float], intervals: Sequence[Any], **style: Any) -> None:
    """Draw means with their intervals: each of `intervals` is (mean, low, high)."""
    means = [mean for mean, _, _ in intervals]
    axis.errorbar(x, means, yerr=arms(intervals), capsize=2, elinewidth=1, **style)


def arms(intervals: Sequence[Any]) -> list[list[float]]:
    """Return the distances below and above each mean; NaN, which draws nothing, if there are none.

    Each of `intervals` is (mean, low, high), or (mean, None, None) over too few lists.
    """
    nan = float("nan")
    below = [nan if low is None else mean - low for mean, low, _ in intervals]
    above = [nan if high is None else high - mean for mean, _, high in intervals]
    return [below, above]
