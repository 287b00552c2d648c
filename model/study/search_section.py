"""Values of the page's section on learning from search, all from the report's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from model.data.intervals import excludes_zero, format_interval
from model.study.search_gates import ALWAYS, KINDS, NONE, SHARES, gate_name
from model.study.search_models import FULL, MOVIELENS, RANKLENS, WORLD

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
    names = ("name", "lists", "seeds", "labels", "gates", "kills")
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
    model = FULL[0]
    if (model, ALWAYS) not in rows:
        return f"**{dataset['name']}**: `{model}` was not measured."
    change = rows[model, ALWAYS]["regret - host"]
    controls = [
        f"the {name.partition(' ')[2]} {told_apart(row['regret - host'])}"
        f" ({fine(row['regret - host'])})"
        for (name, gate), row in rows.items()
        if gate == ALWAYS and name in ("pointer zero token", "pointer learned token")
    ]
    gates = [
        f"{told_apart(entry['difference'])} at {100 * entry['share']:.0f} %"
        for entry in dataset["gates"]
        if entry["other"] == "random"
    ]
    host = rows["pointer host", NONE]["regret"][0]
    text = (
        f"**{dataset['name']}**: with every step the pointer host's regret of {host:.5f} "
        f"{'falls' if (change[0] or 0.0) < 0 else 'rises'} by reasoning, {fine(change)}: "
        f"{told_apart(change)}."
    )
    if controls:
        text += f" With the same steps, {', and '.join(controls)}."
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
