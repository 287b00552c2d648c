"""Values of the page's section on learning from search, all from the report's JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from model.data.intervals import excludes_zero, format_interval
from model.study.search_gates import ALWAYS, KINDS, NONE, SHARES, gate_name
from model.study.search_models import FULL, MOVIELENS, RANKLENS, WORLD, host_of

Entry = Mapping[str, Any]
SHOWN = (NONE, gate_name(KINDS[0], SHARES[0]), ALWAYS)
WIDTH = 100  # columns of the page's prose
ABOUT = {
    WORLD: """The teacher tries all slates under a list-wise evaluator. The best choice depends on
        the candidates that are left, which the pointer host sees only in a reasoning token. Clicks
        are expected ones of the click model, as a share of the best slate's.""",
    RANKLENS: """The teacher is a greedy search for expected alpha-DCG over genres. A candidate
        gains its probability times what is left of its genres, so the best choice follows from
        candidate and prefix, and a host that never looks at the list lacks nothing. The objective
        on validation lists still rose in the last epoch.""",
    MOVIELENS: "The teacher is that of RankLens, over 50 candidates.",
}


def section(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of search_section.md.jinja, its variable `search`."""
    verdicts = (verdict(dataset) for dataset in payload["datasets"])
    return {
        "made": payload["made"],
        "commits": payload["commits"],
        "hours": f"{payload['core_seconds'] / 3600:.1f}",
        "verdict": "\n".join(
            textwrap.fill(f"- {text}", WIDTH, subsequent_indent="  ") for text in verdicts
        ),
        "datasets": [
            describe(dataset, payload["setting"][dataset["name"]])
            for dataset in payload["datasets"]
        ],
    }


def describe(dataset: Entry, setting: Entry) -> dict[str, Any]:
    """Return one data set's tables and introduction."""
    names = ("name", "labels", "controls", "gates", "kills")
    shares: dict[str, dict[str, Any]] = {}
    for entry in dataset["shares"]:
        of_model = shares.setdefault(
            entry["model"], {"model": entry["model"], "gain": entry["gain"], "left": []}
        )
        of_model["left"].append(entry["left"])
    about = (
        f"{' '.join(ABOUT[dataset['name']].split())} Generators learned from the first "
        f"{setting['train_lists']:,} lists for {setting['search']['epochs']} epochs, and ranked "
        f"{dataset['lists']:,} test lists."
    )
    return {
        **{name: dataset[name] for name in names},
        "about": textwrap.fill(about, WIDTH),
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
    seeds = "1 seed" if row["seeds"] == 1 else f"{row['seeds']} seeds"
    text = (
        f"**{name}** ({seeds}): reasoning at every step changes the pointer host's "
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
    labels = [f"{label} by {fine(row[f'{label} - host'])}" for label in dataset["labels"]]
    return f"{text} It changes {' and '.join(labels)}. {entropy_shape(dataset)}"


def entropy_shape(dataset: Entry) -> str:
    """Say where on the slate EGLR's entropy is highest, beside the paper's claim."""
    (entry,) = (e for e in dataset["entropy"] if (e["model"], e["gate"]) == (FULL[0], ALWAYS))
    after = entry["entropy after"]
    peak, last = after.index(max(after)), len(after) - 1
    inside = 0 < peak < last
    return (
        f"Its choice entropy after reasoning is highest at position {peak} of 0 to {last}, so the "
        f"paper's low, high, low is {'seen' if inside else 'not seen'} here."
    )


def told_apart(difference: Sequence[float | None]) -> str:
    """Return less, more or not told apart, for a paired difference in regret."""
    if not excludes_zero(difference):
        return "not told apart"
    return "less regret" if (difference[0] or 0.0) < 0 else "more regret"


def fine(difference: Sequence[float | None]) -> str:
    """Format a difference with five digits, since regrets are small."""
    return format_interval(difference, signed=True, digits=5)
