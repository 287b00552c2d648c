"""Compare servers on one machine: search each one's capacity, then load the best of them alike.

Searches are made in rounds, one of each server a round, so that a change of the machine affects all
of them. Half of a round's capacity gives the percentiles. Last turns offer the same rate to this
service, the best peer of each kind of work and the service of another commit. The CPU time of a
list is that of the whole machine less the generator's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from loadtest.capacity import Bound, capacity
from loadtest.generators import Generators, generators
from loadtest.results import machine
from loadtest.scenarios import (
    Catalogue,
    NumberedBodies,
    RequestOptions,
    Scenario,
    scenario,
)
from loadtest.server import ServerError
from peers import Peer
from peers.cost import backend_of, work_alone
from peers.options import LadderOptions
from peers.progress import Progress
from peers.servers import peer_server, this_service
from peers.summary import BASELINE, SERVICE, mean_of, ratio, row
from peers.turns import Durations, Side, load, take_turns

CANDIDATES = 50
SCENARIOS = ("history", "ids")  # the first is the main one
START_RPS = 50.0  # of the first search of a server
TOLERANCE = 1e-4  # of logprob and entropy: torch adds up in another order
Start = Callable[[Peer, Path], contextlib.AbstractContextManager[str]]


class Comparison:
    """This service and `peers` under the same requests."""

    def __init__(
        self,
        peers: Sequence[Peer],
        options: LadderOptions,
        progress: Progress,
        *,
        scenarios: Sequence[str] = SCENARIOS,
        bound: Bound | None = None,
        durations: Durations | None = None,
        start: Start = peer_server,
    ) -> None:
        self.peers, self.options, self.progress = peers, options, progress
        self.bound = bound or Bound(options.p99_ms)
        self.durations = durations or Durations()
        self._start = start
        catalogue, requests = Catalogue.of(options.bundle), RequestOptions(CANDIDATES)
        self.scenarios = {name: scenario(name, catalogue, requests) for name in scenarios}
        self.main = scenarios[0]
        # Bodies of a scenario differ at each reading, and responses compare for equal ones.
        self.checked = {name: list(sent.bodies) for name, sent in self.scenarios.items()}

    def run(self) -> dict[str, Any]:
        """Make the rounds that are left and return the report. Raises ServerError."""
        servers: list[tuple[str, Peer | None]] = [(SERVICE, None)]
        servers += [(peer.name, peer) for peer in self.peers]
        rounds, count = self.progress.rounds, self.options.rounds
        left = [server for number in range(count) for server in servers
                if number >= len(rounds[server[0]])]  # fmt: skip
        with generators(1) as sending:
            expected, backend = self.expected_responses()
            for name, peer in (bar := tqdm(left, unit="search", disable=None)):
                bar.set_postfix_str(name)
                rounds[name].append(self.search(sending, name, peer, expected))
                self.progress.save()
            equal_load = self.equal_load(sending)
            bodies = self.checked[self.main]
            alone = work_alone(self.options.bundle, bodies, self.durations.alone_s, backend)
        return {
            "command": f"python -m loadtest peers --seconds {self.options.seconds:g} "
            f"--rounds {count}{' --baseline CHECKOUT' if self.options.baseline else ''}",
            "machine": machine(),
            "p99_ms": self.options.p99_ms,
            "candidates": CANDIDATES,
            "backend": backend,
            "ours_over": {name: self.ours_over(name) for name in self.scenarios},
            "equal_load": equal_load,
            "work_alone": alone,
            "rows": [
                row(name, peer, scenario, [each[scenario] for each in rounds[name]], backend)
                for scenario in self.scenarios
                for name, peer in servers
            ],
        }

    def expected_responses(self) -> tuple[dict[str, list[dict[str, Any]]], str]:
        """Return this service's responses to the checked requests, and its backend."""
        with this_service(self.options.bundle) as url:
            responses = {
                name: [json.loads(post(url, sent.path, body)) for body in self.checked[name]]
                for name, sent in self.scenarios.items()
            }
            return responses, backend_of(url)

    def server(self, peer: Peer | None) -> contextlib.AbstractContextManager[str]:
        """Start a peer's server; None stands for this service."""
        bundle = self.options.bundle
        return this_service(bundle) if peer is None else self._start(peer, bundle)

    def search(
        self,
        sending: Generators,
        name: str,
        peer: Peer | None,
        expected: dict[str, list[dict[str, Any]]],
    ) -> dict[str, Any]:
        """Search a server's capacity in each scenario, then load it with half of that.

        The responses of a peer are compared first.
        """
        before = self.progress.rounds[name]
        rate, result = START_RPS, {}
        with self.server(peer) as url:
            for each, requests in self.scenarios.items():
                sent, same = for_peer(requests, peer), None
                if peer is not None and peer.same_model:
                    contents = [peer.encode(body) for body in self.checked[each]]
                    responses = (post(url, sent.path, content) for content in contents)
                    answers = [json.loads(peer.decode(response)) for response in responses]
                    same = all(map(alike, expected[each], answers))
                start = max(1.0, 0.9 * (before[-1][each]["rate"] if before else rate))
                searched = capacity(
                    sending, url, sent, self.bound, self.options.seconds, 1, start
                )  # fmt: skip
                (rate,) = searched.rates
                half = load(sending, url, sent, rate / 2, self.durations)
                result[each] = {"rate": rate, "void": searched.void, "same": same, **half}
        return result

    def rival(self, work: str, name: str) -> Peer | None:
        """Return the peer with the highest mean capacity of one kind of work, or None."""
        rounds = self.progress.rounds
        return max(
            (peer for peer in self.peers if peer.same_model and peer.work == work),
            key=lambda peer: mean_of([each[name] for each in rounds[peer.name]], "rate"),
            default=None,
        )

    def ours_over(self, name: str) -> dict[str, Any]:
        """Divide this service's capacity by that of the best peer of each kind of work."""
        rounds = self.progress.rounds
        result = {}
        for work in ("exported", "equal"):
            if (peer := self.rival(work, name)) is not None:
                pair = ([each[name] for each in rounds[server]] for server in (SERVICE, peer.name))
                result[work] = {"peer": peer.name, "ratio": ratio(*pair)}
        return result

    def equal_load(self, sending: Generators) -> dict[str, Any] | None:
        """Load this service, the best peers and the baseline with half of a peer's capacity."""
        rivals = [peer for work in ("exported", "equal") if (peer := self.rival(work, self.main))]
        if not rivals:
            return None
        sides = {SERVICE: Side(lambda: self.server(None), self.scenarios, counted=True)}
        for peer in rivals:
            requests = {name: for_peer(sent, peer) for name, sent in self.scenarios.items()}
            sides[peer.name] = Side(functools.partial(self.server, peer), requests, counted=False)
        if self.options.baseline is not None:
            start = functools.partial(this_service, self.options.bundle, self.options.baseline)
            sides[BASELINE] = Side(start, self.scenarios, counted=True)
        rounds = self.progress.rounds[rivals[0].name]
        rates = {
            name: mean_of([each[name] for each in rounds], "rate") / 2 for name in self.scenarios
        }
        return take_turns(sending, sides, rates, self.options.rounds, self.durations)


def for_peer(sent: Scenario, peer: Peer | None) -> Scenario:
    """Return the same requests in the form that a peer takes; None stands for this service."""
    if peer is None:
        return sent
    bodies: Sequence[bytes]
    if isinstance(sent.bodies, NumberedBodies):
        bodies = sent.bodies.encoded(peer.encode)
    else:
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
