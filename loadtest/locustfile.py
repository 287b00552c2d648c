"""Locust: the requests of many kinds of callers, shapes of load, and a verdict as exit code.

    locust -f loadtest/locustfile.py --headless -u 8 -r 8 -t 60s --host http://127.0.0.1:8000

Without `--headless` a page on http://127.0.0.1:8089 asks for the same. Name user classes to take
only those: `locust -f loadtest/locustfile.py IdsOnly Explained`. Locust's users are closed-loop:
they wait for an answer before they ask again, so overload shows as fewer requests, not as longer
queues; `python -m loadtest capacity` is the open loop.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from locust import FastHttpUser, LoadTestShape, constant_pacing, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # locust looks beside this file only
from loadtest.scenarios import Asking, Catalogue, Scenario, scenario

SHAPES = ("flat", "ramp", "step", "spike", "soak")
NUMBERS = ("answers", "degraded", "reduced", "queue_ms", "inference_ms", "steps")


@events.init_command_line_parser.add_listener
def options(parser: LocustArgumentParser) -> None:
    """What a run can be told beside Locust's own options; each also by its environment variable."""
    add = parser.add_argument
    add(
        "--bundle",
        default="bundles/ranklens/1",
        env_var="RERANK_LOAD_BUNDLE",
        help="Item ids and features are taken from this bundle",
    )
    add("--candidates", type=int, default=50, help="Of each list")
    add("--pace", type=float, default=0.1, help="Seconds between two requests of a user")
    add("--shape", choices=SHAPES, default="flat", help="How users come, up to --users of them")
    add(
        "--slo-p99-ms",
        type=float,
        default=100.0,
        env_var="RERANK_SLO_P99_MS",
        help="Exit status 1 above it",
    )
    add("--slo-errors", type=float, default=0.0, help="Largest share of requests that may fail")
    add("--slo-degraded", type=float, default=0.01,
        help="Largest share of lists that may get their initial ranking back")  # fmt: skip
    add("--slo-reduced", type=float, default=0.5,
        help="Largest share of lists that may be reasoned about less than asked")  # fmt: skip


class Tally:
    """What answers say of themselves, added up; of all workers where Locust has several."""

    def __init__(self) -> None:
        self.sums = dict.fromkeys(NUMBERS, 0.0)

    def add(self, answer: Mapping[str, Any]) -> None:
        """One list's answer."""
        latency, reason = answer["latency_ms"], answer["degraded"]
        self.sums["answers"] += 1
        self.sums["reduced"] += reason is not None and reason["reason"] == "reduced_budget"
        self.sums["degraded"] += reason is not None and reason["reason"] != "reduced_budget"
        self.sums["queue_ms"] += latency["queue"]
        self.sums["inference_ms"] += latency["inference"]
        self.sums["steps"] += answer["reasoning"]["steps_used"]

    def take(self) -> dict[str, float]:
        """The sums, which begin anew."""
        taken, self.sums = self.sums, dict.fromkeys(NUMBERS, 0.0)
        return taken

    def merge(self, sums: Mapping[str, float]) -> None:
        """Add another's sums."""
        for name, value in sums.items():
            self.sums[name] += value

    def mean(self, name: str) -> float:
        """Per answered list."""
        return self.sums[name] / self.sums["answers"] if self.sums["answers"] else 0.0


tally = Tally()


@events.report_to_master.add_listener
def report(client_id: str, data: dict[str, Any]) -> None:
    """A worker tells its sums."""
    data["rerank"] = tally.take()


@events.worker_report.add_listener
def collect(client_id: str, data: dict[str, Any]) -> None:
    """The master adds them up."""
    tally.merge(data["rerank"])


