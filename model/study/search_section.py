"""Values of the page's section on learning from search, all from the report's JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from model.data.intervals import excludes_zero, format_interval
from model.study.search_gates import ALWAYS, KINDS, NONE, SHARES, gate_name
from model.study.search_models import (
    FULL,
    LONG,
    MOVIELENS,
    RANKLENS,
    TRAINED_ALWAYS,
    WORLD,
    host_of,
)

Entry = Mapping[str, Any]
SHOWN = (NONE, gate_name(KINDS[0], SHARES[0]), ALWAYS)
SEEING = ("gru EGLR", "transformer EGLR")  # their hosts see the list while they decode
WIDTH = 100  # columns of the page's prose
ABOUT = {
    WORLD: """The teacher tries all slates under a list-wise evaluator. The best choice depends on
        the candidates that are left, which the pointer host sees only in a reasoning token. Clicks
        are expected ones of the click model, as a share of the best slate's.""",
    RANKLENS: """The teacher is a greedy search for expected alpha-DCG over genres. A candidate
        gains its probability times what is left of its genres, so the best choice follows from
        candidate and prefix, and a host that never looks at the list lacks nothing. The objective
        on validation lists still rose in the last epoch.""",
    LONG: """The same on all lists and for twice the epochs, to see if a lead is one of what a host
        can learn or of how fast.""",
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
    limit = setting["train_lists"]
    about = (
        f"{' '.join(ABOUT[dataset['name']].split())} Generators learned from "
        f"{f'the first {limit:,}' if limit else 'all train'} lists for "
        f"{setting['search']['epochs']} epochs, and ranked {dataset['lists']:,} test lists."
    )
    return {
        **{name: dataset[name] for name in names},
        "about": textwrap.fill(about, WIDTH),
        "table": [row for row in dataset["rows"] if row["gate"] in SHOWN],
        "shares": list(shares.values()),
    }


def verdict(dataset: Entry) -> str:
    """Say if EGLR beats its host and the controls, and the entropy gate the other gates."""
    rows = {(row["model"], row["gate"]): row for row in dataset["rows"]}
    host = rows[host_of(FULL[0]), NONE]["regret"][0]
    parts = [f"**{dataset['name']}**: the pointer host has a regret of {host:.5f}."]
    for model, training in ((FULL[0], "random gates"), (TRAINED_ALWAYS, "every step")):
        if (model, ALWAYS) in rows:
            row, plain = (rows[model, gate]["regret - host"] for gate in (ALWAYS, NONE))
            seeds = rows[model, ALWAYS]["seeds"]
            parts.append(
                f"Reasoning at every step, trained with {training} ({seeds} "
                f"{'seed' if seeds == 1 else 'seeds'}), changes it by {fine(row)} "
                f"({told_apart(row)}), and no step of those weights by {fine(plain)}."
            )
    controls = [
        f"{entry['other'].partition(' ')[2]} {told_apart(entry['difference'])} "
        f"({fine(entry['difference'])})"
        for entry in dataset["controls"]
        if entry["model"] == FULL[0]
    ]
    if controls:
        parts.append(f"Against tokens of other content with the same steps: {', '.join(controls)}.")
    parts += [sees_the_list(rows, model) for model in SEEING if (model, ALWAYS) in rows]
    if dataset["gates"]:
        parts.append(f"The entropy gate at equal steps: {'; '.join(rivals(dataset['gates']))}.")
        row = rows[FULL[0], ALWAYS]
        changes = [f"{label} by {fine(row[f'{label} - host'])}" for label in dataset["labels"]]
        parts.append(
            f"With every step it changes {' and '.join(changes)}. {entropy_shape(dataset)}"
        )
    return " ".join(parts)


def sees_the_list(rows: Mapping[tuple[str, str], Entry], model: str) -> str:
    """Say what reasoning changes for a host that sees the candidates while it decodes."""
    host, change = host_of(model), rows[model, ALWAYS]["regret - host"]
    return (
        f"The {host} sees the list while it decodes: without a step it has a regret of "
        f"{rows[host, NONE]['regret'][0]:.5f}, and every step changes it by {fine(change)} "
        f"({told_apart(change)})."
    )


def rivals(gates: Sequence[Entry]) -> list[str]:
    """Return, for each other gate, how the entropy gate compares at each share of the steps."""
    verdicts: dict[str, dict[str, list[str]]] = {}
    for entry in gates:
        shares = verdicts.setdefault(entry["other"], {})
        shares.setdefault(told_apart(entry["difference"]), []).append(f"{100 * entry['share']:.0f}")
    return [
        f"against {kind}, " + " and ".join(f"{text} at {'/'.join(s)} %" for text, s in of.items())
        for kind, of in verdicts.items()
    ]


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
