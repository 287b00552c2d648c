"""One arm of a seed: its days, from the morning's jobs to the last feedback."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.loop.day import ServedDay
from loadtest.loop.feedback import WAIT, Feedback, events_of
from loadtest.loop.first_model import BUNDLE, histories
from loadtest.loop.journal import read_journal
from loadtest.loop.kills import KILLS, Part, kill_in_flight
from loadtest.loop.learner import PART, Learner, iso
from loadtest.loop.ledger import JOURNAL_FLUSH_S, Ledger
from loadtest.loop.plan import FIRST_RETRAINING, MORNING_H, Arm, Scale, hour, hour_of
from loadtest.loop.served import Served
from loadtest.loop.steps import run_step
from loadtest.state.calls import put_records
from loadtest.state.clock import Clock
from loadtest.state.stores import RedisServer, binary_of
from model.study.known_world import KnownWorld

Array = np.ndarray[Any, Any]
HISTORY = 48  # as in the schema of the world
REPORTED_MS = 300_000  # from a list to its feedback
JOINED = ("work", "joined")  # directory of the joined log of a retraining
SETTINGS: dict[str, object] = {
    "adaptive_budget": "false", "state_timeout_ms": 500, "watch_s": 0.2,
    "journal_flush_ms": round(1e3 * JOURNAL_FLUSH_S),
    # Redis removes the ids of events by its own clock, which is ahead of that of the service.
    "state_event_window_s": 200 * 86_400,
}  # fmt: skip


@dataclass
class ArmRun:
    """The state of one arm while its days pass.

    Args:
        begin: time in ms of day 0.
        stages: seconds of the stages in which the first model was made.
    """

    directory: Path
    arm: Arm
    scale: Scale
    world: KnownWorld
    begin: int
    first: Path
    seed: int
    engine: str
    stages: Mapping[str, float] = field(default_factory=dict)
    days: list[dict[str, Any]] = field(default_factory=list)
    kills: list[dict[str, Any]] = field(default_factory=list)
    compared: list[dict[str, int]] = field(default_factory=list)  # answers of the store

    def run(self) -> dict[str, Any]:
        """Serve all days, and return their figures as JSON. Raises LoadTestError."""
        if self.arm.kind == "best":
            return {"days": [self._best(day) for day in range(self.scale.days)]}
        shutil.rmtree(self.directory, ignore_errors=True)  # of a run that was interrupted
        self.directory.mkdir(parents=True)
        model = self.directory / "models" / "world"
        shutil.copytree(self.first / BUNDLE, model / "1")
        (model / "serving.json").write_text('{"active": "1"}\n', "utf-8")
        self.clock = Clock(self.directory / "clock", self.begin)
        self.learner: Learner | None = None
        if self.arm.kind == "loop":
            self.learner = Learner(
                self.directory, self.first, self.arm.base, self.scale, self.seed, self.world,
                np.random.default_rng([self.seed, 3]), self.stages,
            )  # fmt: skip
        with self._store() as (address, self.redis):
            settings = {**SETTINGS, "models": self.directory / "models", **self._settings(address)}
            self.ledger = Ledger(HISTORY)
            self.served = Served(self.first / BUNDLE, self.clock, settings, self.ledger)
            draw = np.random.default_rng([self.seed, 2])
            self.feedback = Feedback(draw, self.scale.faults)
            self._moments = np.random.default_rng([self.seed, 4])  # of kills
            with self.served.running():
                if self.arm.kind != "frozen":
                    self._put_first()
                for day in range(self.scale.days):
                    self._serve(day)
                self._deliver_until(self._time(self.scale.days + 1, 0.0))
                outcome = self._outcome()
        for name in ("redis", "lmdb"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        return outcome

    def _settings(self, address: str) -> dict[str, object]:
        if self.arm.kind == "frozen":
            return {"state": "off"}
        if self.arm.kind == "state":
            return {"state": address}
        journal = f"files://{(self.directory / 'journal').resolve()}"
        return {"state": address, "journal": journal, "explore_share": self.scale.explore}

    @contextlib.contextmanager
    def _store(self) -> Iterator[tuple[str, RedisServer | None]]:
        """Yield the address of an empty store, and its server if it is Redis."""
        if self.arm.kind == "frozen":
            yield "off", None
            return
        directory = (self.directory / self.engine).resolve()
        directory.mkdir()
        if self.engine == "lmdb":
            yield f"lmdb://{directory}", None
            return
        server = RedisServer(binary_of(), directory)
        try:
            server.start()
            yield server.url, server
        finally:
            server.kill()

    def _put_first(self) -> None:
        """Put users with their answers before day 0, and the items on sale."""
        past = histories(self.world, self.begin, HISTORY)
        users = [{"user": user, "history": answers} for user, answers in past.items()]
        put_records(self.served.url, "users", users)
        for user, answers in past.items():
            self.ledger.put(user, answers)
        self._put_items(self.world.on_sale(0))

    def _put_items(self, numbers: Array) -> None:
        items = [{"item": f"i{n}", "features": self.world.features(n)} for n in numbers.tolist()]
        put_records(self.served.url, "items", items)

    def _time(self, day: int, hours: float) -> int:
        return self.begin + hour(day, hours)

    def _serve(self, day: int) -> None:
        """Rank the lists of a day and send their feedback; the night's jobs come in between."""
        if self.arm.kind != "frozen" and day > 0:
            self._put_items(self.world.arrivals(day))
        today, jobs_are_due = ServedDay(day, self.world.lists(day)), True
        for number in range(self.world.size.rounds):
            hours = hour_of(number, self.world.size)
            if jobs_are_due and hours > MORNING_H:
                self._do_jobs(day)
                jobs_are_due = False
            rows, moment = today.rows_of(number), self._time(day, hours)
            part = self._part_to_kill(day) if number == self.world.size.rounds // 2 else None
            if part is None:
                self._rank(today, rows, moment)
            else:
                self._rank_through_kill(part, today, rows, moment)
        self.days.append(today.figures(self.world))

    def _do_jobs(self, day: int) -> None:
        if self.learner is None:
            return
        morning = self._time(day, MORNING_H)
        self._deliver_until(morning)
        self.clock.set(morning)
        self.learner.decide(self.served, day, morning)
        if FIRST_RETRAINING <= day < self.scale.days - 1:  # a later candidate would never serve
            self.learner.retrain(self.served, day, morning)

    def _rank(self, today: ServedDay, rows: Array, moment: int) -> None:
        """Rank lists at a moment, and deliver their feedback that is in time."""
        self._deliver_until(moment)
        self.clock.set(moment)
        self._report(today, rows, self.served.rank(today.requests(rows)), moment + REPORTED_MS)
        self._deliver_until(moment + REPORTED_MS)

    def _part_to_kill(self, day: int) -> Part | None:
        part = KILLS.get(day)
        if self.learner is None or not self.scale.faults:
            return None
        return None if part == "store" and self.redis is None else part

    def _rank_through_kill(self, part: Part, today: ServedDay, rows: Array, moment: int) -> None:
        """Kill a part while half of a round is ranked and the feedback on the other half sent."""
        half = len(rows) // 2
        self._deliver_until(moment)
        self.clock.set(moment)
        responses = self.served.rank(today.requests(rows[:half]))
        later = moment + REPORTED_MS
        self._report(today, rows[:half], responses, later)
        self.clock.set(later)
        events = [event for _, events in self.feedback.due(later) for event in events]
        kill, revive = self._ends_of(part)
        outage = kill_in_flight(
            self.served, kill, revive, today.requests(rows[half:]), events, self._moments
        )
        self.kills.append(
            {
                "part": part, "day": today.number, "down_s": outage.down_s,
                "in_flight": dict(outage.in_flight),
            }
        )  # fmt: skip
        if part != "store":
            self.ledger.kills.append(outage.moment)
        self.compared.append(self.served.compare_store())
        self._report(today, rows[half:], outage.responses, later + REPORTED_MS)
        self._deliver_until(later + REPORTED_MS)

    def _ends_of(self, part: Part) -> tuple[Callable[[], None], Callable[[], None]]:
        """Return the calls that kill a part and start it again."""
        if part == "store":
            assert self.redis is not None
            return self.redis.kill, self.redis.start
        if part == "service":
            return self.served.kill, self.served.start
        return self.served.kill_worker, lambda: None  # the supervisor starts another one

    def _report(
        self, today: ServedDay, rows: Array, responses: list[dict[str, Any]], moment: int
    ) -> None:
        """Let the users of ranked lists click, and schedule what they report at a moment."""
        today.record(rows, responses)
        if self.arm.kind == "frozen":
            return
        clicks = self.world.clicks(today.lists, today.slates)[rows].tolist()
        for row, clicked, response in zip(rows.tolist(), clicks, responses, strict=True):
            events = events_of(response, f"u{today.lists.user[row]}", clicked, moment)
            self.feedback.add(moment, events)

    def _deliver_until(self, moment: int) -> None:
        """Send what is due, each at its time."""
        pending: dict[int, list[dict[str, Any]]] = {}
        for due, events in self.feedback.due(moment):
            pending.setdefault(due, []).extend(events)
        for due, events in pending.items():
            self.clock.set(due)
            self.served.send_feedback(events)

    def _best(self, day: int) -> dict[str, Any]:
        return {
            "day": day,
            "expected_clicks": float(self.world.best(self.world.lists(day)).mean()),
        }

    def _outcome(self) -> dict[str, Any]:
        """Return all figures; what a loop acknowledged is compared with its store and journal."""
        outcome: dict[str, Any] = {
            "days": self.days, "calls": dict(self.served.counts),
            "feedback": dict(self.feedback.counts),
        }  # fmt: skip
        if self.learner is None:
            return outcome
        self.compared.append(self.served.compare_store())
        self.served.stop()
        until = self._time(self.scale.days + 1, MORNING_H)  # after the last overdue event
        journal, log = self.directory / "journal", self.directory / "log"
        run_step(log, "service", "journal", "verify", journal)
        run_step(
            log, "model", "join", "--journal", journal, "--schema", self.first / "schema.yaml",
            "--out", self.directory.joinpath(*JOINED), "--until", iso(until), "--wait", WAIT,
            "--part", PART, "--model", "world",
        )  # fmt: skip
        content = read_journal(journal, self.directory.joinpath(*JOINED))
        return {
            **outcome, "joined": content.counts, "jobs": self.learner.notes,
            "kills": [*self.kills, *self.learner.kills], "store": self.compared,
            "journal": self.ledger.compare_journal(content.requests, content.events),
        }  # fmt: skip
