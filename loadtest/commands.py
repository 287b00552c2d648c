"""Options of every command, as frozen dataclasses that tyro parses.

A field is an option, its docstring the help text. Code that measures is imported when a command
executes, so that `--help`, wrong arguments and `compare` do not wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import tyro

from loadtest.contract_commands import Balance, Egress, Fuzz
from loadtest.errors import UsageError
from loadtest.html_pages import Html
from loadtest.journal.command import Journal
from loadtest.loop.command import Loop
from loadtest.state.command import State
from loadtest.validation import require_not_negative, require_positive

ScenarioName = Literal[
    "ids", "history", "returning", "inline", "mixed", "constraints", "explain", "batch", "bad"
]  # fmt: skip
Dimension = Literal["candidates", "slate length", "budget", "workers", "body"]


class Command(Protocol):
    """A parsed command line."""

    def execute(self, command_line: str) -> int:
        """Run it and return the exit status. command_line: the call, for its report."""


@dataclass(frozen=True)
class Load:
    """Run Locust for a minute against a service started for it; its gate is the exit status.

    Arguments after `--` go to Locust, as in `-- IdsOnly --shape spike --slo-p99-ms 50`.
    """

    locust: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="USER")] = ()
    """User classes to run, IdsOnly for one; all without any."""
    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to serve."""
    users: int = 20
    """Concurrent users, each of which sends ten requests per second."""
    seconds: int = 60
    """Duration in seconds."""

    def __post_init__(self) -> None:
        require_positive(users=self.users, seconds=self.seconds)

    def execute(self, command_line: str) -> int:
        """Run Locust. 1: an SLO was missed; 2: Locust did not run."""
        from loadtest.load import run_locust

        return run_locust(self)


@dataclass(frozen=True)
class Target:
    """Options of the commands that offer load at chosen rates."""

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to serve, and to take item ids from."""
    url: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """Base URL of a running service, as http://127.0.0.1:8000; without it one is started."""
    workers: int = 1
    """Worker processes of the service that is started."""
    scenario: tuple[ScenarioName, ...] = ("history", "ids")
    """Kinds of requests to send, one kind after the other. The report is about the first; figures
    of the others are beside it."""
    candidates: int = 50
    """Candidates per list."""
    generators: int = 1
    """Generator processes that share the rate."""

    def __post_init__(self) -> None:
        require_positive(workers=self.workers, generators=self.generators)
        if not self.scenario:
            raise UsageError("--scenario: needs at least one kind of requests, got none")
        if self.url is not None and not self.url.startswith("http://"):
            raise UsageError(
                f"--url: must begin with http:// (TLS is not supported), got {self.url!r}; "
                "write http://127.0.0.1:8000 for a service on this machine"
            )


@dataclass(frozen=True)
class Bench(Target):
    """Measure latency at chosen rates in an open loop.

    Poisson arrivals come from processes of their own; latency counts from when a request was due.
    A run in which a generator was the bottleneck is void: exit status 3.
    """

    rate: tuple[float, ...] = (100, 300, 600)
    """Requests per second, one run for each rate."""
    seconds: float = 10.0
    """Seconds at each rate."""
    warmup: float = 2.0
    """Seconds of warm-up before each, left out of the figures."""
    out: Path = Path("build/bench")
    """Directory for bench.json and bench.html."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rate:
            raise UsageError("--rate: needs at least one number above 0, got none")
        require_positive(rate=self.rate, seconds=self.seconds)
        require_not_negative(warmup=self.warmup)

    def execute(self, command_line: str) -> int:
        """Offer the rates. 1: a request failed; 3: a run is void."""
        from loadtest.bench import bench

        return bench(self, command_line)


@dataclass(frozen=True)
class Capacity(Target):
    """Search the highest rate at which 99 of 100 requests are answered in time.

    The rate doubles until it does not hold, then a bisection follows; the whole search is
    repeated. A rate holds when p99 is within the bound, no request fails, none gets the initial
    ranking and responses keep up with requests, in one of two tries: a stall of the machine of
    50 ms touches more than one of a hundred requests of such a short run.
    """

    p99_ms: float = 30.0
    """Bound on the 99th percentile of latency in milliseconds."""
    seconds: float = 4.0
    """Seconds at each rate."""
    repeats: int = 3
    """Repeats of the whole search; their range shows the noise."""
    adaptive_budget: bool = False
    """Let the service reduce the budget under load."""
    baseline: Path | None = None
    """Checkout of another commit. Its service and bundle take turns with this one's in the
    scenarios ids, history and returning; writes capacity_histories.json alone."""
    out: Path = Path("build/capacity")
    """Directory for capacity.json and capacity.html."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(p99_ms=self.p99_ms, seconds=self.seconds, repeats=self.repeats)
        if self.baseline is not None and self.url is not None:
            rule = "not with --baseline, which starts both services"
            raise UsageError(f"--url: {rule}, got {self.url}")

    def execute(self, command_line: str) -> int:
        """Search and write the report. 3: the generator was the bottleneck."""
        from loadtest import capacity, capacity_turns

        if self.baseline:
            return capacity_turns.compare(self)
        return capacity.write_capacity(self, command_line)


