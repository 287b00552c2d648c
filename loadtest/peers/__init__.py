"""Other servers around the same model: what a team would use instead, measured on the same work.

Each module here named `*_peer` starts one server, in an environment of its own:

    python -m loadtest.peers.litserve_peer --bundle bundles/ranklens/1 --port 9000

Who may import what: a peer imports its framework, and `loadtest.peers.work`, which does what every
one of them does with a request: parse, featurise, run, decode, respond. Servers that are programs
of their own run under `loadtest.peers.child`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def same(content: bytes) -> bytes:
    """A body, or an answer, as it is."""
    return content


def v2_body(content: bytes) -> bytes:
    """The body as the only string of a request in the V2 inference protocol (KServe's)."""
    given = {"name": "body", "shape": [1, 1], "datatype": "BYTES", "data": [content.decode()]}
    return json.dumps({"inputs": [given]}).encode()


def v2_answer(content: bytes) -> bytes:
    """The answer inside a response of the V2 inference protocol."""
    text = json.loads(content)["outputs"][0]["data"][0]
    return str(text).encode()


@dataclass(frozen=True)
class Peer:
    """One server: how its makers call it, the module that starts it, and how it is asked.

    requirements: the file of pinned packages, beside this one, of its environment.
    """

    name: str
    module: str
    requirements: str
    settings: str
    path: str = "/rerank"
    ready: str = "/readyz"
    body: Callable[[bytes], bytes] = same
    answer: Callable[[bytes], bytes] = same
    same_model: bool = True
    python: str = "python3"
    environment: Path | None = None  # where it runs in the environment of development


PEERS: tuple[Peer, ...] = (
    Peer(
        "Ray Serve",
        "ray_peer",
        "ray_peer.txt",
        "2 replicas behind HAProxy, throughput-optimised, far faster than its proxy in Python; "
        "@serve.batch of 16 without a wait, which costs more than it gathers; no request log",
    ),
    Peer(
        "MLServer",
        "mlserver_peer",
        "mlserver_peer.txt",
        "1 parallel worker (its own process has the other core to itself), adaptive batches of 8 "
        "within 1 ms: it always waits for a full batch, so larger ones wait longer; no metrics, "
        "debug or gzip",
        path="/v2/models/rerank/infer",
        ready="/v2/health/ready",
        body=v2_body,
        answer=v2_answer,
    ),
    Peer(
        "Triton",
        "triton_peer",
        "triton_peer.txt",
        "python backend, 2 instances, dynamic batches of 16 without a delay: what gathers while "
        "they are busy; HTTP alone, no metrics",
        path="/v2/models/rerank/infer",
        ready="/v2/health/ready",
        body=v2_body,
        answer=v2_answer,
        python="/usr/bin/python3",
    ),
)
