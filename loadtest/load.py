"""python -m loadtest load: Locust for a minute against a service started for it; the gate decides.

What follows `--` goes to Locust as it is, as `-- IdsOnly --shape spike`.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest import processes
from loadtest.server import ServerError, serving

STOP_S = 20.0  # limit for Locust to print its statistics
LOCUSTFILE = Path(__file__).with_name("locustfile.py")


def main(arguments: Sequence[str]) -> int:
    """Run it; Locust's exit status, which is 1 where the SLO is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest load", description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--bundle", type=Path, default=Path("bundles/ranklens/1"), help="to serve")
    parser.add_argument("--users", type=int, default=20, help="that ask ten times a second each")
    parser.add_argument("--seconds", type=int, default=60, help="how long")
    parser.add_argument("locust", nargs="*", help="after --: more for Locust")
    asked = parser.parse_args(arguments)
    try:
        with serving(asked.bundle) as server:
            run = [
                sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless",
                "--host", server.url, "--bundle", str(asked.bundle), "--only-summary",
                "--users", str(asked.users), "--spawn-rate", str(asked.users),
                "--run-time", f"{asked.seconds}s", *asked.locust,
            ]  # fmt: skip
            return processes.run(run, signal.SIGTERM, STOP_S, new_session=False)
    except (OSError, ServerError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
