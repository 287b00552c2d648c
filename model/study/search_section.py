"""Values of the page's section on learning from search, all from the report's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from model.data.intervals import excludes_zero, format_interval
from model.study.search_gates import ALWAYS, KINDS, NONE, SHARES, gate_name
from model.study.search_models import FULL, MOVIELENS, RANKLENS, WORLD, host_of

Entry = Mapping[str, Any]
SHOWN = (NONE, gate_name(KINDS[0], SHARES[0]), ALWAYS)
ABOUT = {
    WORLD: "The teacher tries all slates under a list-wise evaluator, so a good choice depends on "
    "the candidates that are left. Clicks are expected ones of the click model, as a share of the "
    "best slate's.",
    RANKLENS: "The teacher is a greedy search for expected alpha-DCG over genres, so the best "
    "choice follows from the items already chosen.",
    MOVIELENS: "The teacher is that of RankLens, over 50 candidates, on a part of the lists.",
}


def section(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of search_section.md.jinja, its variable `search`."""
    return {
        "made": payload["made"],
        "commits": payload["commits"],
        "hours": f"{payload['core_seconds'] / 3600:.1f}",
        "verdict": "\n".join(f"- {verdict(dataset)}" for dataset in payload["datasets"]),
        "datasets": [describe(dataset) for dataset in payload["datasets"]],
    }


def describe(dataset: Entry) -> dict[str, Any]:
    """Return one data set's tables."""
    names = ("name", "lists", "seeds", "labels", "controls", "gates", "kills")
    shares: dict[str, dict[str, Any]] = {}
    for entry in dataset["shares"]:
        of_model = shares.setdefault(
            entry["model"], {"model": entry["model"], "gain": entry["gain"], "left": []}
        )
        of_model["left"].append(entry["left"])
    return {
        **{name: dataset[name] for name in names},
        "about": ABOUT[dataset["name"]],
        "table": [row for row in dataset["rows"] if row["gate"] in SHOWN],
        "shares": list(shares.values()),
    }


def verdict(dataset: Entry) -> str:
    """Say if EGLR of the pointer host beats its host, the controls, and the random gate."""
    rows = {(row["model"], row["gate"]): row for row in dataset["rows"]}
    model, name = FULL[0], dataset["name"]
    if (model, ALWAYS) not in rows:
        return f"**{name}**: `{model}` was not measured."
    row, host = rows[model, ALWAYS], rows[host_of(model), NONE]["regret"][0]
    text = (
        f"**{name}** ({row['seeds']} seeds): reasoning at every step changes the pointer host's "
        f"regret of {host:.5f} by {fine(row['regret - host'])}, {told_apart(row['regret - host'])}."
    )
    controls = [
        f"{entry['other'].partition(' ')[2]} {told_apart(entry['difference'])} "
        f"({fine(entry['difference'])})"
        for entry in dataset["controls"]
        if entry["model"] == model
    ]
    gates = [
        f"{told_apart(entry['difference'])} at {100 * entry['share']:.0f} %"
        for entry in dataset["gates"]
        if entry["other"] == "random"
    ]
    if controls:
        text += f" Against tokens of other content with the same steps: {', '.join(controls)}."
    if gates:
        text += f" The entropy gate against a random gate: {', '.join(gates)} of the steps."
    return text


def told_apart(difference: Sequence[float | None]) -> str:
    """Return less, more or not told apart, for a paired difference in regret."""
    if not excludes_zero(difference):
        return "not told apart"
    return "less regret" if (difference[0] or 0.0) < 0 else "more regret"


def fine(difference: Sequence[float | None]) -> str:
    """Format a difference with five digits, since regrets are small."""
    return format_interval(difference, signed=True, digits=5)
