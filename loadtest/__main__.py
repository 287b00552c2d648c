"""python -m loadtest COMMAND: what a service does under load, and what it costs.

load      Locust's callers of every kind for a minute, with a verdict
bench     latency at given rates, in an open loop
capacity  the highest rate that keeps p99 within a bound
growth    capacity as lists, slates, budgets, workers and bodies grow
peers     the same for other servers around the same model
agree     whether another tool sees the same latency
compare   two reports of bench or capacity
overload  five times too much, and what becomes of everybody
reloads   changes of the model under load
soak      ten minutes at 70 %: does anything grow?
cpu       CPU time inside the model and outside of it
fuzz      generated requests that try to break the contract

Each has --help, and each starts the service that it asks.
"""

from __future__ import annotations

import importlib
import signal
import sys
from types import FrameType

from loadtest.errors import Interrupted, status_of

COMMANDS = (
    "load", "bench", "capacity", "growth", "peers", "agree", "compare", "overload", "reloads",
    "soak", "cpu", "fuzz",
)  # fmt: skip


def main() -> int:
    """Hand over to the command; what one needs is not imported for the others."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command not in COMMANDS:
        wanted = command in ("-h", "--help")
        print(__doc__, file=sys.stdout if wanted else sys.stderr)
        return 0 if wanted else 2
    # As Ctrl-C does: what was started is ended on the way out, also where a terminal is closed.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    try:
        return int(importlib.import_module(f"loadtest.{command}").main(sys.argv[2:]))
    except KeyboardInterrupt as interrupt:
        print("loadtest: interrupted", file=sys.stderr)
        return status_of(interrupt)


def _interrupt(number: int, _: FrameType | None) -> None:
    raise Interrupted(number)


if __name__ == "__main__":
    sys.exit(main())
