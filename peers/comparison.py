"""Compare servers on one machine: search each one's capacity, then load the best two alike.

Searches are made in rounds, one of each server a round, so that a change of the machine affects all
of them. Half of a round's capacity gives the percentiles. A last round offers this service and the
best peer the same rate. The CPU time of a list is that of the whole machine less the generator's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from loadtest.capacity import Bound, capacity
from loadtest.generators import Generators, generators
from loadtest.results import Load, machine
from loadtest.scenarios import Catalogue, RequestOptions, Scenario, scenario
from loadtest.server import ServerError
from peers import Peer
from peers.cost import machine_cpu_s, run_counters, work_alone
from peers.options import LadderOptions
from peers.progress import Progress
from peers.servers import peer_server, this_service
from peers.summary import SERVICE, mean_of, ratio, row, summary

CANDIDATES = 50
START_RPS = 50.0  # of the first search of a server
TOLERANCE = 1e-4  # of logprob and entropy: torch adds up in another order
Start = Callable[[Peer, Path], contextlib.AbstractContextManager[str]]


@dataclass(frozen=True)
class Durations:
    """Seconds at one rate, of its warm-up, and of each batch size of the work alone."""

    turn_s: float = 8.0
    warm_up_s: float = 1.0
    alone_s: float = 2.0


class Comparison:
    """This service and `peers` under the same requests."""

    def __init__(
        self,
        peers: Sequence[Peer],
        options: LadderOptions,
        progress: Progress,
        *,
        bound: Bound | None = None,
        durations: Durations | None = None,
        start: Start = peer_server,
    ) -> None:
        self.peers, self.options, self.progress = peers, options, progress
        self.bound = bound or Bound(options.p99_ms)
        self.durations = durations or Durations()
        self._start = start
        self.scenario = scenario("ids", Catalogue.of(options.bundle), RequestOptions(CANDIDATES))

    def run(self) -> dict[str, Any]:
        """Make the rounds that are left and return the report. Raises ServerError."""
        servers: list[tuple[str, Peer | None]] = [(SERVICE, None)]
        servers += [(peer.name, peer) for peer in self.peers]
        rounds, count = self.progress.rounds, self.options.rounds
        left = [server for number in range(count) for server in servers
                if number >= len(rounds[server[0]])]  # fmt: skip
        with generators(1) as sending:
            expected = self.expected_responses()
            for name, peer in (bar := tqdm(left, unit="search", disable=None)):
                bar.set_postfix_str(name)
                rounds[name].append(self.search(sending, name, peer, expected))
                self.progress.save()
            rival = max((peer for peer in self.peers if peer.same_model), default=None,
                        key=lambda peer: mean_of(rounds[peer.name], "rate"))  # fmt: skip
            equal = None if rival is None else self.equal_load(sending, rival)
            alone = work_alone(self.options.bundle, self.scenario.bodies, self.durations.alone_s)
        return {
            "command": f"python -m loadtest peers --seconds {self.options.seconds:g} "
            f"--rounds {count}",
            "machine": machine(),
            "p99_ms": self.options.p99_ms,
            "candidates": CANDIDATES,
            "ours_over_best": None if rival is None else ratio(rounds[SERVICE], rounds[rival.name]),
            "equal_load": equal,
            "work_alone": alone,
            "rows": [row(name, peer, rounds[name]) for name, peer in servers],
        }

    def expected_responses(self) -> list[dict[str, Any]]:
        """Return this service's responses to the scenario's requests."""
        with this_service(self.options.bundle) as url:
            contents = (post(url, self.scenario.path, body) for body in self.scenario.bodies)
            return [json.loads(content) for content in contents]

    def server(self, peer: Peer | None) -> contextlib.AbstractContextManager[str]:
        """Start a peer's server; None stands for this service."""
        bundle = self.options.bundle
        return this_service(bundle) if peer is None else self._start(peer, bundle)

    def search(
        self,
        sending: Generators,
        name: str,
        peer: Peer | None,
        expected: Sequence[dict[str, Any]],
    ) -> dict[str, Any]:
        """Search a server's capacity, then load it with half of that; compare its responses."""
        before = self.progress.rounds[name]
        start = max(1.0, before[-1]["rate"] * 0.9) if before else START_RPS
        sent, same = for_peer(self.scenario, peer), None
        with self.server(peer) as url:
            if peer is not None and peer.same_model:
                contents = (post(url, sent.path, body) for body in sent.bodies)
                responses = [json.loads(peer.decode(content)) for content in contents]
                same = all(map(alike, expected, responses))
            result = capacity(sending, url, sent, self.bound, self.options.seconds, 1, start)
            (rate,) = result.rates
            half = self.load(sending, url, sent, rate / 2)
        return {"rate": rate, "void": result.void, "same": same, **half}

    def load(
        self, sending: Generators, url: str, sent: Scenario, rate: float, seed: int = 0
    ) -> dict[str, float]:
        """Offer a rate and return it with p50_ms, p99_ms and cpu_ms of a list.

        cpu_ms is of all processes but the generator. Raises ServerError when a request failed or
        was not ranked.
        """
        turn_s, warm_up_s = self.durations.turn_s, self.durations.warm_up_s
        load = Load(max(rate, 1.0), turn_s, warm_up_s, seed)
        before = machine_cpu_s()
        run = sending.offer(url, sent, load)
        seconds = turn_s + warm_up_s
        spent = machine_cpu_s() - before - run.busy * seconds
        if run.failed or run.unranked:
            raise ServerError(
                f"{url}: {run.failed} failed, {run.unranked} not ranked at {rate:.0f}/s"
            )
        return {
            "load": load.rate, "p50_ms": run.latency_ms(0.5), "p99_ms": run.latency_ms(0.99),
            "cpu_ms": 1e3 * spent / (load.rate * seconds),
        }  # fmt: skip

    def equal_load(self, sending: Generators, rival: Peer) -> dict[str, Any]:
        """Load this service and the best peer, in turns, with half of the peer's capacity."""
        rate = mean_of(self.progress.rounds[rival.name], "rate") / 2
        turns: dict[str, list[dict[str, float]]] = {SERVICE: [], rival.name: []}
        for turn in range(self.options.rounds):
            sides: list[tuple[str, Peer | None]] = [(SERVICE, None), (rival.name, rival)]
            for name, peer in sides if turn % 2 == 0 else reversed(sides):
                with self.server(peer) as url:
                    before = run_counters(url) if peer is None else {}
                    sent = for_peer(self.scenario, peer)
                    figures = self.load(sending, url, sent, rate, seed=turn)
                    if peer is None:
                        spent = {k: v - before[k] for k, v in run_counters(url).items()}
                        figures["run_cpu_ms"] = 1e3 * spent["run_s"] / spent["lists"]
                        figures["lists_a_run"] = spent["lists"] / spent["runs"]
                    turns[name].append(figures)
        report: dict[str, Any] = {"load_rps": round(rate, 1)}
        for name, each in turns.items():
            keys = [key for key in each[0] if key != "load"]
            report[name] = {key: summary([figures[key] for figures in each], 3) for key in keys}
        return report


