"""The check of explanations: there if requested, with boosts and diversity by the stated law."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from loadtest.fuzz.exchange import Exchange

CLOSE = 1e-3  # nats: the service computes in float32
SMALLEST = 1e-37  # of a boost that float32 holds in full
FLOOR = 1e-30
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
