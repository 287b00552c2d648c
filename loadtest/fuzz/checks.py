"""Checks of every ranked list in a response: the contract of docs/service.md.

A check returns an error as text, or None. Checks know the service only from outside: its document,
`/info` and the bundle's files.
"""

from __future__ import annotations

from collections import Counter

from loadtest.fuzz.exchange import Exchange
from loadtest.fuzz.explanations import explained, has_intent, steps_explained
from loadtest.fuzz.ids import is_id


def length(exchange: Exchange) -> str | None:
    """Check the length: as requested, else what bundle, candidates and constraints allow."""
    longest = min(len(exchange.sent_ids), exchange.info["slate_length"])
    expected = exchange.option("slate_size") or _fillable(exchange, longest)
    count = len(exchange.slate)
    return None if count == expected else f"{count} items, {expected} expected"


def _fillable(exchange: Exchange, longest: int) -> int:
    """Return the number of positions that can be filled."""
    pinned = exchange.pinned()
    excluded = exchange.blocked() | set(pinned)
    eligible = [c for c in exchange.candidates if c["id"] not in excluded]
    fill, limit = len(eligible), exchange.limit()
    if limit is not None:
        name, quota = limit
        groups = [exchange.bundle.group(candidate, name) for candidate in eligible]
        held = Counter(
            exchange.bundle.group(candidate, name)
            for candidate in exchange.candidates
            if candidate["id"] in pinned
        )
        fill = sum(
            count if group is None else min(count, max(0, quota - held[group]))
            for group, count in Counter(groups).items()
        )
    below = (size - sum(at < size for at in pinned.values()) for size in range(longest + 1))
    return max(size for size, free in enumerate(below) if free <= fill)


def candidates(exchange: Exchange) -> str | None:
    """Check that the slate has distinct candidates as they were sent, with the right positions."""
    ids = [entry["id"] for entry in exchange.slate]
    if len(set(ids)) < len(ids):
        return f"an id is repeated: {ids}"
    for position, entry in enumerate(exchange.response["slate"]):
        initial = entry["initial_position"]
        if entry["position"] != position:
            return f"position {entry['position']} stands at {position}"
        if not 0 <= initial < len(exchange.sent_ids):
            return f"{initial} is no initial position"
        sent = exchange.sent_ids[initial]
        if sent != entry["id"] or type(sent) is not type(entry["id"]):
            return f"{entry['id']!r} is not candidate {initial}, {sent!r}"
    return None


def ids(exchange: Exchange) -> str | None:
    """Check that every accepted id is one: text or an integral number, each candidate once."""
    names = [candidate["id"] for candidate in exchange.candidates]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        return f"accepted a candidate twice: {repeated}"
    history = exchange.option("user", "history") or ()
    sent = [
        *exchange.sent_ids, exchange.option("user", "id"),
        *(entry["id"] if isinstance(entry, dict) else entry for entry in history),
        *(exchange.option("constraints", "blocked") or ()),
    ]  # fmt: skip
    wrong = [item for item in sent if item is not None and not is_id(item)]
    return f"accepted as ids: {wrong}" if wrong else None


def request_id(exchange: Exchange) -> str | None:
    """Check that the response has the request_id of the body."""
    sent, returned = exchange.option("request_id"), exchange.response["request_id"]
    return None if sent in (None, returned) else f"request_id {returned!r}, {sent!r} expected"


def blocked(exchange: Exchange) -> str | None:
    """Check that no blocked id is in the slate."""
    wrong = exchange.blocked() & {entry["id"] for entry in exchange.slate}
    return f"blocked ids in the slate: {wrong}" if wrong else None


def pinned(exchange: Exchange) -> str | None:
    """Check that every pinned id is at its position, without reasoning."""
    for item, position in exchange.pinned().items():
        if position >= len(exchange.slate) or exchange.slate[position]["id"] != item:
            return f"{item!r} is not at {position}"
        if exchange.slate[position]["reasoning_steps"]:
            return f"reasoned about the pinned position {position}"
    return None


def max_per_group(exchange: Exchange) -> str | None:
    """Check that no group has more items than its quota."""
    limit = exchange.limit()
    if limit is None:
        return None
    groups = {c["id"]: exchange.bundle.group(c, limit[0]) for c in exchange.candidates}
    for value, count in Counter(groups[entry["id"]] for entry in exchange.slate).items():
        if value is not None and count > limit[1]:
            return f"{count} items of {limit[0]} {value!r}, at most {limit[1]}"
    return None


def steps(exchange: Exchange) -> str | None:
    """Check that steps add up within the granted budget, and that within the requested one."""
    reasoning = exchange.response["reasoning"]
    requested = exchange.option("reasoning", "budget")
    budget = exchange.info["budget_per_position"] if requested is None else requested
    taken = [entry["reasoning_steps"] for entry in exchange.slate]
    granted = reasoning["budget_per_position"]
    reduced = "reduced_budget" in (exchange.response["degraded"] or {}).get("reasons", ())
    expected = (sum(taken), granted * len(taken), budget)
    reported = (reasoning["steps_used"], reasoning["budget"], reasoning["budget_asked"])
    if reported != expected or (granted < budget) != reduced or granted > budget:
        return f"steps used, budget, asked: {reported}, {expected} expected, {granted} granted"
    within = all(0 <= count <= granted for count in taken)
    return None if within else f"{taken} steps, at most {granted} each"


def figures(exchange: Exchange) -> str | None:
    """Check the model's figures: possible ones, and none in a response without the model."""
    names = ("logprob", "entropy", "entropy_after")
    pins = exchange.pinned().keys()
    chosen = [entry for entry in exchange.slate if entry["id"] not in pins]
    values = [entry[name] for entry in chosen for name in names]
    reason = exchange.response["degraded"] and exchange.response["degraded"]["reason"]
    if reason == "model_error":
        return "the model failed"
    if reason not in (None, "reduced_budget", "state"):
        if any(value is not None for value in values):
            return "a degraded answer with figures of the model"
        order = [e["initial_position"] for e in exchange.slate]
        reordered = exchange.option("constraints") or has_intent(exchange)
        kept = reordered or order == sorted(order)
        return None if kept else f"degraded to {order}"
    if any(value is None for value in values):
        return "figures of the model are missing"
    if (exchange.response["utility"] is None) != (exchange.option("sampling") is None):
        return f"utility {exchange.response['utility']}, sampling {exchange.option('sampling')}"
    for entry in chosen:
        if entry["logprob"] > 1e-4 or min(entry["entropy"], entry["entropy_after"]) < -1e-4:
            return f"impossible figures: {entry}"
    return None


def unknown_candidates(exchange: Exchange) -> str | None:
    """Check the number of candidates that the bundle has no item for."""
    count = exchange.response["unknown_candidates"]
    expected = sum(c["id"] not in exchange.bundle.items for c in exchange.candidates)
    return None if count == expected else f"{count} unknown candidates, {expected} expected"


CHECKS = (
    length, candidates, ids, request_id, blocked, pinned, max_per_group, steps, figures,
    unknown_candidates, explained, steps_explained,
)  # fmt: skip
# Of lists with candidates that the entity store may know otherwise than the item table.
OF_TABLE = {check.__name__ for check in (length, max_per_group, unknown_candidates, explained)}
LIST_CHECKS = {check.__name__: check for check in CHECKS}