def for_peer(sent: Scenario, peer: Peer | None) -> Scenario:
    """Return the same requests in the form that a peer takes; None stands for this service."""
    if peer is None:
        return sent
    bodies = [peer.encode(body) for body in sent.bodies]
    return dataclasses.replace(sent, path=peer.path, bodies=bodies)


def post(url: str, path: str, body: bytes) -> bytes:
    """Send one request and return the body of its response. Raises ServerError unless it is 200."""
    response = httpx.post(
        url + path, content=body, headers={"Content-Type": "application/json"}, timeout=30
    )
    if response.status_code != 200:
        raise ServerError(f"{url}{path}: status {response.status_code}, {response.text[:500]}")
    return response.content


def alike(expected: dict[str, Any], response: dict[str, Any]) -> bool:
    """Return true if two responses have the same slate and, within TOLERANCE, the same figures."""
    if len(expected["slate"]) != len(response["slate"]):
        return False
    for one, other in zip(expected["slate"], response["slate"], strict=True):
        if any(one[name] != other[name] for name in ("id", "position", "reasoning_steps")):
            return False
        figures = ("logprob", "entropy", "entropy_after")
        if any(abs(one[name] - other[name]) > TOLERANCE for name in figures):
            return False
    return bool(expected["reasoning"]["steps_used"] == response["reasoning"]["steps_used"])