@dataclass(frozen=True)
class Growth:
    """Measure capacity as work grows, one dimension at a time.

    Candidates per list, slate length, budget, workers, and the kind of body. Everything else stays
    at 50 candidates, ids alone, one worker, the bundle's slate length and budget. Writes
    growth.{json,md,png} after each point; a run that was interrupted goes on after its last one.
    """

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to serve."""
    p99_ms: float = 30.0
    """Bound on the 99th percentile of latency in milliseconds."""
    seconds: float = 3.0
    """Seconds at each rate."""
    repeats: int = 2
    """Repeats of each search."""
    only: Dimension | None = None
    """Measure this dimension alone."""
    fresh: bool = False
    """Measure again the points that the report already has."""
    out: Path = Path("docs/reports")
    """Directory of the report."""

    def __post_init__(self) -> None:
        require_positive(p99_ms=self.p99_ms, seconds=self.seconds, repeats=self.repeats)

    def execute(self, command_line: str) -> int:
        """Measure the points that the report lacks. 3: the generator was a point's bottleneck."""
        from loadtest.growth import grow

        return grow(self)


@dataclass(frozen=True)
class Agree:
    """Compare the open loop with hey (a Debian package) at a low rate.

    The same request goes to the service by turns from both. The medians must agree within 15 %.
    """

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to serve."""
    rate: int = 30
    """Requests per second."""
    seconds: float = 10.0
    """Seconds of each turn."""
    turns: int = 3
    """Turns of each tool."""
    out: Path = Path("docs/reports/agree.json")
    """File for the report."""

    def __post_init__(self) -> None:
        require_positive(rate=self.rate, seconds=self.seconds, turns=self.turns)

    def execute(self, command_line: str) -> int:
        """Measure with both. 1: the medians differ by more than 15 %."""
        from loadtest.agree import agree

        return agree(self)


@dataclass(frozen=True)
class Compare:
    """Compare two reports of bench or capacity: AFTER against BEFORE, in their first scenario.

    AFTER is worse where a figure loses more than the tolerance, and a capacity only where the
    ranges of the repeats do not overlap either.
    """

    before: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BEFORE")]
    """Report of the first measurement, bench.json or capacity.json."""
    after: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="AFTER")]
    """Report of the second measurement."""
    tolerance: float = 0.1
    """Relative loss that is accepted."""

    def __post_init__(self) -> None:
        require_not_negative(tolerance=self.tolerance)

    def execute(self, command_line: str) -> int:
        """Print the differences. 1: AFTER is worse."""
        from loadtest.compare import compare

        return compare(self)


@dataclass(frozen=True)
class Overload:
    """Offer several times the capacity and report which requests are ranked, reduced and shed.

    A closed loop finds the capacity at the full budget; an open loop then offers a quarter of it,
    FACTOR times it, and a quarter again. Writes overload.json, overload.md and overload.png.
    """

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to serve."""
    factor: float = 5.0
    """Offered load as a multiple of the capacity."""
    seconds: float = 60.0
    """Seconds of overload."""
    rest: float = 15.0
    """Seconds at a quarter of the capacity before and after it."""
    candidates: int = 100
    """Candidates per list."""
    slates: int = 8
    """Slates sampled per list; 1 takes the greedy one."""
    timeout_ms: float = 100.0
    """Deadline of each request in milliseconds."""
    max_queue: int = 128
    """Queue limit of the service."""
    out: Path = Path("docs/reports")
    """Directory of the report."""

    def __post_init__(self) -> None:
        require_positive(
            factor=self.factor, seconds=self.seconds, rest=self.rest, candidates=self.candidates,
            slates=self.slates, timeout_ms=self.timeout_ms, max_queue=self.max_queue,
        )  # fmt: skip

    def execute(self, command_line: str) -> int:
        """Measure and write. 1: a request got no response; 3: the generator ran out of sockets."""
        from loadtest.overload import overload

        return overload(self)


