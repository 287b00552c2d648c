"""Lists and events that the service has acknowledged, and what store and journal must have of them.

The store must have every acknowledged event. The journal is flushed every `JOURNAL_FLUSH_S`, so a
killed process may take with it what it answered since the last flush, and nothing older.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

JOURNAL_FLUSH_S = 0.2  # RERANK_JOURNAL_FLUSH_MS of the service
# Before and after a kill, in which an answer may be lost from the journal: the time between two
# flushes with that of a durable write on a busy disk, and the time to notice a response.
BEFORE_S, AFTER_S = JOURNAL_FLUSH_S + 0.3, 0.2
LABELS = {"click": 1.0, "pass": 0.0}  # as in the schema of the world


class Answer(NamedTuple):
    """One entry of a user's history; time in ms since 1970 UTC."""

    time: int
    item: str
    label: float


@dataclass
class Ledger:
    """Acknowledgements by the monotonic time, in seconds, at which they arrived.

    Args:
        limit: answers that a history keeps.
        answered: by request id of a list; acknowledged: by event id.
        sent_again: ids of events whose first call failed, so that the store may have had them.
        answers: that the store was sent, by user.
        kills: times at which a process of the service was killed.
    """

    limit: int
    answered: dict[str, float] = field(default_factory=dict)
    acknowledged: dict[str, float] = field(default_factory=dict)
    sent_again: set[str] = field(default_factory=set)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    kills: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, user: str, history: Iterable[Mapping[str, Any]]) -> None:
        """Record the history that a user was put with."""
        self.answers[user] = [Answer(each["time"], each["id"], each["label"]) for each in history]

    def answer(self, requests: Iterable[Mapping[str, Any]], moment: float) -> None:
        """Record that lists were answered."""
        with self._lock:
            for request in requests:
                self.answered.setdefault(request["request_id"], moment)

    def acknowledge(
        self, events: Iterable[Mapping[str, Any]], moment: float, again: bool = False
    ) -> None:
        """Record that events are in the store; a repetition adds no answer.

        again: the call was not the first one with these events.
        """
        with self._lock:
            for event in events:
                if event["event_id"] in self.acknowledged:
                    continue
                self.acknowledged[event["event_id"]] = moment
                if again:
                    self.sent_again.add(event["event_id"])
                self.answers.setdefault(event["user"], []).extend(answers_of(event))

    def compare_store(
        self, read_history: Callable[[str], Mapping[str, Sequence[Any]]]
    ) -> dict[str, int]:
        """Return the number of answers that the store must have, that it lacks, and has too many.

        read_history: returns the columns `id`, `label` and `time` of a user's stored history.
        """
        counts = {"due": 0, "lost": 0, "too many": 0}
        for user, sent in self.answers.items():
            columns = read_history(user)
            stored = [
                Answer(*entry)
                for entry in zip(columns["time"], columns["id"], columns["label"], strict=True)
            ]
            # Older answers than these are displaced; of those with the oldest time some may be.
            oldest = min(each.time for each in stored) if len(stored) >= self.limit else -1
            due = Counter(each for each in sent if each.time > oldest)
            counts["due"] += due.total()
            counts["lost"] += (due - Counter(stored)).total()
            counts["too many"] += (Counter(stored) - Counter(sent)).total()
        return counts

    def compare_journal(
        self, requests: Iterable[str], events: Iterable[Mapping[str, Any]]
    ) -> dict[str, int]:
        """Compare acknowledgements with the journal, by id.

        Args:
            requests: ids of its decisions; events: its records of events.

        `unexplained` are lists and events that no kill explains. An event is recorded if the
        journal has it as accepted; one that it has as a repetition alone is of no use to the join.
        """
        decided, records = Counter(requests), list(events)
        lists = self.answered.keys() - decided.keys()
        seen = {each["event_id"] for each in records}
        accepted = {each["event_id"] for each in records if each["outcome"] == "accepted"}
        lacking = self.acknowledged.keys() - accepted
        at_kill = {name for name in lacking if self._is_near_kill(self.acknowledged[name])}
        return {
            "lists answered": len(self.answered),
            "lists answered just before a kill": sum(map(self._is_near_kill,
                                                         self.answered.values())),
            "lists that the journal lacks": len(lists),
            "lists lacking unexplained": sum(
                not self._is_near_kill(self.answered[name]) for name in lists
            ),
            "lists that the journal has twice": sum(count > 1 for count in decided.values()),
            "events acknowledged": len(self.acknowledged),
            "events sent again": len(self.sent_again),
            "events that the journal lacks": len(self.acknowledged.keys() - seen),
            "events that the journal has as repetitions alone": len(lacking & seen),
            "events lacking unexplained": len(lacking - at_kill - self.sent_again),
            "event records": len(records),
        }  # fmt: skip

    def _is_near_kill(self, moment: float) -> bool:
        return any(-BEFORE_S <= moment - kill <= AFTER_S for kill in self.kills)


def answers_of(event: Mapping[str, Any]) -> list[Answer]:
    """Return the answers that an event adds: its item, and what was displayed with it."""
    others = [item for item in event.get("shown", ()) if item != event["item"]]
    labelled = [(event["item"], LABELS[event["type"]]), *((item, 0.0) for item in others)]
    return [Answer(event["time"], item, label) for item, label in labelled]
