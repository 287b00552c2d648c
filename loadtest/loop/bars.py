"""The bars of the loop: each holds for every loop by itself, so that none makes up for another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loadtest.loop.kills import RETRAINING
from loadtest.loop.ledger import BEFORE_S
from loadtest.loop.served import FEEDBACK, RANKING

DELIVERED = ("in time", "late", "overdue", "doubled")  # fates of feedback that is sent
# Outcomes of the join, of which each record of an event has one.
OUTCOMES = (
    "joined", "duplicate", "without a request", "orphaned", "late", "ambiguous", "of another user",
    "on a list left out", "unsettled",
)  # fmt: skip
GAINS = (("frozen", "the loop is above the frozen model"), ("state", "the loop is above the store"))
Outcome = Mapping[str, Any]
Results = Mapping[str, Sequence[Outcome]]  # arm -> the outcome of each seed


def bars_of(
    results: Results, summary: Sequence[Mapping[str, Any]], smoke: bool, parts: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the bars: the circle closes, nothing acknowledged is lost, and the loop gains.

    Args:
        summary: differences between arms; smoke: proves no gain.
        parts: that are killed in every loop.
    """
    loops = loops_of(results)
    bars = []
    if loops:
        bars += [*_circle(loops), *_kills(loops, parts), *_store(loops), *_journal(loops)]
    if not smoke:
        bars += _gains(summary)
    return bars


def loops_of(results: Results) -> list[Outcome]:
    """Return the outcomes of all loops."""
    return [o for arm, outs in results.items() if arm.startswith("loop") for o in outs]


def _circle(loops: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    for rule, name in (
        ("a candidate passes its gates as canary in every loop", "canary"),
        ("a canary is promoted in every loop", "promote"),
    ):
        counts = [sum(job["outcome"] == name for job in loop["jobs"]) for loop in loops]
        yield bar(rule, f"{sum(counts)} in all; fewest in a loop: {min(counts)}", min(counts) > 0)


def _kills(loops: Sequence[Outcome], parts: Sequence[str]) -> Iterator[dict[str, Any]]:
    if not parts:
        return
    counts = [Counter(kill["part"] for kill in loop["kills"]) for loop in loops]
    fewest = min(count[part] for count in counts for part in parts)
    total = sum(count.total() for count in counts)
    yield bar(
        f"{', '.join(parts)} are each killed in every loop",
        f"{total} kills; fewest of a part in a loop: {fewest}", fewest > 0,
    )  # fmt: skip
    served = [kill for loop in loops for kill in loop["kills"] if kill["part"] != RETRAINING]
    amid = sum(all(kill["in_flight"].get(p, 0) for p in (RANKING, FEEDBACK)) for kill in served)
    yield bar(
        "lists and events are in flight at every kill of store, service and worker",
        f"{amid} of {len(served)} kills", amid == len(served),
    )  # fmt: skip


def _store(loops: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    counts = [store_of(loop) for loop in loops]
    lost, extra, due = (sum(each[name] for each in counts) for name in ("lost", "too many", "due"))
    yield bar(
        "the store has every acknowledged answer once, after every kill and at the end",
        f"{lost} are lost and {extra} too many, of {due}", lost == extra == 0,
    )  # fmt: skip


def _journal(loops: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    yield _count_bar(
        "every event that was sent is acknowledged",
        [abs(sent_of(loop) - loop["journal"]["events acknowledged"]) for loop in loops],
    )
    yield _count_bar(
        f"the journal has every list, but for those answered less than {BEFORE_S:g} s before a "
        "kill of the service or a worker",
        [loop["journal"]["lists lacking unexplained"] for loop in loops],
    )
    yield _count_bar(
        f"the journal has every event, but for those acknowledged less than {BEFORE_S:g} s before "
        "such a kill, and those sent again after a kill",
        [loop["journal"]["events lacking unexplained"] for loop in loops],
    )
    yield _count_bar(
        "the join counts every event of the journal once",
        [abs(loop["journal"]["event records"] - counted_of(loop)) for loop in loops],
    )


def _count_bar(rule: str, exceptions: Sequence[int]) -> dict[str, Any]:
    """Return a bar that no loop has an exception to."""
    return bar(rule, f"{sum(exceptions)} exceptions", not any(exceptions))


def _gains(summary: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for arm, rule in GAINS:
        for row in summary:
            if row["what"] == f"loop - {arm}, all days":
                low = row["low"]
                text = "one seed" if low is None else f"interval from {low:.4f}"
                yield bar(rule, text, low is not None and low > 0)


def bar(rule: str, text: str, kept: bool) -> dict[str, Any]:
    """Return a bar with its figure."""
    return {"rule": rule, "figure": text, "kept": kept}


def store_of(loop: Outcome) -> Counter[str]:
    """Return the sum of the comparisons of the store of one loop."""
    counts: Counter[str] = Counter()
    for compared in loop["store"]:
        counts.update(compared)
    return counts


def sent_of(loop: Outcome) -> int:
    """Return the number of events that one loop sent at least once."""
    return sum(loop["feedback"].get(f"events {fate}", 0) for fate in DELIVERED)


def counted_of(loop: Outcome) -> int:
    """Return the number of records of events that the join of one loop counted."""
    return sum(loop["joined"].get(f"events: {outcome}", 0) for outcome in OUTCOMES)
