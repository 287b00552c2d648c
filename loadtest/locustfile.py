"""Locust: requests of many kinds of callers, shapes of load, and a gate as exit status.

    locust -f loadtest/locustfile.py --headless -u 8 -r 8 -t 60s --host http://127.0.0.1:8000

Without `--headless`, the page on http://127.0.0.1:8089 starts the same. Name user classes to run
only those: `locust -f loadtest/locustfile.py IdsOnly Explained`. Locust's users are closed-loop:
they wait for a response before the next request, so overload shows as fewer requests, not as
longer queues; `python -m loadtest capacity` is the open loop.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from locust import FastHttpUser, LoadTestShape, constant_pacing, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

# Locust puts only this file's directory on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from loadtest.scenarios import Catalogue, RequestOptions, Scenario, scenario

HOOKS: Any = events  # whose add_listener has no type
SHAPES = ("flat", "ramp", "step", "spike", "soak")
NUMBERS = ("answers", "degraded", "reduced", "queue_ms", "inference_ms", "steps")
VERDICT = "RERANK_LOAD_VERDICT"  # names a file for the verdict (loadtest.load)


def add_options(parser: LocustArgumentParser) -> None:
    """Add options to Locust's own; each can be set by its environment variable too."""
    add = parser.add_argument
    add(
        "--bundle",
        default="bundles/ranklens/1",
        env_var="RERANK_LOAD_BUNDLE",
        help="Bundle that item ids and features are taken from",
    )
    add("--candidates", type=int, default=50, help="Candidates per list")
    add("--pace", type=float, default=0.1, help="Seconds between two requests of a user")
    add("--shape", choices=SHAPES, default="flat", help="Course of the number of users")
    add(
        "--slo-p99-ms",
        type=float,
        default=100.0,
        env_var="RERANK_SLO_P99_MS",
        help="Bar for p99 latency (ms); a missed bar is exit status 1",
    )
    add("--slo-errors", type=float, default=0.0, help="Bar for the share of failed requests")
    add("--slo-degraded", type=float, default=0.01,
        help="Bar for the share of lists that get their initial ranking back")  # fmt: skip
    add("--slo-reduced", type=float, default=0.5,
        help="Bar for the share of lists with a reduced reasoning budget")  # fmt: skip


class Tally:
    """Sums over responses and times of requests; of all workers when Locust has several."""

    def __init__(self) -> None:
        self.sums = dict.fromkeys(NUMBERS, 0.0)
        self.times: Counter[int] = Counter()  # requests by response time in tenths of a ms

    def add(self, response: Mapping[str, Any]) -> None:
        """Add the response to one list."""
        latency, degraded = response["latency_ms"], response["degraded"]
        reason = degraded and degraded["reason"]
        self.sums["answers"] += 1
        self.sums["reduced"] += reason == "reduced_budget"
        self.sums["degraded"] += reason not in (None, "reduced_budget")
        self.sums["queue_ms"] += latency["queue"]
        self.sums["inference_ms"] += latency["inference"]
        self.sums["steps"] += response["reasoning"]["steps_used"]

    def take(self) -> dict[str, Any]:
        """Return everything and begin anew."""
        taken = {"sums": self.sums, "times": list(self.times.items())}
        self.sums, self.times = dict.fromkeys(NUMBERS, 0.0), Counter()
        return taken

    def merge(self, taken: Mapping[str, Any]) -> None:
        """Add the sums and times that another process took."""
        for name, value in taken["sums"].items():
            self.sums[name] += value
        for tenths, count in taken["times"]:
            self.times[tenths] += count

    def mean(self, name: str) -> float:
        """Return the mean per answered list."""
        return self.sums[name] / self.sums["answers"] if self.sums["answers"] else 0.0

    def percentile_ms(self, share: float) -> float:
        """Return the least time within which this share of the requests ended, in tenths of a ms.

        Locust's own percentiles round times of 100 ms and more to two digits: a p99 of 104 ms
        would keep a bar of 100 ms.
        """
        remaining = math.ceil(share * self.times.total())
        for tenths in sorted(self.times):
            remaining -= self.times[tenths]
            if remaining <= 0:
                return tenths / 10
        return 0.0


tally = Tally()


def record(response_time: float, **_: object) -> None:
    """Keep the response time (ms) of a request, failed ones included."""
    tally.times[math.ceil(10 * response_time)] += 1


def report(client_id: str, data: dict[str, Any]) -> None:
    """Send a worker's sums to the master."""
    data["rerank"] = tally.take()


def collect(client_id: str, data: dict[str, Any]) -> None:
    """Add up the workers' sums in the master."""
    tally.merge(data["rerank"])


def forget(**_: object) -> None:
    """Begin anew when Locust resets its statistics."""
    tally.take()


def follow_resets(environment: Environment, **_: object) -> None:
    """Honour --reset-stats, which has no event of its own."""
    if environment.reset_stats:
        HOOKS.spawning_complete.add_listener(forget)


