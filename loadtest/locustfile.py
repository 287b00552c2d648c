"""Locust: ids-only requests of 24 candidates. The exit code is the verdict.

    locust -f loadtest/locustfile.py --headless --users 4 --run-time 30s --host http://127.0.0.1:8000

Locust's users are closed-loop: they wait for an answer before they ask again, so overload shows as
fewer requests, not as longer queues.
"""

from __future__ import annotations

import os
import random

from locust import FastHttpUser, constant_pacing, events, task
from locust.env import Environment

# The bar of the re-ranking stage; RERANK_SLO_P99_MS sets another.
P99_MS = float(os.environ.get("RERANK_SLO_P99_MS", "100"))


class Page(FastHttpUser):
    """A page that asks for a slate ten times a second."""

    wait_time = constant_pacing(0.1)

    @task
    def rerank(self) -> None:
        """One list; a degraded answer is a failure of the test."""
        ids = random.sample(range(1, 5000), 24)
        body = {"candidates": [{"id": str(item)} for item in ids]}
        with self.client.post("/rerank", json=body, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
            elif response.json()["degraded"]:
                response.failure(f"degraded: {response.json()['degraded']['reason']}")


@events.quitting.add_listener
def judge(environment: Environment, **_: object) -> None:
    """Exit 1 for any failure, no request at all, or a p99 over the bar."""
    total = environment.stats.total
    p99 = total.get_response_time_percentile(0.99) or 0.0
    passed = total.num_requests > 0 and total.num_failures == 0 and p99 <= P99_MS
    environment.process_exit_code = 0 if passed else 1
