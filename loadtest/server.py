"""A service of one's own, started for a measurement and stopped after it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

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
def serving(bundle: Path, *arguments: str, **settings: object) -> Iterator[Server]:
    """`python -m service` over a bundle, on a free port of 127.0.0.1, ready.

    arguments: more of its command line; settings: by name, as `max_queue=64`.

    Raises ServerError with what the service said if it does not start. Ctrl-C does not reach it.
    """
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "service",
                    "--bundle",
                    str(bundle),
                    "--port",
                    "0",
                    *arguments,
                ],
                env={**os.environ, **{f"RERANK_{k.upper()}": str(v) for k, v in settings.items()}},
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
        found = re.search(r"http://[\d.]+:\d+", log.read_text("utf-8", "replace"))
        if found is not None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{found[0]}/readyz", timeout=1).status_code == 200:
                    return found[0]
        time.sleep(0.02)
    said = log.read_text("utf-8", "replace").strip()
    raise ServerError(f"the service did not start: {said}")
