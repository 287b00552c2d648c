"""Run Locust against a service started for it."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from loadtest import processes
from loadtest.commands import Load
from loadtest.errors import MISSED, UNUSABLE
from loadtest.server import serving

STOP_S = 20.0  # limit for Locust to print its statistics
LOCUSTFILE = Path(__file__).with_name("locustfile.py")
VERDICT = "RERANK_LOAD_VERDICT"  # names the file for the verdict of the Locust file


def run_locust(options: Load) -> int:
    """Run Locust and return its exit status, but UNUSABLE when it failed before the gate.

    Locust exits with 1 for an unknown user class, as the gate does for a missed SLO.
    """
    with tempfile.TemporaryDirectory() as directory, serving(options.bundle) as server:
        verdict = Path(directory) / "verdict"
        command = [
            sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless",
            "--host", server.url, "--bundle", str(options.bundle), "--only-summary",
            "--users", str(options.users), "--spawn-rate", str(options.users),
            "--run-time", f"{options.seconds}s", *options.locust,
        ]  # fmt: skip
        environment = {**os.environ, VERDICT: str(verdict)}
        status = processes.run(command, signal.SIGTERM, STOP_S, environment=environment)
        return UNUSABLE if status == MISSED and not verdict.exists() else status
