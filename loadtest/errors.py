"""Exit statuses of `python -m loadtest`, and the exceptions that end a command.

LoadTestError
├── UsageError    an argument or a bundle cannot be used
└── ServerError   a service did not start or did not respond (loadtest.server)
"""

from __future__ import annotations

import signal

PASSED = 0
MISSED = 1  # a bar was missed: a failed request, a broken contract, a worse report
UNUSABLE = 2  # wrong arguments, or no service to measure
VOID = 3  # the generator was the bottleneck: the figures say nothing about the service


class LoadTestError(Exception):
    """A measurement cannot be made. The message is one line for the user."""


class UsageError(LoadTestError):
    """An argument cannot be used. The message names the option, the value and the rule."""


class Interrupted(KeyboardInterrupt):
    """A signal other than SIGINT asked the load test to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def status_of(interrupt: KeyboardInterrupt) -> int:
    """Return the exit status after a signal, 128 plus its number."""
    number = interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
    return 128 + int(number)