class Caller(FastHttpUser):
    """A user with one kind of list, ten times a second unless `--pace` says otherwise."""

    abstract = True
    kind = ""
    requests: Scenario

    def on_start(self) -> None:
        """Make the bodies once, since making them would be the larger part of the load.

        Then sleep for a part of the pace, so that users that start together do not send together.
        """
        options = self.environment.parsed_options
        assert options is not None
        catalogue = Catalogue.of(Path(options.bundle))
        seed = random.randrange(1 << 30)
        self.requests = scenario(
            self.kind, catalogue, RequestOptions(options.candidates), seed=seed
        )
        time.sleep(random.uniform(0, options.pace))

    def wait_time(self) -> float:
        """Return the pause that keeps a constant pace; the response time counts."""
        options = self.environment.parsed_options
        assert options is not None
        return float(constant_pacing(options.pace)(self))

    @task
    def send(self) -> None:
        """Send one request; its name in the statistics is the scenario's."""
        requests = self.requests
        client: Any = self.client  # typed for text bodies only
        with client.post(
            requests.path,
            data=random.choice(requests.bodies),
            headers={"Content-Type": "application/json"},
            name=requests.name,
            catch_response=True,
        ) as response:
            if response.status_code not in requests.expected:
                response.failure(f"status {response.status_code}, not {requests.expected[0]}")
            elif response.status_code == 200:
                content = json.loads(response.content)
                for each in content.get("responses", [content]):
                    tally.add(each)
                response.success()
            else:
                response.success()  # a bad request, refused as it should be


class IdsOnly(Caller):
    """Send ids alone."""

    kind, weight = "ids", 6


class WithHistory(Caller):
    """Send ids for a user with a history."""

    kind, weight = "history", 6


class Inline(Caller):
    """Send candidates with their features."""

    kind, weight = "inline", 2


class Mixed(Caller):
    """Send lists of 10 to 500 candidates, mainly short ones."""

    kind, weight = "mixed", 2


class Constrained(Caller):
    """Send pinned, blocked and limited candidates."""

    kind, weight = "constraints", 1


class Explained(Caller):
    """Request an explanation of each position."""

    kind, weight = "explain", 1


class Batch(Caller):
    """Send eight lists in one call."""

    kind, weight = "batch", 1


class BadClient(Caller):
    """Send requests that must be refused."""

    kind, weight = "bad", 1


class Shape(LoadTestShape):
    """Course of the users: `--users` is the maximum, `--run-time` the length of the course."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users now and how many may start per second; None ends the run."""
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        users, rate, whole = options.num_users or 1, options.spawn_rate or 1.0, options.run_time
        elapsed = float(self.get_run_time())  # type: ignore[no-untyped-call]
        if whole and elapsed >= whole:
            return None  # where there is a shape, Locust leaves the end to it
        share = users_share(options.shape, elapsed / (whole or 60))
        return max(1, math.ceil(users * share)), rate if options.shape == "flat" else float(users)


def users_share(shape: str, at: float) -> float:
    """Return the share of the users at a share of the run; flat and soak have all of them."""
    if shape == "ramp":
        return min(1.0, at)
    if shape == "step":
        return min(1.0, (math.floor(at * 4) + 1) / 4)
    if shape == "spike":
        return 1.0 if 0.4 <= at < 0.6 else 0.2
    return 1.0


def judge(environment: Environment, **_: object) -> None:
    """Print the verdict on each bar; exit with 1 when one was missed or no request was sent."""
    options, total = environment.parsed_options, environment.stats.total
    if options is None or environment.process_exit_code is not None:
        return
    failed = total.num_failures / total.num_requests if total.num_requests else 0.0
    bars = [
        ("p99 ms", tally.percentile_ms(0.99), options.slo_p99_ms),
        ("failed", failed, options.slo_errors),
        ("degraded", tally.mean("degraded"), options.slo_degraded),
        ("reduced budget", tally.mean("reduced"), options.slo_reduced),
    ]
    print(
        f"per list: queue {tally.mean('queue_ms'):.2f} ms, inference "
        f"{tally.mean('inference_ms'):.2f} ms, {tally.mean('steps'):.2f} reasoning steps"
    )
    sent = float(total.num_requests)
    verdicts: list[tuple[str, float, bool, str]] = [("requests", sent, sent > 0, "at least 1")]
    verdicts += [(name, value, value <= bar, f"at most {bar:g}") for name, value, bar in bars]
    for name, value, kept, rule in verdicts:
        print(f"{'kept  ' if kept else 'MISSED'}  {name}: {value:.4g} ({rule})")
    passed = all(kept for _, _, kept, _ in verdicts)
    environment.process_exit_code = 0 if passed else 1
    if path := os.environ.get(VERDICT):
        Path(path).write_text("passed" if passed else "missed")


HOOKS.init_command_line_parser.add_listener(add_options)
HOOKS.init.add_listener(follow_resets)
HOOKS.quitting.add_listener(judge)
HOOKS.report_to_master.add_listener(report)
HOOKS.request.add_listener(record)
HOOKS.reset_stats.add_listener(forget)
HOOKS.worker_report.add_listener(collect)
