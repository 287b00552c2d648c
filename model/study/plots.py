"""The report's plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.study.variants import NEURAL


def plot_entropy(
    positions: Sequence[dict[str, Any]], keys: Sequence[tuple[str, str, str]], path: Path
) -> None:
    """Entropy by position before and after reasoning, and where the steps were spent.

    A panel for each of `keys` (data set, split, track) that some entry of `positions` is of.
    """
    pyplot = drawing()
    found: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for entry in positions:
        key = entry["dataset"], entry["split"], entry["track"]
        found.setdefault(key, {})[entry["model"]] = entry
    keys = [key for key in keys if key in found]
    if not keys:
        return
    figure, axes = pyplot.subplots(
        2, len(keys), figsize=(4.2 * len(keys), 6.5), layout="constrained", squeeze=False
    )
    for (above, below), key in zip(axes.T, keys, strict=True):
        names = [name for name in NEURAL if name in found[key]]
        for name in names:
            number = list(NEURAL).index(name)  # the colour in every panel
            mean = found[key][name]
            above.plot(mean["entropy_before"], "--", color=f"C{number}")
            above.plot(mean["entropy_after"], "-o", color=f"C{number}", markersize=3, label=name)
            below.plot(mean["steps_by_position"], "-o", color=f"C{number}", markersize=3)
        above.set(title=", ".join(key), ylabel="choice entropy (nats)")
        below.set(xlabel="position", ylabel="reasoning steps")
    axes[0, 0].legend(fontsize=7, title="dashed: before reasoning", title_fontsize=7)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


def plot_curves(curves: list[dict[str, Any]], path: Path) -> None:
    """Quality against latency for M sampled slates and every budget."""
    if not curves:
        return
    pyplot = drawing()
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, metric in zip(axes, ("ndcg@10", "utility"), strict=True):
        for budget in sorted({point["budget"] for point in curves}):
            points = [p for p in curves if p["budget"] == budget]
            axis.plot([p["ms"] for p in points], [p[metric][0] for p in points], "-o",
                      label=f"S = {budget}")  # fmt: skip
            for point in points:
                axis.annotate(str(point["slates"]), (point["ms"], point[metric][0]), fontsize=7)
        axis.set(xlabel="ms per request (torch, one thread)", ylabel=metric, xscale="log")
    axes[0].legend(title="numbers: slates M", fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def drawing() -> Any:
    """pyplot without a display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
