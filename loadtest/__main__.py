"""python -m loadtest COMMAND: measure a service under load.

load      Locust's users of every kind for a minute, with a gate
bench     latency at chosen rates, in an open loop
capacity  the highest rate at which p99 stays within a bound
growth    capacity as lists, slates, budgets, workers and bodies grow
peers     capacity and latency of other servers around the same model
agree     latency as another tool measures it
compare   two reports of bench or capacity
overload  five times the capacity: requests ranked, reduced and shed
reloads   changes of the served model under load
soak      ten minutes at 70 % of the capacity: growth of memory
cpu       CPU time per request, inside the model and outside of it
fuzz      generated requests whose responses must keep the contract
egress    connections of the service beyond this machine, by strace
balance   connections and latency of workers that share a port
state     the entity store: lookups, loads, feedback, kills, replayed logs, erasure
html      HTML pages of committed reports, from their Markdown and JSON
loop      users of a known world, and a service that learns from them

Each command has --help and starts the service that it measures. Exit status: 0 passed, 1 a bar was
missed, 2 wrong arguments or no service, 3 void (the generator was the bottleneck), 128 + N
interrupted by signal N.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

from loadtest.errors import UNUSABLE, Interrupted, status_of


def main() -> int:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help"):
        print(__doc__)
        return 0
    # Handled like Ctrl-C, so that context managers stop the children.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    try:
        if name == "peers":
            from loadtest.peers import run_peers

            return run_peers(sys.argv[2:])
        from loadtest.cli import run_command
        from loadtest.commands import COMMANDS

        if name in COMMANDS:
            return run_command(name, sys.argv[2:])
    except KeyboardInterrupt as interrupt:
        print("loadtest: interrupted", file=sys.stderr)
        return status_of(interrupt)
    print(__doc__, file=sys.stderr)
    return UNUSABLE


def _interrupt(number: int, _: FrameType | None) -> None:
    raise Interrupted(number)


if __name__ == "__main__":
    sys.exit(main())
