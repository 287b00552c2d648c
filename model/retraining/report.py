"""The report of a run: one HTML page with its plots inside, for whoever looks after the loop."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from model.data.intervals import format_interval
from model.learning.drift import DRIFTED
from model.retraining.plan import TRAINING
from model.retraining.record import RunRecord
from model.study.plots import OTHER_COLOUR, pyplot
from pages.figures import drawn, inline
from pages.page import environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT = "report.html"
TEMPLATES = Path(__file__).with_name("templates")
PASSED, FAILED = "#00702f", "#d94801"


def write_report(record: RunRecord, outcome: str) -> None:
    """Write `report.html` of a run with its plan, stages, gates and plots."""
    stages, plan = record.stages, record.plan
    gates = [gate for figures in stages.values() for gate in figures.get("gates", ())]
    plots = {
        "Validation while training": plot_training(record.directory / TRAINING / "metrics.jsonl"),
        "Difference to the active bundle": plot_difference(gates),
        "Drift of features": plot_drift(stages.get("train", {}).get("drift")),
    }
    splits = {k: v for k, v in stages.get("prepare", {}).items() if isinstance(v, dict)}
    text = environment(TEMPLATES).get_template("retraining.html.jinja").render(
        title=f"{plan.name}/{plan.version}: {outcome}",
        plan=plan,
        gates=[gate_row(gate) for gate in gates],
        failed=[gate["name"] for gate in gates if not gate["passed"]],
        lists=[
            {"split": name} | {key: counts[key] for key in ("requests", "users", "positives")}
            for name, counts in splits.items()
        ],
        joined=stages.get("join", {}).get("counts", {}),
        stages=[
            {"stage": name, "seconds of the last attempt": figures["seconds"]}
            for name, figures in stages.items()
        ],
        drawings=drawings(plots),
    )  # fmt: skip
    (record.directory / REPORT).write_text(text, encoding="utf-8")


def gate_row(gate: Mapping[str, Any]) -> dict[str, str]:
    """Return a gate as a row of the page."""
    figures = (f"{name}: {format_figure(value)}" for name, value in gate["figures"].items())
    return {
        "gate": gate["name"],
        "outcome": "passed" if gate["passed"] else "failed",
        "rule": gate["rule"],
        "figures": "; ".join(figures),
    }


def drawings(plots: Mapping[str, Figure | None]) -> dict[str, Markup]:
    """Return the plots that there are as elements of a page, by their titles, and free them."""
    elements = {}
    for number, (title, figure) in enumerate(plots.items(), 1):
        if figure is not None:
            elements[title] = Markup(inline(drawn(figure), title, f"figure-{number}"))
            pyplot().close(figure)
    return elements


def plot_training(log: Path) -> Figure | None:
    """Draw the validation metric of each epoch by stage; None if nothing was trained."""
    if not log.exists():
        return None
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    stages = list(dict.fromkeys(entry["stage"] for entry in entries))
    if not stages:
        return None
    figure, axes = pyplot().subplots(
        1, len(stages), figsize=(3.6 * len(stages), 2.8), squeeze=False, layout="constrained"
    )
    for axis, stage in zip(axes[0], stages, strict=True):
        of_stage = [entry for entry in entries if entry["stage"] == stage]
        name = validation_key(of_stage[0])
        epochs = [entry["epoch"] for entry in of_stage]
        axis.plot(epochs, [entry[name] for entry in of_stage], "o-", color=PASSED, markersize=4)
        axis.set(title=stage, xlabel="epoch", ylabel=name.removeprefix("valid_"))
        axis.set_xticks(epochs)
        axis.grid(alpha=0.3)
    return figure


def validation_key(entry: Mapping[str, Any]) -> str:
    """Return the validation metric to draw: NDCG@10 where there is one, or else the loss."""
    names = [name for name in entry if name.startswith("valid_")]
    preferred = ("valid_graded ndcg@10", "valid_ndcg@10")
    return next((name for name in preferred if name in names), names[0])


def plot_difference(gates: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw the interval of the difference in validation; None if it has none."""
    for gate in gates:
        if gate["name"] == "validation" and "difference" in gate["figures"]:
            value, low, high = gate["figures"]["difference"]
            figure, axis = pyplot().subplots(figsize=(5.4, 1.4), layout="constrained")
            colour = PASSED if gate["passed"] else FAILED
            axis.plot([low, high], [0, 0], color=colour)
            axis.plot([value], [0], "o", color=colour)
            axis.axvline(0.0, color=OTHER_COLOUR, linewidth=0.8)
            axis.set(yticks=[], xlabel="NDCG@10, candidate - active, 95 % interval over users")
            return figure
    return None


def plot_drift(drift: Mapping[str, float] | None) -> Figure | None:
    """Draw the population stability index of each feature, the largest at the top."""
    if not drift:
        return None
    entries = sorted(drift.items(), key=lambda entry: entry[1])
    names, values = [name for name, _ in entries], [value for _, value in entries]
    colours = [FAILED if value > DRIFTED else PASSED for value in values]
    figure, axis = pyplot().subplots(figsize=(5.4, 0.9 + 0.25 * len(names)), layout="constrained")
    axis.barh(names, values, color=colours)
    axis.axvline(DRIFTED, color=OTHER_COLOUR, linestyle="--", linewidth=0.8)
    axis.set(xlabel="population stability index since the checkpoint")
    return figure


def format_figure(value: Any) -> str:
    """Return one figure of a gate as text: an interval, a rounded number, or as it is."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3:
        return format_interval([float(end) for end in value], signed=True)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
