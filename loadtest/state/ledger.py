"""The events that clients have sent, and those of them that were acknowledged."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from loadtest.errors import LoadTestError
from loadtest.scenarios import read_bundle
from loadtest.state.calls import Event, event, now_ms

LARGEST = 20  # events of a batch
ITEMS = 300  # that the bundle does not know
FULL = 100  # answers of a user, before the next one; none is displaced from a history of 128


@dataclass
class Ledger:
    """The events that each client has in flight, and the acknowledged ones by user and by item.

    moments: times (ms) of the acknowledged events of each user; shows: their number by item;
    refusal: the last one.
    """

    bundle: Path
    moments: dict[str, list[int]] = field(default_factory=dict)
    shows: Counter[str] = field(default_factory=Counter)
    refusal: bytes = b""
    duplicates: int = 0
    _in_flight: dict[int, list[Event]] = field(default_factory=dict)
    _numbers: Counter[int] = field(default_factory=Counter)
    _draw: random.Random = field(default_factory=lambda: random.Random(1))

    def __post_init__(self) -> None:
        payload = read_bundle(self.bundle, "features.json")
        self._full = min(FULL, payload["history"]["limit"])
        self._began = now_ms() - 1_000_000  # so that no event lies in the future
        features = payload["features"]
        self._statistics = [each["name"] for each in features if each["kind"] == "statistic"]

    @property
    def acknowledged(self) -> int:
        """Number of acknowledged events."""
        return self.shows.total()

    def items(self) -> Iterator[dict[str, Any]]:
        """Yield records of all items with counters of 0; an event moves those that there are."""
        zero = {"shows": 0.0, "likes": 0.0, "time": self._began}
        for number in range(ITEMS):
            counters = dict.fromkeys(self._statistics, zero)
            yield {"item": f"item-{number}", "counters": counters}

    def waiting(self) -> list[int]:
        """Return the clients whose last batch was not acknowledged."""
        return list(self._in_flight)

    def pending_batch(self, client: int) -> list[Event]:
        """Return the batch that the client has to send: its last one until it was acknowledged."""
        if client not in self._in_flight:
            size = self._draw.randint(1, LARGEST)
            self._in_flight[client] = [self._event(client) for _ in range(size)]
        return self._in_flight[client]

    def _event(self, client: int) -> Event:
        number = self._numbers[client]
        self._numbers[client] += 1
        # The times of a user's events differ.
        user, moment = f"user-{client}-{number // self._full}", self._began + number
        item = f"item-{self._draw.randrange(ITEMS)}"
        return event(f"{client}-{number}", user, item, number % 2, moment)

    def acknowledge(self, client: int, content: bytes) -> None:
        """Record that the client's batch is in the store. Raises LoadTestError for a refusal."""
        answer, batch = orjson.loads(content), self._in_flight[client]
        count = len(batch)
        if answer["refused"] or answer["accepted"] + answer["duplicates"] != count:
            raise LoadTestError(f"POST /feedback: {count} events were sent: {content[:300]!r}")
        self.duplicates += answer["duplicates"]
        for each in batch:
            self.moments.setdefault(each["user"], []).append(each["time"])
            self.shows[each["item"]] += 1
        del self._in_flight[client]

    def faults_of_user(self, name: str, record: Mapping[str, Any]) -> tuple[int, int]:
        """Return how many acknowledged events a stored user lacks, and how many are too many."""
        stored, sent = Counter(record["history"]["time"]), Counter(self.moments[name])
        return (sent - stored).total(), (stored - sent).total()

    def faults_of_item(self, name: str, record: Mapping[str, Any]) -> int:
        """Return the number of statistics whose counter of a stored item differs from its events.

        A counter with a half-life has fewer shows than events, so the bundle's must have none.
        """
        counters, expected = record["counters"], self.shows[name]
        shows = [counters.get(each, {"shows": 0.0})["shows"] for each in self._statistics]
        return sum(abs(number - expected) > 1e-6 for number in shows)