@dataclass(frozen=True)
class Reloads:
    """Change the served model again and again while clients send requests.

    A store holds many versions of one bundle. A closed loop of a few clients runs first alone,
    then while an admin activates one version after the other.
    """

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to serve."""
    changes: int = 50
    """Changes of the served version."""
    pause: float = 1.0
    """Seconds between two changes."""
    clients: int = 2
    """Concurrent clients."""
    seconds: float = 15.0
    """Seconds without changes, before them."""
    out: Path = Path("docs/reports/reloads.json")
    """File for the report."""

    def __post_init__(self) -> None:
        require_positive(changes=self.changes, clients=self.clients, seconds=self.seconds)
        require_not_negative(pause=self.pause)

    def execute(self, command_line: str) -> int:
        """Measure and write. 1: a request failed or a change was refused."""
        from loadtest.reloads import reload_under_load

        return reload_under_load(self)


@dataclass(frozen=True)
class Soak:
    """Run ten minutes at 70 % of the capacity and report whether memory grows.

    An overload comes first, after which queue and batches have been about as large as they get.
    The slope of resident memory is that of the second half, when the last record of a longest
    queue has been set and what still grows is a leak.
    """

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to serve."""
    seconds: float = 600.0
    """Seconds at load."""
    fill: float = 30.0
    """Seconds of overload before it."""
    share: float = 0.7
    """Offered load as a share of the capacity."""
    candidates: int = 50
    """Candidates per list."""
    out: Path = Path("docs/reports/soak.json")
    """File for the report."""

    def __post_init__(self) -> None:
        require_positive(seconds=self.seconds, share=self.share, candidates=self.candidates)
        require_not_negative(fill=self.fill)

    def execute(self, command_line: str) -> int:
        """Measure and write. 1: a request failed; 3: the generator ran out of sockets."""
        from loadtest.soak import soak

        return soak(self)


@dataclass(frozen=True)
class Cpu:
    """Measure CPU time per request inside the graph's run and outside of it.

    One closed-loop client, every reasoning step taken. CPU time of the process comes
    from the kernel, that of the run from `rerank_inference_cpu_seconds_total`.
    """

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to serve."""
    scenario: Literal["ids", "history", "returning"] = "ids"
    """Ids alone, with 48 answers that no request repeats, or with histories that return."""
    candidates: int = 50
    """Candidates per list."""
    requests: int = 2000
    """Requests in each of five turns."""
    baseline: Path | None = None
    """Checkout of another commit. Its service and bundle take turns with this one's, in every
    scenario."""
    calls: bool = False
    """Count Python calls, calls into C and memory per request instead, in every scenario."""
    out: Path = Path("docs/reports/cpu.json")
    """File for the report."""

    def __post_init__(self) -> None:
        require_positive(candidates=self.candidates, requests=self.requests)

    def execute(self, command_line: str) -> int:
        """Measure and write."""
        from loadtest import calls, cpu, cpu_turns

        if self.calls:
            return calls.count_calls(self)
        return cpu_turns.compare(self) if self.baseline else cpu.measure_cpu(self)


COMMANDS: dict[str, type[Command]] = {
    command.__name__.lower(): command
    for command in (
        Load, Bench, Capacity, Growth, Agree, Compare, Overload, Reloads, Soak, Cpu, Fuzz, Egress,
        Balance, State, Journal, Html, Loop,
    )
}  # fmt: skip
