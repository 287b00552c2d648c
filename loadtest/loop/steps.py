"""Run the commands of the project that a loop consists of, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest.errors import LoadTestError
from loadtest.processes import bound_to_parent
from loadtest.results import ROOT

# Several commands run at the same time, so each gets one core.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
KILLED = -signal.SIGKILL  # status of a command that was killed
POLL_S = 0.005  # between two looks at the condition of a kill


def run_step(
    log: Path,
    *words: object,
    accepted: Sequence[int] = (0,),
    kill_when: Callable[[], bool] | None = None,
) -> int:
    """Run `python -m WORDS` of this checkout, append its output to a file, and return its status.

    kill_when: condition for SIGKILL for it and its children while it runs; -9 is returned.

    Raises LoadTestError with the last line of its output for another status than the accepted ones.
    """
    command = [sys.executable, "-m", *map(str, words)]
    with log.open("ab") as file:
        process = subprocess.Popen(
            bound_to_parent(command), cwd=ROOT, stdout=file, stderr=file,
            env={**os.environ, **ENVIRONMENT}, start_new_session=True,
        )  # fmt: skip
        try:
            if kill_when is not None:
                while process.poll() is None and not kill_when():
                    time.sleep(POLL_S)
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    accepted = (*accepted, KILLED)
            status = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if status not in accepted:
        text = log.read_text("utf-8", "replace").strip()
        last = text.splitlines()[-1] if text else "no output"
        raise LoadTestError(f"{' '.join(command[1:])}: status {status}; {last} ({log})")
    return status


def done_once(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the JSON of a file, or do the work and write its outcome there, atomically."""
    if path.exists():
        outcome: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return outcome
    outcome = work()
    building = path.with_name(f"{path.name}.tmp")
    building.write_text(json.dumps(outcome, indent=1) + "\n", "utf-8")
    building.replace(path)
    return outcome
