"""A service of one's own, started for a measurement and stopped after it."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_S = 60.0  # how long a service may take until it listens


class ServerError(Exception):
    """The service did not start; what it said."""


@dataclass(frozen=True)
class Server:
    """A running service: its process, base URL, and the file with what it logs."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path


@contextlib.contextmanager
def serving(bundle: Path) -> Iterator[Server]:
    """`python -m service` over a bundle, on a free port of 127.0.0.1.

    Raises ServerError with what the service said if it does not start. Ctrl-C does not reach it.
    """
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "service", "--bundle", str(bundle), "--port", "0"],
                stderr=file,
                start_new_session=True,
            )
        try:
            yield Server(process, _address(process, log), log)
        finally:
            process.terminate()
            process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end:
        said = log.read_text("utf-8", "replace")
        found = re.search(r"http://\S+:\d+", said)
        if found is not None and "startup complete" in said:
            return found[0]
        time.sleep(0.02)
    said = log.read_text("utf-8", "replace").strip()
    raise ServerError(f"the service did not start: {said}")
