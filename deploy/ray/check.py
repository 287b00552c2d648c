"""Check a rolling update and a killed replica on a Ray cluster of this machine.

Two replicas get 10,000 requests while the bundle is updated and one of them is killed:

    python3 -m venv build/ray && build/ray/bin/pip install pip==26.1
    build/ray/bin/pip install --group service --group load -r deploy/ray/requirements.txt
    build/ray/bin/python deploy/ray/check.py

Exit status 1 means that a request failed or got another slate than a single server gives, or that
the cluster did not return to two replicas.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from deploy.ray.app import ENVIRONMENT, build  # noqa: E402
from loadtest.connections import Pool  # noqa: E402
from loadtest.reloads import renamed  # noqa: E402
from loadtest.scenarios import Catalogue, RequestOptions, scenario  # noqa: E402
from loadtest.server import serving  # noqa: E402

BUNDLE = ROOT / "bundles" / "ranklens" / "1"
REQUESTS, CLIENTS, UPDATE_AT, KILL_AT = 10_000, 8, 2_500, 6_000
SETTINGS = {"replicas": 2, "adaptive_budget": False, "timeout_ms": 60_000}
HAPROXY_FILES = {
    "CONFIG_FILE_LOC": "haproxy.cfg",
    "SOCKET_PATH": "admin.sock",
    "SERVER_STATE_BASE": "",
    "SERVER_STATE_FILE": "server-state",
}
Response = tuple[int, bytes]  # status, and content or the error's text for status 0
Event = Callable[[], object]


def main() -> int:
    """Run the check, print the outcomes of the requests and return the exit status."""
    bodies = list(scenario("ids", Catalogue.of(BUNDLE), RequestOptions(50)).bodies)
    expected = expected_slates(bodies)
    with tempfile.TemporaryDirectory() as directory:
        second = Path(directory) / "ranklens" / "2"
        shutil.copytree(BUNDLE, second)
        renamed(second, "2")
        with cluster(directory) as url:
            deploy(BUNDLE)
            events: dict[int, Event] = {UPDATE_AT: lambda: deploy(second), KILL_AT: kill_one}
            responses = asyncio.run(send_all(url, bodies, events))
            replicas = replicas_after(60.0)
    report = summary(responses, expected, replicas)
    print(json.dumps(report, indent=1))
    complete = report["same_slates"] == REQUESTS and len(report["versions"]) == 2
    return 0 if complete and replicas == 2 else 1


def expected_slates(bodies: Sequence[bytes]) -> list[list[tuple[str, int]]]:
    """Return the slates of a single server."""
    with serving(BUNDLE, adaptive_budget="false", timeout_ms=60_000) as single:
        return [slate_of(asyncio.run(send(single.url, body))) for body in bodies]


@contextlib.contextmanager
def cluster(directory: str) -> Iterator[str]:
    """Run a Ray cluster of this process's own and yield the URL of its proxy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(ENVIRONMENT | {"RAY_AUTH_MODE": "disabled"})
    for name, file in HAPROXY_FILES.items():
        os.environ[f"RAY_SERVE_HAPROXY_{name}"] = f"{directory}/haproxy/{file}"
    import ray
    from ray import serve

    os.environ["PYTHONPATH"] = str(ROOT)
    ray.init(_node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=8, _temp_dir=directory)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def deploy(bundle: Path) -> None:
    """Deploy a bundle; a second deployment is a rolling update."""
    from ray import serve

    serve.run(build({**SETTINGS, "bundle": str(bundle)}), name="rerank")


async def send_all(
    url: str, bodies: Sequence[bytes], events: Mapping[int, Event]
) -> list[Response]:
    """Send REQUESTS requests, cycling through the bodies, and return the response of each.

    Args:
        events: Functions to call in a thread when a request of that number is sent.
    """
    pool = Pool(url)
    responses: list[Response] = [(0, b"")] * REQUESTS
    numbers = iter(range(REQUESTS))
    started = []

    async def client() -> None:
        for number in numbers:
            if number in events:
                started.append(asyncio.create_task(asyncio.to_thread(events[number])))
            try:
                responses[number] = await pool.post("/rerank", bodies[number % len(bodies)])
            except OSError as error:
                responses[number] = (0, str(error).encode())

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    await asyncio.gather(*started)
    await pool.close()
    return responses


async def send(url: str, body: bytes) -> bytes:
    """Send one request and return its response. Raises RuntimeError unless the status is 200."""
    pool = Pool(url)
    status, content = await pool.post("/rerank", body)
    await pool.close()
    if status != 200:
        raise RuntimeError(f"{url}/rerank: status {status}, {content!r}")
    return content


def slate_of(content: bytes) -> list[tuple[str, int]]:
    """Return ids and reasoning steps of a response."""
    return [(entry["id"], entry["reasoning_steps"]) for entry in json.loads(content)["slate"]]


def summary(
    responses: Sequence[Response], expected: Sequence[list[tuple[str, int]]], replicas: int
) -> dict[str, Any]:
    """Count statuses, slates that a single server gives, and versions."""
    good = [(i, content) for i, (status, content) in enumerate(responses) if status == 200]
    versions = Counter(json.loads(content)["model"]["version"] for _, content in good)
    failures = [content.decode()[:200] for status, content in responses if status != 200]
    return {
        "requests": REQUESTS,
        "statuses": dict(Counter(status for status, _ in responses)),
        "same_slates": sum(slate_of(content) == expected[i % len(expected)] for i, content in good),
        "versions": dict(versions),
        "replicas_after": replicas,
        "failures": failures[:3],
    }


def replica_ids() -> list[int]:
    """Return the process ids of the live replicas, by the title that Ray gives them."""
    ids = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(b"ray::ServeReplica:rerank:rerank"):
                ids.append(int(process.name))
    return ids


def kill_one() -> None:
    """Kill a replica with SIGKILL, as a machine that dies would."""
    os.kill(replica_ids()[0], signal.SIGKILL)


def replicas_after(patience_s: float) -> int:
    """Count the replicas once there are two, or after `patience_s` seconds."""
    deadline = time.monotonic() + patience_s
    while len(replica_ids()) != 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    return len(replica_ids())


if __name__ == "__main__":
    sys.exit(main())
