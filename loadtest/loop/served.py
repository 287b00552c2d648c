"""The service of an arm: started, killed and started again over the same store and journal.

Lists and events may be sent from several threads, also while the service is killed and started.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import orjson

from loadtest.errors import LoadTestError
from loadtest.loop.ledger import Ledger
from loadtest.server import Server, ServerError, serving_under
from loadtest.state.calls import PATIENCE_S, RANKING_MS, batches, entity_path
from loadtest.state.clock import Clock

WORKERS = 2
LISTS = 16  # of a call
EVENTS = 500  # of a call
TRIES, PAUSE_S = 300, 0.2  # of a call to a service that was killed, or its worker or store
CHANGE_S = 60.0  # limit for all workers to serve another version
RANKING, FEEDBACK = "/rerank/batch", "/feedback"
T = TypeVar("T")


class Served:
    """A service under a clock that is set.

    counts has what happened to its calls, and the ledger what was acknowledged.
    """

    def __init__(
        self, bundle: Path, clock: Clock, settings: Mapping[str, object], ledger: Ledger
    ) -> None:
        self._bundle, self._clock, self._ledger = bundle, clock, ledger
        self._settings = {"workers": WORKERS, "timeout_ms": RANKING_MS, **settings}
        # A call may still use the client of a service that was killed.
        self._servers, self._clients = contextlib.ExitStack(), contextlib.ExitStack()
        self.counts: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()  # calls without a response, by path
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start it, and stop whatever runs at the end. Raises ServerError."""
        self.start()
        try:
            yield
        finally:
            self._clients.close()
            self._servers.close()

    def start(self) -> None:
        """Start it and wait until every worker serves. Raises ServerError."""
        self._server: Server = self._servers.enter_context(
            serving_under(self._clock.wrapper, self._bundle, settings=self._settings)
        )
        # A connection is of one worker, and every call should go to any of them.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = self._clients.enter_context(
            httpx.Client(base_url=self._server.url, timeout=60, limits=limits)
        )
        self._wait(lambda: self.metric("rerank_workers") >= WORKERS, "all workers must serve")

    @property
    def url(self) -> str:
        """The base URL; another one after each start."""
        return self._server.url

    def kill(self) -> None:
        """End all processes of the service without a chance to write anything."""
        os.killpg(self._server.process.pid, signal.SIGKILL)
        self._servers.close()

    def stop(self) -> None:
        """Let the service flush its journal and exit."""
        self._servers.close()

    def kill_worker(self) -> None:
        """End one worker; the supervisor starts another one."""
        pid = self._server.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in children:
            # Python's helper processes have another command line.
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)
                return
        raise ServerError(f"process {pid}: must have workers, got {' '.join(children)}")

    def rank(
        self, requests: Sequence[Mapping[str, Any]], at_once: int = LISTS
    ) -> list[dict[str, Any]]:
        """Return the response to each list, also to degraded ones.

        at_once: lists of a call. Raises ServerError.
        """
        responses: list[dict[str, Any]] = []
        for batch in batches(requests, at_once):
            bodies = [{**request, "timeout_ms": RANKING_MS} for request in batch]
            answer, _ = self._post(RANKING, {"requests": bodies})
            self._ledger.answer(batch, time.monotonic())
            responses += answer["responses"]
        degraded = sum(bool(each["degraded"]) for each in responses)
        self._count({"lists": len(responses), "degraded": degraded})
        return responses

    def send_feedback(self, events: Sequence[Mapping[str, Any]], at_once: int = EVENTS) -> None:
        """Send events until they are acknowledged.

        at_once: events of a call. Raises ServerError if one is refused.
        """
        for batch in batches(events, at_once):
            answer, tries = self._post(FEEDBACK, {"events": batch})
            if answer["refused"]:
                raise ServerError(f"POST /feedback: refused {answer['refused'][0]}")
            self._ledger.acknowledge(batch, time.monotonic(), again=tries > 1)
            counts = {
                "events accepted": answer["accepted"],
                "events repeated": answer["duplicates"],
            }
            self._count(counts)

    def in_flight(self) -> dict[str, int]:
        """Return the number of calls that wait for their response, by path."""
        with self._lock:
            return dict(self._waiting)

    def compare_store(self) -> dict[str, int]:
        """Compare the history of each user with what was acknowledged, as the ledger does.

        Raises httpx.HTTPError.
        """
        with httpx.Client(base_url=self.url, timeout=PATIENCE_S) as client:

            def read_history(user: str) -> Mapping[str, Sequence[Any]]:
                record = client.get(entity_path("users", user)).raise_for_status().json()
                history: Mapping[str, Sequence[Any]] = record["history"]
                return history

            return self._ledger.compare_store(read_history)

    def _count(self, counts: Mapping[str, int]) -> None:
        with self._lock:
            self.counts.update(counts)

    def change_versions(self, change: Callable[[], T], config: Path) -> T:
        """Run what may write `serving.json`, and wait until every worker serves what it says.

        Raises LoadTestError if a worker refuses the version.
        """
        content = config.read_bytes()
        changed, refused = self.changes("changed"), self.changes("refused")
        outcome = change()
        if config.read_bytes() != content:
            rule = "all workers must serve the versions of the store"
            self._wait(lambda: self.changes("changed") >= changed + WORKERS, rule)
        if self.changes("refused") > refused:
            raise LoadTestError(f"{config}: a worker refused the versions {config.read_text()}")
        return outcome

    def changes(self, outcome: str) -> float:
        """Return the number of changes of versions with an outcome, over all workers."""
        return self.metric("rerank_model_changes_total", rf'outcome="{outcome}"')

    def metric(self, name: str, label: str = "") -> float:
        """Return the sum of the samples of a metric that have a label; 0 while none responds."""
        with contextlib.suppress(httpx.TransportError):
            text = self._client.get("/metrics").text
            samples = re.findall(rf"^{name}(?:{{[^}}]*{label}[^}}]*}})? (\S+)$", text, re.MULTILINE)
            return sum(map(float, samples))
        return 0.0

    def _wait(self, condition: Callable[[], bool], rule: str) -> None:
        deadline = time.monotonic() + CHANGE_S
        while not condition():
            if time.monotonic() > deadline:
                raise ServerError(f"{self.url}: {rule}, not so after {CHANGE_S:g} s")
            time.sleep(0.05)

    def _post(self, path: str, payload: Any) -> tuple[dict[str, Any], int]:
        """Return the response and the number of tries; a part that was killed comes back."""
        problem, body = "", orjson.dumps(payload)
        for tries in range(1, TRIES + 1):
            try:
                with self._call(path):
                    response = self._client.post(path, content=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.status_code == 200:
                    content: dict[str, Any] = orjson.loads(response.content)
                    return content, tries
                problem = f"status {response.status_code}: {response.text[:300]}"
                if response.status_code != 503:
                    break
            self._count({"calls sent again": 1})
            time.sleep(PAUSE_S)
        raise ServerError(f"POST {path}: {problem}")

    @contextlib.contextmanager
    def _call(self, path: str) -> Iterator[None]:
        with self._lock:
            self._waiting[path] += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting[path] -= 1
