"""A service process that is started for a measurement and stopped after it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import httpx

from loadtest.errors import LoadTestError
from loadtest.processes import bound_to_parent, stop

START_S = 60.0  # limit for a service to get ready
STOP_S = 60.0  # limit for it to drain and exit, before it is killed


class ServerError(LoadTestError):
    """The service did not start or did not respond. The message holds its output."""


@dataclass(frozen=True)
class Server:
    """A running service: its process, base URL and log file."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path


@contextlib.contextmanager
def serving(bundle: Path, *arguments: str, **settings: object) -> Iterator[Server]:
    """Run `python -m service` over a bundle, on a free port of 127.0.0.1, and yield it ready.

    It has a session of its own, so Ctrl-C does not reach it, and gets SIGTERM when this process
    dies.

    Args:
        arguments: More of its command line.
        settings: Settings by name, as `max_queue=64`.

    Raises ServerError with the service's output when it does not start.
    """
    with serving_under((), bundle, arguments, settings) as server:
        yield server


@contextlib.contextmanager
def serving_under(
    wrapper: Sequence[str],
    bundle: Path,
    arguments: Sequence[str] = (),
    settings: Mapping[str, object] = MappingProxyType({}),
    checkout: Path | None = None,
) -> Iterator[Server]:
    """Do as `serving`, with the command of a wrapper before the service's, as `strace -D`.

    The wrapper must become the service: its process id is taken for the service's.

    Args:
        checkout: Directory whose service runs; the bundle is relative to it. None: this one.
    """
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        command = [*wrapper, sys.executable, "-m", "service", "--bundle", str(bundle)]
        variables = {f"RERANK_{name.upper()}": str(value) for name, value in settings.items()}
        with log.open("wb") as file:
            process = subprocess.Popen(
                bound_to_parent([*command, "--port", "0", *arguments]),
                env={**os.environ, **variables},
                stderr=file,
                cwd=checkout,
                start_new_session=True,
            )
        try:
            yield Server(process, _wait_until_ready(process, log), log)
        finally:
            stop(process, signal.SIGTERM, STOP_S)


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the base URL once /readyz answers 200. Raises ServerError after START_S seconds."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        match = re.search(r"http://[\d.]+:\d+", log.read_text("utf-8", "replace"))
        if match is not None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{match[0]}/readyz", timeout=1).status_code == 200:
                    return match[0]
        time.sleep(0.02)
    output = log.read_text("utf-8", "replace").strip()
    raise ServerError(f"the service did not start: {output}")
