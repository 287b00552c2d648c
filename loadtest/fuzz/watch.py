"""Checks of the service's process: alive, no traceback in its log, no call counted as an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx

from loadtest.server import Server

TRACEBACK = b"Traceback (most recent call last)"
ERRORS = re.compile(r'^rerank_requests_total\{.*outcome="error".*\} (\S+)$', re.M)


class Watch:
    """Compares the log and the counters of a service with those at the look before."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._tracebacks, self._errors = 0, 0.0
        self.rss_mb = [self._resident_mb()]

    def look(self) -> Iterator[tuple[str, str | None]]:
        """Yield the checks of the process, and note its resident memory (MB).

        Raises httpx.HTTPError when a living service has no metrics.
        """
        if self._server.process.poll() is not None:
            yield "alive", "the process has ended"
            return
        yield "alive", None
        tracebacks = self._server.log.read_bytes().count(TRACEBACK)
        new = tracebacks - self._tracebacks
        yield "no_traceback", f"{new} tracebacks in the log" if new else None
        text = httpx.get(f"{self._server.url}/metrics", timeout=60).raise_for_status().text
        errors = sum(map(float, ERRORS.findall(text)))
        more = errors - self._errors
        yield "no_error_counted", f"{more:g} calls counted as error" if more else None
        self._tracebacks, self._errors = tracebacks, errors
        self.rss_mb.append(self._resident_mb())

    def _resident_mb(self) -> float:
        status = Path(f"/proc/{self._server.process.pid}/status").read_text("utf-8")
        return round(int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024, 1)
