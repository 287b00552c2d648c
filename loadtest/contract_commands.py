"""Options of the commands that check promises of the service, as in loadtest.commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loadtest.validation import require_not_negative, require_positive


@dataclass(frozen=True)
class Fuzz:
    """Send generated requests to a service started for it and check every response.

    Half of the requests come from schemathesis and the service's OpenAPI document, half from
    strategies over the bundle. The same seed sends the same requests, on several connections.
    """

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to serve."""
    requests: int = 1_000
    """Number of requests."""
    seed: int = 0
    """Seed of the generated requests."""
    out: Path | None = None
    """File for the findings as JSON."""

    def __post_init__(self) -> None:
        require_positive(requests=self.requests)

    def execute(self, command_line: str) -> int:
        """Send and check. 1: a response broke the contract; 130: interrupted before any did."""
        from loadtest.fuzz.run import fuzz

        return fuzz(self)


@dataclass(frozen=True)
class Egress:
    """Send requests to a service under strace and list its connections beyond this machine.

    Everything between its start and its end counts. Needs strace, and leave to trace a child.
    """

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to serve."""
    requests: int = 100_000
    """Number of requests."""
    workers: int = 1
    """Worker processes of the service."""
    idle: float = 10.0
    """Seconds without requests before its end, in which something may still be sent."""
    out: Path = Path("docs/reports/egress.json")
    """File for the report."""

    def __post_init__(self) -> None:
        require_positive(requests=self.requests, workers=self.workers)
        require_not_negative(idle=self.idle)

    def execute(self, command_line: str) -> int:
        """Trace and write. 1: a connection left the machine, or a request failed."""
        from loadtest.egress import egress

        return egress(self)


@dataclass(frozen=True)
class Balance:
    """Measure how workers share a burst of connections, and latency at equal load, in turns.

    One process that ranks in a thread takes turns with them. Linux only.
    """

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to serve."""
    workers: int = 2
    """Worker processes of each service."""
    connections: int = 16
    """Requests that are sent at once, each over a new connection."""
    rate: float = 400.0
    """Requests per second at which latency is measured."""
    seconds: float = 4.0
    """Seconds of each turn."""
    rounds: int = 5
    """Turns of each service."""
    baseline: Path | None = None
    """Checkout of another commit that takes turns too."""
    out: Path = Path("docs/reports/balance.json")
    """File for the report."""

    def __post_init__(self) -> None:
        require_positive(
            workers=self.workers,
            connections=self.connections,
            rate=self.rate,
            seconds=self.seconds,
            rounds=self.rounds,
        )

    def execute(self, command_line: str) -> int:
        """Measure and write."""
        from loadtest.balance import balance

        return balance(self)
