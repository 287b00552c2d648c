"""The plot of fronts: relevance against diversity by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.study.diversity_cells import PLAIN, PM2
from model.study.diversity_metrics import METRICS
from model.study.diversity_scores import EVALUATOR, GENERATOR
from model.study.plots import arms, pyplot, save

Entry = Mapping[str, Any]
COLOURS = {
    "bonus in the loop": "#08306b",
    "bonus": "#4a90c9",
    "MMR": "#d94801",
    "xQuAD": "#00702f",
    "DPP": "#7a3d9a",
    PM2: "#b8860b",
}
LABELS = {
    "ndcg@10": "NDCG@10",
    "alpha-ndcg@10": "alpha-NDCG@10",
    "distance": "intra-list distance",
    "coverage": "coverage of values",
}


def plot_fronts(rows: Sequence[Entry], advice: Sequence[Entry], path: Path) -> None:
    """Draw each metric against NDCG@10: a column for each data set, a line for each front.

    Args:
        rows: entries of dataset, scores, method, weight, metric and mean.
        advice: summaries whose loop's point is marked, with its intervals.
    """
    names = [entry["dataset"] for entry in advice]
    vertical = METRICS[1:]
    figure, axes = pyplot().subplots(
        len(vertical), len(names), figsize=(4.6 * len(names) + 0.4, 3.4 * len(vertical)),
        squeeze=False, layout="constrained", sharex="col",
    )  # fmt: skip
    handles: dict[str, Any] = {}
    for column, entry in enumerate(advice):
        for line, metric in enumerate(vertical):
            axis = axes[line, column]
            for (scores, method), points in fronts_of(rows, entry["dataset"], metric).items():
                handles[f"{method}, {scores}"] = axis.plot(
                    [x for x, _ in points], [y for _, y in points], color=COLOURS[method],
                    linestyle="--" if scores == EVALUATOR else "-", marker="o", markersize=3,
                    linewidth=2.2 if scores == GENERATOR else 1.2,
                )[0]  # fmt: skip
            x, y = entry["advised"]["ndcg@10"], entry["advised"][metric]
            handles["advised weight"] = axis.errorbar(
                [x[0]], [y[0]], xerr=arms([x]), yerr=arms([y]), fmt="*", markersize=12,
                color=COLOURS["bonus in the loop"], capsize=2, elinewidth=1,
            )  # fmt: skip
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set(ylabel=LABELS[metric])
        axes[0, column].set(title=entry["dataset"])
        axes[-1, column].set(xlabel=LABELS["ndcg@10"])
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    save(figure, path)


def fronts_of(
    rows: Sequence[Entry], dataset: str, metric: str
) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Return the points (NDCG@10, metric) of each front by scores and method, by rising weight.

    All but PM-2 begin at the plain sort.
    """
    points: dict[tuple[str, str], dict[float, dict[str, float]]] = {}
    for row in rows:
        if row["dataset"] == dataset:
            by_weight = points.setdefault((row["scores"], row["method"]), {})
            by_weight.setdefault(row["weight"], {})[row["metric"]] = row["mean"]
    fronts = {}
    for (scores, method), by_weight in points.items():
        if method != PLAIN:
            start = [] if method == PM2 else list(points[scores, PLAIN].values())
            path = [*start, *(by_weight[weight] for weight in sorted(by_weight))]
            fronts[scores, method] = [(point["ndcg@10"], point[metric]) for point in path]
    return fronts
