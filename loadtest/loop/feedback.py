"""Feedback of users on their lists: clicks, some of them late, doubled or never sent."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loadtest.loop.plan import HOUR_MS

LOST, OVERDUE, LATE, DOUBLED = 0.05, 0.03, 0.1, 0.1  # shares of the lists
LATE_MS, OVERDUE_MS = 3 * HOUR_MS, 8 * HOUR_MS
WAIT = "6h"  # after which the join takes no event; between late and overdue
Event = dict[str, Any]


@dataclass
class Feedback:
    """Deliveries of events by the time at which they are due, in ms.

    Args:
        faults: deliver some late, overdue, twice or never.
        counts: lists and events by what becomes of them.
    """

    draw: np.random.Generator
    faults: bool
    counts: Counter[str] = field(default_factory=Counter)
    _due: list[tuple[int, int, list[Event]]] = field(default_factory=list)
    _number: int = 0

    def add(self, moment: int, events: list[Event]) -> None:
        """Schedule the events of one list that happened at a moment."""
        fate = self._fate()
        self.counts[f"lists {fate}"] += 1
        self.counts[f"events {fate}"] += len(events)
        if fate != "lost":
            self._push(moment + {"late": LATE_MS, "overdue": OVERDUE_MS}.get(fate, 0), events)
        if fate == "doubled":
            self._push(moment + HOUR_MS, events)

    def due(self, until: int) -> list[tuple[int, list[Event]]]:
        """Take and return the deliveries that are due until a moment, with their times."""
        taken = []
        while self._due and self._due[0][0] <= until:
            moment, _, events = heapq.heappop(self._due)
            taken.append((moment, events))
        return taken

    def _fate(self) -> str:
        luck, edge = self.draw.random(), 0.0
        if self.faults:
            for fate, share in (
                ("lost", LOST), ("overdue", OVERDUE), ("late", LATE), ("doubled", DOUBLED)
            ):  # fmt: skip
                edge += share
                if luck < edge:
                    return fate
        return "in time"

    def _push(self, moment: int, events: list[Event]) -> None:
        heapq.heappush(self._due, (moment, self._number, events))
        self._number += 1


def events_of(
    response: Mapping[str, Any], user: str, clicks: Sequence[bool], moment: int
) -> list[Event]:
    """Return the events of a list: a click each, or a pass where nothing was clicked.

    The first one states what was displayed. An item with an event of its own is left out of it,
    because it would count as passed over, too.

    Args:
        response: of the service; clicks: by position of its slate; moment: ms since 1970 UTC.
    """
    request, items = response["request_id"], [entry["id"] for entry in response["slate"]]
    clicked = [place for place, click in enumerate(clicks) if click]
    places, kind = (clicked, "click") if clicked else ([0], "pass")
    events: list[Event] = [
        {
            "event_id": f"{request}/{place}", "request_id": request, "user": user,
            "item": items[place], "position": place, "type": kind, "time": moment,
        }
        for place in places
    ]  # fmt: skip
    events[0]["shown"] = [i for place, i in enumerate(items) if place not in places[1:]]
    return events