class Caller(FastHttpUser):
    """Asks for one kind of list, ten times a second unless `--pace` says otherwise."""

    abstract = True
    kind = ""
    asked: Scenario

    def on_start(self) -> None:
        """The bodies are made once; making them would be most of the load.

        Then a part of the pace is slept: users that come together must not ask together for good.
        """
        given = self.environment.parsed_options
        catalogue = Catalogue.of(Path(given.bundle))
        seed = random.randrange(1 << 30)
        self.asked = scenario(self.kind, catalogue, Asking(given.candidates), seed=seed)
        time.sleep(random.uniform(0, given.pace))

    def wait_time(self) -> float:
        """Constant pacing: the time that the answer took counts."""
        return float(constant_pacing(self.environment.parsed_options.pace)(self))

    @task
    def ask(self) -> None:
        """One call; its name in the statistics is the scenario's."""
        asked = self.asked
        with self.client.post(
            asked.path,
            data=random.choice(asked.bodies),
            headers={"Content-Type": "application/json"},
            name=asked.name,
            catch_response=True,
        ) as response:
            if response.status_code not in asked.expected:
                response.failure(f"status {response.status_code}, not {asked.expected[0]}")
            elif response.status_code == 200:
                answer = json.loads(response.content)
                for each in answer.get("responses", [answer]):
                    tally.add(each)
                response.success()
            else:
                response.success()  # a bad request, refused as it should be


class IdsOnly(Caller):
    """Ids alone."""

    kind, weight = "ids", 6


class WithHistory(Caller):
    """Ids, for a user with a history."""

    kind, weight = "history", 6


class Inline(Caller):
    """Candidates that bring their features."""

    kind, weight = "inline", 2


class Mixed(Caller):
    """Lists of 10 to 500 candidates, short ones most."""

    kind, weight = "mixed", 2


class Constrained(Caller):
    """Pinned, blocked and limited."""

    kind, weight = "constraints", 1


class Explained(Caller):
    """With what explains each position."""

    kind, weight = "explain", 1


class Batch(Caller):
    """Eight lists in one call."""

    kind, weight = "batch", 1


class BadClient(Caller):
    """Gets it wrong, and must be told so."""

    kind, weight = "bad", 1


class Shape(LoadTestShape):
    """`--users` is the most there are; `--run-time` how long a ramp, the steps or a spike take."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Users of this moment, and how many may come in a second."""
        assert self.runner is not None
        given = self.runner.environment.parsed_options
        users, rate, whole = given.num_users or 1, given.spawn_rate or 1.0, given.run_time or 60
        if given.run_time and self.get_run_time() >= whole:
            return None  # the end; where there is a shape, Locust leaves it to that
        share = users_share(given.shape, self.get_run_time() / whole)
        return max(1, math.ceil(users * share)), rate if given.shape == "flat" else float(users)


def users_share(shape: str, at: float) -> float:
    """The share of users that are there at a share of the run: flat and soak have all of them."""
    if shape == "ramp":
        return min(1.0, at)
    if shape == "step":
        return min(1.0, (math.floor(at * 4) + 1) / 4)
    if shape == "spike":
        return 1.0 if 0.4 <= at < 0.6 else 0.2
    return 1.0


@events.quitting.add_listener
def judge(environment: Environment, **_: object) -> None:
    """Print what the answers said, and exit 1 where the SLO was missed or nothing was asked."""
    given, total = environment.parsed_options, environment.stats.total
    if given is None or environment.process_exit_code is not None:
        return
    p99 = float(total.get_response_time_percentile(0.99) or 0.0)
    failed = total.num_failures / total.num_requests if total.num_requests else 0.0
    judged = [
        ("requests", float(total.num_requests), total.num_requests > 0, "at least 1"),
        ("p99 ms", p99, p99 <= given.slo_p99_ms, f"at most {given.slo_p99_ms:g}"),
        ("failed", failed, failed <= given.slo_errors, f"at most {given.slo_errors:g}"),
        (
            "degraded", tally.mean("degraded"), tally.mean("degraded") <= given.slo_degraded,
            f"at most {given.slo_degraded:g}",
        ),
        (
            "reduced budget", tally.mean("reduced"), tally.mean("reduced") <= given.slo_reduced,
            f"at most {given.slo_reduced:g}",
        ),
    ]  # fmt: skip
    print(
        f"per list: queue {tally.mean('queue_ms'):.2f} ms, inference "
        f"{tally.mean('inference_ms'):.2f} ms, {tally.mean('steps'):.2f} reasoning steps"
    )
    for name, value, kept, bar in judged:
        print(f"{'kept  ' if kept else 'MISSED'}  {name}: {value:.4g} ({bar})")
    environment.process_exit_code = 0 if all(kept for _, _, kept, _ in judged) else 1
