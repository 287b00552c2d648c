"""Other servers around the same model: what a team would use instead, measured on the same work.

Each module that PEERS names starts one server, in an environment of its own:

    python -m peers.litserve_peer --bundle bundles/ranklens/1 --port 9000

Who may import what: a peer imports its framework, and `peers.work`, which does what every
one of them does with a request: parse, featurise, run, decode, respond. Servers that are programs
of their own run under `peers.child`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DEVELOPMENT = Path(__file__).resolve().parents[1] / ".venv"


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


def bodies_body(content: bytes) -> bytes:
    """The body as the only string of a list by name, which is what BentoML puts into batches."""
    return json.dumps({"bodies": [content.decode()]}).encode()


def bodies_answer(content: bytes) -> bytes:
    """The answer inside the list of such a response."""
    return str(json.loads(content)[0]).encode()


@dataclass(frozen=True)
class Peer:
    """One server: how its makers call it, the module that starts it, and how it is asked.

    requirements: the file of pinned packages, beside this one, of its environment; distribution:
    the one of them whose version is the server's.
    """

    name: str
    module: str
    requirements: str
    distribution: str
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
        name="FastAPI + torch",
        module="torch_fastapi",
        requirements="torch_fastapi.txt",
        distribution="torch",
        settings=(
            "One uvicorn worker (uvloop, httptools, no access log) and one torch thread per core, "
            "inference mode, one list in a run, an async route: threads of a worker cost as much "
            "CPU time and delay each other. Log-probabilities and entropies differ in the last "
            "digits (some 1e-6)."
        ),
        environment=DEVELOPMENT,
    ),
    Peer(
        name="FastAPI + LambdaMART",
        module="lambdamart",
        requirements="lambdamart.txt",
        distribution="lightgbm",
        settings=(
            "One uvicorn worker (uvloop, httptools, no access log) and one LightGBM thread per "
            "core, one list in a call, an async route: a thread per request costs as much CPU time."
        ),
        same_model=False,
        environment=DEVELOPMENT,
    ),
    Peer(
        name="LitServe",
        module="litserve_peer",
        requirements="litserve_peer.txt",
        distribution="litserve",
        settings=(
            "max_batch_size 32 and batch_timeout 0 (all of a longer one is waited for, even when "
            "every client waits too), one API server and workers_per_device 1: a second worker "
            "and the process of the queue poll each other off the cores. Bodies go "
            "through the queue as bytes and are parsed in decode_request. fast_queue changes "
            "nothing in this version, which passes it on under a name that nobody reads."
        ),
    ),
    Peer(
        name="BentoML",
        module="bentoml_peer",
        requirements="bentoml_peer.txt",
        distribution="bentoml",
        settings=(
            "A worker per core, access log and metrics off; a batchable method in a thread, which "
            "costs less CPU time than a coroutine or one list in a run; max_batch_size 8, because "
            "batches of 32 are waited for beyond the bound; max_latency_ms 1000, because at 30 it "
            "answers 503 what it expects to be late. Bodies are strings of a named list: for an "
            "unnamed one a JSON schema is made anew at each request."
        ),
        body=bodies_body,
        answer=bodies_answer,
    ),
    Peer(
        name="Ray Serve",
        module="ray_peer",
        requirements="ray_peer.txt",
        distribution="ray",
        settings="2 replicas behind HAProxy, far faster than its proxy in Python, throughput mode; "
        "@serve.batch of 16 without a wait, which costs more than it gathers; no request log",
    ),
    Peer(
        name="MLServer",
        module="mlserver_peer",
        requirements="mlserver_peer.txt",
        distribution="mlserver",
        settings="1 parallel worker (its own process has the other core), adaptive batches of 8 "
        "within 1 ms: it always waits for a full batch, so larger ones wait longer; no metrics, "
        "debug or gzip",
        path="/v2/models/rerank/infer",
        ready="/v2/health/ready",
        body=v2_body,
        answer=v2_answer,
    ),
    Peer(
        name="Triton",
        module="triton_peer",
        requirements="triton_peer.txt",
        distribution="nvidia-pytriton",
        settings="python backend, 2 instances, dynamic batches of 16 without a delay: what "
        "gathers while they are busy; HTTP alone, no metrics",
        path="/v2/models/rerank/infer",
        ready="/v2/health/ready",
        body=v2_body,
        answer=v2_answer,
        python="/usr/bin/python3",
    ),
)
