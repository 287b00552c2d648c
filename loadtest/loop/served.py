"""The service of an arm: started, killed and started again over the same store and journal."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import orjson

from loadtest.errors import LoadTestError
from loadtest.server import Server, ServerError, serving_under
from loadtest.state.calls import RANKING_MS, batches
from loadtest.state.clock import Clock

WORKERS = 2
LISTS = 16  # of a call
EVENTS = 500  # of a call
TRIES, PAUSE_S = 100, 0.2  # of a call to a service whose worker or store was killed
CHANGE_S = 60.0  # limit for all workers to serve another version
T = TypeVar("T")


class Served:
    """A service under a clock that is set; counts has what happened to its calls."""

    def __init__(self, bundle: Path, clock: Clock, settings: Mapping[str, object]) -> None:
        self._bundle, self._clock = bundle, clock
        self._settings = {"workers": WORKERS, "timeout_ms": RANKING_MS, **settings}
        self._resources = contextlib.ExitStack()
        self.counts: Counter[str] = Counter()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start it, and stop whatever runs at the end. Raises ServerError."""
        self.start()
        try:
            yield
        finally:
            self._resources.close()

    def start(self) -> None:
        """Start it and wait until every worker serves. Raises ServerError."""
        self._server: Server = self._resources.enter_context(
            serving_under(self._clock.wrapper, self._bundle, settings=self._settings)
        )
        # A connection is of one worker, and every call should go to any of them.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = self._resources.enter_context(
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
        self._resources.close()

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

    def rank(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the response to each list, also to degraded ones. Raises ServerError."""
        responses: list[dict[str, Any]] = []
        for batch in batches(requests, LISTS):
            bodies = [{**request, "timeout_ms": RANKING_MS} for request in batch]
            answer = self._post("/rerank/batch", {"requests": bodies})
            responses += answer["responses"]
        self.counts["lists"] += len(responses)
        self.counts["degraded"] += sum(bool(each["degraded"]) for each in responses)
        return responses

    def send_feedback(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Send events until they are acknowledged. Raises ServerError if one is refused."""
        for batch in batches(events, EVENTS):
            answer = self._post("/feedback", {"events": batch})
            if answer["refused"]:
                raise ServerError(f"POST /feedback: refused {answer['refused'][0]}")
            self.counts["events accepted"] += answer["accepted"]
            self.counts["events repeated"] += answer["duplicates"]

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

    def _post(self, path: str, payload: Any) -> dict[str, Any]:
        """Return the response; try again while a worker or the store comes back."""
        problem = ""
        for _ in range(TRIES):
            try:
                response = self._client.post(path, content=orjson.dumps(payload))
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.status_code == 200:
                    content: dict[str, Any] = orjson.loads(response.content)
                    return content
                problem = f"status {response.status_code}: {response.text[:300]}"
                if response.status_code != 503:
                    break
            self.counts["calls sent again"] += 1
            time.sleep(PAUSE_S)
        raise ServerError(f"POST {path}: {problem}")
