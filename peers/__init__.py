"""Other servers around the same bundle, compared with this service on the same work.

Each module that PEERS names starts one server, in an environment of its own:

    python -m peers.litserve_peer --bundle bundles/ranklens/1 --port 9000

A peer imports its framework and `peers.work`, which handles a request as every peer does: parse,
featurise, run, decode, respond. Servers that are programs of their own run under `peers.child`.
`peers.ladder` compares them all.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# onnxruntime sends telemetry unless this is set before its import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# The exported graph, which every user of these servers has, or the engine of this service, native
# decode loop included; `other` runs neither.
Inference = Literal["exported", "equal", "other"]
BACKENDS: dict[Inference, str] = {"exported": "onnx", "equal": "native", "other": "onnx"}

DEVELOPMENT = Path(__file__).resolve().parents[1] / ".venv"


def unchanged(content: bytes) -> bytes:
    """Return a body as it is."""
    return content


def to_v2(content: bytes) -> bytes:
    """Wrap a request as the only string of the V2 inference protocol (KServe's)."""
    tensor = {"name": "body", "shape": [1, 1], "datatype": "BYTES", "data": [content.decode()]}
    return json.dumps({"inputs": [tensor]}).encode()


def from_v2(content: bytes) -> bytes:
    """Unwrap the response from one of the V2 inference protocol."""
    text = json.loads(content)["outputs"][0]["data"][0]
    return str(text).encode()


def to_bodies(content: bytes) -> bytes:
    """Wrap a request as the only string of a named list, which BentoML puts into batches."""
    return json.dumps({"bodies": [content.decode()]}).encode()


def from_bodies(content: bytes) -> bytes:
    """Unwrap the response from a list of one."""
    return str(json.loads(content)[0]).encode()


@dataclass(frozen=True)
class Peer:
    """One server: its name, the module that starts it, and its routes.

    Attributes:
        requirements: File of pinned packages in this directory, for its environment.
        distribution: The pinned package whose version is the server's.
        settings: Settings of the server and the reasons for them, for the report.
        path, ready: Routes of a request and of readiness.
        encode, decode: Conversions of a request to the server's form, and of its response back.
        same_model: False if the server ranks with another model than the bundle's.
        work: Inference of a list inside the server.
        python: Interpreter to make the environment with.
        environment: An existing environment to run in, in place of one made from `requirements`.
    """

    name: str
    module: str
    requirements: str
    distribution: str
    settings: str
    path: str = "/rerank"
    ready: str = "/readyz"
    encode: Callable[[bytes], bytes] = unchanged
    decode: Callable[[bytes], bytes] = unchanged
    same_model: bool = True
    work: Inference = "exported"
    python: str = "python3"
    environment: Path | None = None


TRITON = Peer(
    name="Triton",
    module="triton_peer",
    requirements="triton_peer.txt",
    distribution="nvidia-pytriton",
    settings=(
        "Python backend, 2 instances, dynamic batches of 16 without a delay: a batch is what "
        "gathers while the instances are busy. HTTP alone, no metrics."
    ),
    path="/v2/models/rerank/infer",
    ready="/v2/health/ready",
    encode=to_v2,
    decode=from_v2,
    python="/usr/bin/python3",
)
PEERS: tuple[Peer, ...] = (
    Peer(
        name="FastAPI + torch",
        module="torch_fastapi",
        requirements="torch_fastapi.txt",
        distribution="torch",
        settings=(
            "One uvicorn worker (uvloop, httptools, no access log) and one torch thread per core, "
            "inference mode, one list in a run. The route is async, because threads of a worker "
            "take as much CPU time and delay each other. Log-probabilities and entropies differ in "
            "the last digits (some 1e-6)."
        ),
        work="other",
        environment=DEVELOPMENT,
    ),
    Peer(
        name="FastAPI + LambdaMART",
        module="lambdamart",
        requirements="lambdamart.txt",
        distribution="lightgbm",
        settings=(
            "One uvicorn worker (uvloop, httptools, no access log) and one LightGBM thread per "
            "core, one list in a call. The route is async, because a thread per request takes as "
            "much CPU time."
        ),
        same_model=False,
        work="other",
        environment=DEVELOPMENT,
    ),
    Peer(
        name="LitServe",
        module="litserve_peer",
        requirements="litserve_peer.txt",
        distribution="litserve",
        settings=(
            "max_batch_size 32 and batch_timeout 0, because LitServe waits for all of a longer "
            "timeout, even when every client waits too. One API server and workers_per_device 1, "
            "because a second worker and the queue's process compete for the cores by polling. "
            "Bodies go through the queue as bytes and are parsed in decode_request. fast_queue "
            "changes nothing: this version passes it on under a name that nothing reads."
        ),
    ),
    Peer(
        name="BentoML",
        module="bentoml_peer",
        requirements="bentoml_peer.txt",
        distribution="bentoml",
        settings=(
            "One worker per core, access log and metrics off. The batchable method runs in a "
            "thread, which takes less CPU time than a coroutine or one list in a run. "
            "max_batch_size 8, because batches of 32 wait beyond the bound. max_latency_ms 1000, "
            "because at 30 BentoML sheds with 503 the requests that it expects to be late. Bodies "
            "are strings of a named list, because BentoML makes the JSON schema of an unnamed one "
            "anew at each request."
        ),
        encode=to_bodies,
        decode=from_bodies,
    ),
    Peer(
        name="Ray Serve",
        module="ray_peer",
        requirements="ray_peer.txt",
        distribution="ray",
        settings=(
            "2 replicas behind HAProxy, which is far faster than Ray's proxy in Python, and "
            "throughput mode. @serve.batch of 16 without a wait, which costs more than it gathers. "
            "No request log."
        ),
    ),
    Peer(
        name="MLServer",
        module="mlserver_peer",
        requirements="mlserver_peer.txt",
        distribution="mlserver",
        settings=(
            "1 parallel worker, because MLServer's own process fills the other core. Adaptive "
            "batches of 8 within 1 ms: it always waits for a full batch, so larger ones wait "
            "longer. No metrics, debug or gzip."
        ),
        path="/v2/models/rerank/infer",
        ready="/v2/health/ready",
        encode=to_v2,
        decode=from_v2,
    ),
    TRITON,
    dataclasses.replace(
        TRITON,
        name="Triton, equal work",
        settings="As Triton, with the native decode loop of this service in each instance.",
        work="equal",
    ),
)
