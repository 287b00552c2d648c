"""One arm of a seed: its days, from the morning's jobs to the last feedback."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from loadtest.loop.feedback import WAIT, Feedback, events_of
from loadtest.loop.first_model import BUNDLE, histories
from loadtest.loop.learner import PART, Learner, iso
from loadtest.loop.plan import FIRST_RETRAINING, MORNING_H, Arm, Scale, hour, hour_of
from loadtest.loop.served import Served
from loadtest.loop.steps import run_step
from loadtest.state.calls import put_records
from loadtest.state.clock import Clock
from loadtest.state.stores import RedisServer, binary_of
from model.study.known_world import SLATE, KnownWorld, Lists

Array = np.ndarray[Any, Any]
HISTORY = 48  # as in the schema of the world
REPORTED_MS = 300_000  # from a list to its feedback
JOINED = ("work", "joined")  # directory of the joined log of a retraining
SETTINGS: dict[str, object] = {
    "adaptive_budget": "false", "state_timeout_ms": 500, "watch_s": 0.2, "journal_flush_ms": 200,
    # Redis removes the ids of events by its own clock, which is ahead of that of the service.
    "state_event_window_s": 200 * 86_400,
}  # fmt: skip
FLUSHED_S = 0.5  # before a kill, so that only what follows is not flushed
# Days on which something is killed, in the middle of the rounds.
KILLS: dict[int, Literal["store", "service", "worker"]] = {0: "store", 1: "service", 2: "worker"}


@dataclass
class ArmRun:
    """The state of one arm while its days pass; begin: time in ms of day 0."""

    directory: Path
    arm: Arm
    scale: Scale
    world: KnownWorld
    begin: int
    first: Path
    seed: int
    engine: str
    days: list[dict[str, Any]] = field(default_factory=list)

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
                np.random.default_rng([self.seed, 3]),
            )  # fmt: skip
        with self._store() as (address, self.redis):
            settings = {**SETTINGS, "models": self.directory / "models", **self._settings(address)}
            self.served = Served(self.first / BUNDLE, self.clock, settings)
            draw = np.random.default_rng([self.seed, 2])
            self.feedback = Feedback(draw, self.scale.faults)
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
        lists = self.world.lists(day)
        slates = np.zeros((len(lists), SLATE), np.int64)
        versions: Counter[str] = Counter()
        jobs_are_due = True
        for number in range(self.world.size.rounds):
            hours = hour_of(number, self.world.size)
            if jobs_are_due and hours > MORNING_H:
                self._do_jobs(day)
                jobs_are_due = False
            rows = np.flatnonzero(lists.round == number)
            moment = self._time(day, hours)
            middle = number == self.world.size.rounds // 2
            responses = self._round(lists, rows, day, moment, KILLS.get(day) if middle else None)
            for row, response in zip(rows.tolist(), responses, strict=True):
                slates[row] = places_of(response, lists.item[row])
                versions[response["model"]["version"]] += 1
            self._report(lists, rows, slates, responses, moment + REPORTED_MS)
        expected = self.world.expected_clicks(lists, slates)
        self.days.append(
            {"day": day, "expected_clicks": float(expected.mean()), "versions": dict(versions)}
        )

    def _do_jobs(self, day: int) -> None:
        if self.learner is None:
            return
        morning = self._time(day, MORNING_H)
        self._deliver_until(morning)
        self.clock.set(morning)
        self.learner.decide(self.served, day, morning)
        if FIRST_RETRAINING <= day < self.scale.days - 1:  # a later candidate would never serve
            self.learner.retrain(self.served, day, morning)

    def _round(
        self, lists: Lists, rows: Array, day: int, moment: int, kill: str | None
    ) -> list[dict[str, Any]]:
        """Rank the lists of a round; kill the part of the loop that is due."""
        self._deliver_until(moment)
        self.clock.set(moment)
        if self.learner is None or not self.scale.faults:
            kill = None
        if kill is not None:
            time.sleep(FLUSHED_S)
        if kill == "store" and self.redis is not None:
            self.redis.kill()
        if kill == "worker":
            self.served.kill_worker()
        responses = self.served.rank(
            [
                {
                    "request_id": f"d{day}-{row}",
                    "user": {"id": f"u{lists.user[row]}"},
                    "candidates": [f"i{item}" for item in lists.item[row].tolist()],
                }
                for row in rows.tolist()
            ]
        )
        if kill == "store" and self.redis is not None:
            self.redis.start()
        if kill == "service":
            self.served.kill()
            self.served.start()
        return responses

    def _report(
        self, lists: Lists, rows: Array, slates: Array, responses: list[dict[str, Any]], moment: int
    ) -> None:
        """Let the users of a round click, and schedule what they report."""
        if self.arm.kind == "frozen":
            return
        clicks = self.world.clicks(lists, slates)[rows].tolist()
        for row, clicked, response in zip(rows.tolist(), clicks, responses, strict=True):
            events = events_of(response, f"u{lists.user[row]}", clicked, moment)
            self.feedback.add(moment, events)
        self._deliver_until(moment)

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
        """Return all figures; a loop's journal is joined to its end and compared with the calls."""
        outcome: dict[str, Any] = {
            "days": self.days, "calls": dict(self.served.counts),
            "feedback": dict(self.feedback.counts),
        }  # fmt: skip
        if self.learner is None:
            return outcome
        until = self._time(self.scale.days + 1, MORNING_H)  # after the last overdue event
        time.sleep(FLUSHED_S)
        self.served.kill()  # what was flushed must be there
        log = self.directory / "log"
        run_step(log, "service", "journal", "verify", self.directory / "journal")
        run_step(
            log, "model", "join", "--journal", self.directory / "journal", "--schema",
            self.first / "schema.yaml", "--out", self.directory.joinpath(*JOINED),
            "--until", iso(until), "--wait", WAIT, "--part", PART, "--model", "world",
        )  # fmt: skip
        state = json.loads((self.directory.joinpath(*JOINED) / "join.json").read_text("utf-8"))
        joined: dict[str, int] = {}
        for part in state["parts"]:
            for name, count in part["counts"].items():
                joined[name] = joined.get(name, 0) + count
        return {**outcome, "joined": joined, "jobs": self.learner.notes}


def places_of(response: dict[str, Any], items: Array) -> list[int]:
    """Return the candidates of a response's slate as indices of the list of items."""
    index = {f"i{item}": place for place, item in enumerate(items.tolist())}
    return [index[entry["id"]] for entry in response["slate"]]
