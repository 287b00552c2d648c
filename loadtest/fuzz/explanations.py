"""The checks of explanations: there if requested, with boosts and diversity by the stated law."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from loadtest.fuzz.exchange import Exchange

CLOSE = 1e-3  # nats: the service computes in float32
SMALLEST = 1e-37  # of a boost that float32 holds in full
FLOOR = 1e-30
ROUNDED = 1e-4  # nats and shares: figures of another computation, rounded to six digits
MAX_CHOICES = 5  # of a state
UNRANKED = frozenset(("deadline", "overload", "model_error"))  # reasons for an initial ranking
STEPS_MISSING = ("opening", "deadline", "overload")  # reasons for a ranked slate without steps
DEFAULTS = {"weight": 0.6, "decay": 0.2, "law": "sum"}


def terms_of(exchange: Exchange) -> list[dict[str, Any]]:
    """Return the terms of a request's diversity with their defaults."""
    stated = exchange.option("diversity") or []
    terms = stated if isinstance(stated, list) else [stated]
    return [
        {"by": term["by"]}
        | {n: value if term.get(n) is None else term[n] for n, value in DEFAULTS.items()}
        for term in terms
    ]


def boosts_of(exchange: Exchange) -> list[float]:
    """Return the boost of each candidate."""
    return [candidate.get("boost") or 0.0 for candidate in exchange.candidates]


def has_intent(exchange: Exchange) -> bool:
    """Return True for a request with diversity or boosts, be they 0."""
    return bool(terms_of(exchange)) or any(
        candidate.get("boost") is not None for candidate in exchange.candidates
    )


def bonus(exchange: Exchange, position: int) -> float:
    """Return the nats of diversity of the item at a position, by the law of docs/service.md."""
    total = 0.0
    order = [entry["initial_position"] for entry in exchange.slate]
    for term in terms_of(exchange):
        values = [
            exchange.bundle.values_of(exchange.candidates[index], term["by"]) for index in order
        ]
        counts = Counter(value for earlier in values[:position] for value in earlier)
        of_item = values[position]
        if of_item:
            worth = math.fsum((1 - term["decay"]) ** counts[value] for value in of_item)
            worth /= len(of_item) if term["law"] == "mean" else 1
            total += term["weight"] * math.log(worth + FLOOR)
    return total


def explained(exchange: Exchange) -> str | None:
    """Check that explanations are there if requested, and state boosts and diversity by the law."""
    explanations = [entry.get("explanation") for entry in exchange.slate]
    if not exchange.option("explain"):
        return None if explanations.count(None) == len(explanations) else "explained unasked"
    if None in explanations:
        return "an explanation is missing"
    boosts = boosts_of(exchange)
    if any(0 < abs(boost) < SMALLEST for boost in boosts):
        return None
    states = any(boosts) or any(term["weight"] for term in terms_of(exchange))
    pins = exchange.pinned()
    for position, entry in enumerate(exchange.slate):
        figures = entry["explanation"]
        if not states or entry["id"] in pins:
            expected = {"boost": None, "diversity": None, "instead_of": None}
            if {name: figures[name] for name in expected} != expected:
                return f"position {position} explains an intent that it has not: {figures}"
            continue
        right = {
            "boost": boosts[entry["initial_position"]], "diversity": bonus(exchange, position),
        }  # fmt: skip
        for name, nats in right.items():
            if figures[name] is None or abs(figures[name] - nats) > CLOSE:
                return f"position {position}: {name} {figures[name]}, {nats} expected"
        if figures["instead_of"] == exchange.response["slate"][position]["id"]:
            return f"position {position} is instead of itself"
        if figures["instead_of"] not in [None, *exchange.sent_ids]:
            return f"position {position} is instead of no candidate: {figures['instead_of']!r}"
    return None


def steps_explained(exchange: Exchange) -> str | None:
    """Check that states of reasoning are there if requested, and agree with their position.

    A slate without them must have a reason, which is "not_ranked" for an initial ranking alone.
    """
    explanations = [entry.get("explanation") or {} for entry in exchange.slate]
    missing = exchange.response.get("steps_missing")
    if exchange.option("explain") != "steps":
        unasked = missing or any("steps" in explanation for explanation in explanations)
        return "states of reasoning unasked" if unasked else None
    if any("steps" not in explanation for explanation in explanations):
        return "states of reasoning are missing"
    states_of = [explanation["steps"] for explanation in explanations]
    if None in states_of:
        if any(states is not None for states in states_of):
            return "states of reasoning of a part of the slate"
        reasons = (exchange.response["degraded"] or {}).get("reasons", ())
        expected = STEPS_MISSING if UNRANKED.isdisjoint(reasons) else {"not_ranked"}
        return None if missing in expected else f"steps_missing {missing!r}, degraded {reasons}"
    if missing is not None:
        return f"states of reasoning with steps_missing {missing!r}"
    pins = exchange.pinned()
    for position, entry in enumerate(exchange.response["slate"]):
        states = states_of[position]
        if exchange.slate[position]["id"] in pins:
            wrong = "states of a choice that was none" if states else None
        else:
            wrong = _states_differ(entry, states)
        if wrong is not None:
            return f"position {position}: {wrong}"
    return None


def _states_differ(entry: dict[str, Any], states: list[dict[str, Any]]) -> str | None:
    """Return the first disagreement of the states of a choice with its entry, or None."""
    if len(states) != 1 + entry["reasoning_steps"]:
        return f"{len(states)} states of {entry['reasoning_steps']} steps"
    if states[-1]["choice"] != entry["id"]:
        return f"the last state chooses {states[-1]['choice']!r}, not {entry['id']!r}"
    for figure, state in (("entropy", states[0]), ("entropy_after", states[-1])):
        if abs(state["entropy"] - entry[figure]) > ROUNDED:
            return f"a state with entropy {state['entropy']}, {figure} is {entry[figure]}"
    for number, state in enumerate(states):
        changed = number > 0 and state["choice"] != states[number - 1]["choice"]
        if state["changed"] != changed:
            return f"state {number} has changed {state['changed']}"
        choices = state["choices"]
        if not 1 <= len(choices) <= MAX_CHOICES:
            return f"{len(choices)} choices in state {number}"
        is_last = number + 1 == len(states)
        if any((choice["weight"] is None) != is_last for choice in choices):
            return f"state {number} of {len(states)} has weights {choices}"
        if math.fsum(choice["probability"] for choice in choices) > 1 + ROUNDED:
            return f"state {number} has more than the whole probability: {choices}"
    return None
