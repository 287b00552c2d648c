"""Kill a part of the loop at a random moment while it works."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from loadtest.loop.served import FEEDBACK, RANKING, Served

Part = Literal["store", "service", "worker"]
# Days on which a part is killed, in the middle of the rounds.
KILLS: dict[int, Part] = {0: "store", 1: "service", 2: "worker"}
RETRAINING = "retraining"
FEW = 1  # lists, or events, of a call, so that many calls follow each other
LATEST = 0.5  # share of the lists and events that are sent for certain before the kill
LONGEST_S = 0.003  # from then to the kill
POLL_S = 0.0005
# Of `python -m model retrain`; its report follows the last one.
STAGES = ("join", "prepare", "labels", "train", "export", "gates", "publish")
REPORT = "report"
UNMEASURED_S = 1.0  # longest delay in a stage whose duration no earlier run has


@dataclass(frozen=True)
class Outage:
    """The responses to the lists, the moment of the kill, and calls in flight by path."""

    responses: list[dict[str, Any]]
    moment: float
    in_flight: Mapping[str, int]
    down_s: float


def kill_in_flight(
    served: Served,
    kill: Callable[[], None],
    revive: Callable[[], None],
    requests: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
    draw: np.random.Generator,
) -> Outage:
    """Rank lists and send events from two threads, and kill a part while both are in flight.

    Both wait for each other at a random place, and the kill follows after a random delay. Clients
    repeat what was not acknowledged, under its ids, while this thread starts the part again: a
    process ends with the thread that started it. Raises LoadTestError.
    """
    share, delay_s = draw.uniform(0.0, LATEST), draw.uniform(0.0, LONGEST_S)
    go = threading.Event()

    def send(call: Callable[..., Any], rows: Sequence[Any], ready: threading.Event) -> list[Any]:
        place = round(share * len(rows))
        first = call(rows[:place], FEW)
        ready.set()
        go.wait()
        return [first, call(rows[place:], FEW)]

    ready = threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as threads:
        streams = (
            threads.submit(send, served.rank, requests, ready[0]),
            threads.submit(send, served.send_feedback, events, ready[1]),
        )
        _wait(lambda: all(event.is_set() for event in ready), *streams)
        go.set()
        time.sleep(delay_s)
        _wait(lambda: both_in_flight(served), *streams)
        in_flight, moment = served.in_flight(), time.monotonic()
        kill()
        revive()
        down_s = round(time.monotonic() - moment, 3)
        streams[1].result()
        responses = [response for part in streams[0].result() for response in part]
        return Outage(responses, moment, in_flight, down_s)


def both_in_flight(served: Served) -> bool:
    """Return true while a call with lists and one with events wait for their responses."""
    calls = served.in_flight()
    return calls.get(RANKING, 0) > 0 and calls.get(FEEDBACK, 0) > 0


def _wait(condition: Callable[[], bool], *streams: Future[Any]) -> None:
    """Wait for a condition, or until a stream has ended: then nothing would be in flight."""
    while not condition() and not any(stream.done() for stream in streams):
        time.sleep(POLL_S)


@dataclass
class StageKill:
    """The moment to kill a retraining: in a stage, a delay after it began.

    A stage that is over before is followed by the kill. under_way: the stage that was killed.
    """

    work: Path
    stage: str
    delay_s: float
    under_way: str = ""
    _began: float | None = None

    def is_due(self) -> bool:
        """Return true from that moment on."""
        finished = self._finished_stages()
        if finished is None or any(name not in finished for name in self._before()):
            return False
        self.under_way = next((name for name in STAGES if name not in finished), REPORT)
        if self._began is None:
            self._began = time.monotonic()
        return self.stage in finished or time.monotonic() - self._began >= self.delay_s

    def _before(self) -> Sequence[str]:
        return STAGES[: STAGES.index(self.stage)]

    def _finished_stages(self) -> Mapping[str, Any] | None:
        """Return the stages of the run that is under way, None without one."""
        for path in self.work.glob("[0-9]*/run.json"):
            with contextlib.suppress(FileNotFoundError):
                record = json.loads(path.read_text("utf-8"))
                if record["outcome"] is None:
                    stages: Mapping[str, Any] = record["stages"]
                    return stages
        return None
