"""Figures, text and plot of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from model.data.intervals import format_interval
from model.data.log_splits import to_iso
from model.experiment.decision import MS_PER_DAY, Decision, guards_of
from model.experiment.outcomes import Outcomes
from model.experiment.rules import Rules
from model.experiment.sequence import Trajectory
from model.study.plots import OTHER_COLOUR, pyplot, save
from service.models.store import ServingConfig

COLOURS = {"promote": "#00702f", "roll back": "#d94801", "wait": "#08519c"}


def figures_of(
    outcomes: Outcomes,
    paths: Mapping[str, Trajectory],
    rules: Rules,
    config: ServingConfig,
    decision: Decision,
) -> dict[str, Any]:
    """Return all figures as JSON; an interval of too few users is null."""
    canaries = int(outcomes.is_canary.sum())
    return {
        "active": config.active,
        "canary": config.canary,
        "share": config.share,
        "began": to_iso(outcomes.began),
        "users": {"active": len(outcomes.is_canary) - canaries, "canary": canaries},
        "crossed": outcomes.crossed,
        "counts": dict(outcomes.counts),
        "metrics": {
            name: latest(path) for name, path in paths.items() if name != "users" and len(path.low)
        },
        "rules": rules.model_dump(),
        "decision": asdict(decision),
    }


def latest(path: Trajectory) -> dict[str, Any]:
    """Return means and [difference, low, high] after the last user."""
    ends = [path.difference[-1], path.low[-1], path.high[-1]]
    active, canary = (None if np.isnan(mean) else float(mean) for mean in path.means[-1])
    return {
        "active": active,
        "canary": canary,
        "difference": [None if np.isnan(end) else float(end) for end in ends],
    }


def format_experiment(figures: Mapping[str, Any]) -> str:
    """Return the text of an experiment, from its JSON."""
    lines = [f"{name}: {count}" for name, count in figures["counts"].items()]
    users = figures["users"]
    lines += [
        f"users since {figures['began']}: {users['active']} of active {figures['active']}, "
        f"{users['canary']} of canary {figures['canary']}, {figures['crossed']} of both left out",
        "",
        f"{'mean over users':16} {'active':>10} {'canary':>10}  difference",
    ]
    for name, metric in figures["metrics"].items():
        means = (
            f"{'-' if metric[side] is None else format(metric[side], '.4f'):>10}"
            for side in ("active", "canary")
        )
        ends = metric["difference"]
        text = "-" if ends[0] is None else format_interval(ends, signed=True)
        lines.append(f"{name:16} {' '.join(means)}  {text}")
    lines += [
        f"All intervals of all looks hold the truth in {1 - figures['rules']['risk']:.0%}.",
        "",
        f"decision: {figures['decision']['action']}",
        *(f"  {reason}" for reason in figures["decision"]["reasons"]),
    ]
    return "\n".join(lines)


def plot_experiment(
    figures: Mapping[str, Any], paths: Mapping[str, Trajectory], outcomes: Outcomes, path: Path
) -> None:
    """Draw each difference with its interval over time, and the limits of the rules."""
    rules = Rules.model_validate(figures["rules"])
    limits: dict[str, tuple[float, ...]] = {
        "reward": (rules.reward.promote_above, rules.reward.roll_back_below)
    }
    limits |= {name: (guard.rise,) for name, guard in guards_of(rules).items()}
    figure, axes = pyplot().subplots(
        1, len(limits), figsize=(4.6 * len(limits), 3.2), squeeze=False, layout="constrained"
    )
    colour = COLOURS[figures["decision"]["action"]]
    days = (outcomes.ended - outcomes.began) / MS_PER_DAY
    for axis, (name, marks) in zip(axes[0], limits.items(), strict=True):
        trajectory = paths[name]
        enough = trajectory.users.min(axis=1) >= rules.least_users
        axis.plot(days[enough], trajectory.difference[enough], color=colour)
        axis.fill_between(
            days[enough], trajectory.low[enough], trajectory.high[enough], color=colour, alpha=0.2
        )
        for mark in set(marks):
            axis.axhline(mark, color=OTHER_COLOUR, linestyle="--", linewidth=0.8)
        axis.set(title=name, xlabel="days", ylabel="canary - active")
        axis.grid(alpha=0.3)
    figure.suptitle(f"{figures['canary']} against {figures['active']}: "
                    f"{figures['decision']['action']}")  # fmt: skip
    save(figure, path)
