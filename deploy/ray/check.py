"""Two replicas on a cluster of this machine: what becomes of 10,000 requests while the bundle is
updated and a replica is killed.

    python3 -m venv build/ray && build/ray/bin/pip install pip==26.1
    build/ray/bin/pip install --group service --group load -r deploy/ray/requirements.txt
    build/ray/bin/python deploy/ray/check.py

Exit status 1 where one of them fails, gets another slate than a single server gives, or the cluster
does not come back to two replicas.
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


async def asked(url: str, bodies: list[bytes], events: dict[int, Any]) -> list[tuple[int, bytes]]:
    """Status and content of every request, in the bodies' order again and again.

    events: what to call, in a thread, when so many requests have been sent.
    """
    pool = Pool(url)
    found: list[tuple[int, bytes]] = [(0, b"")] * REQUESTS
    numbers = iter(range(REQUESTS))
    started = []

    async def client() -> None:
        for number in numbers:
            if number in events:
                started.append(asyncio.create_task(asyncio.to_thread(events[number])))
            try:
                body = bodies[number % len(bodies)]
                found[number] = await pool.post("/rerank", body)
            except OSError as error:
                found[number] = (0, str(error).encode())

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    await asyncio.gather(*started)
    await pool.close()
    return found


def slate(content: bytes) -> list[tuple[str, int]]:
    """Ids and steps of an answer."""
    return [(e["id"], e["reasoning_steps"]) for e in json.loads(content)["slate"]]


def main() -> int:
    """Run it and print what became of the requests."""
    what = scenario("ids", Catalogue.of(BUNDLE), RequestOptions(50))
    bodies = list(what.bodies)
    with serving(BUNDLE, adaptive_budget="false", timeout_ms=60_000) as single:
        expected = [slate(asyncio.run(once(single.url, body))) for body in bodies]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(ENVIRONMENT | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"})
    with tempfile.TemporaryDirectory() as directory:
        second = Path(directory) / "ranklens" / "2"
        shutil.copytree(BUNDLE, second)
        renamed(second, "2")
        for name in ("CONFIG_FILE_LOC", "SOCKET_PATH", "SERVER_STATE_BASE", "SERVER_STATE_FILE"):
            file = {"CONFIG_FILE_LOC": "haproxy.cfg", "SOCKET_PATH": "admin.sock",
                    "SERVER_STATE_BASE": "", "SERVER_STATE_FILE": "server-state"}[name]  # fmt: skip
            os.environ[f"RAY_SERVE_HAPROXY_{name}"] = f"{directory}/haproxy/{file}"
        import ray
        from ray import serve

        os.environ["PYTHONPATH"] = str(ROOT)
        ray.init(_node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=8,
                 _temp_dir=directory)  # fmt: skip
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            settings = {"replicas": 2, "adaptive_budget": False, "timeout_ms": 60_000}
            serve.run(build({**settings, "bundle": str(BUNDLE)}), name="rerank")
            events = {
                UPDATE_AT: lambda: serve.run(
                    build({**settings, "bundle": str(second)}), name="rerank"
                ),
                KILL_AT: kill_one,
            }
            found = asyncio.run(asked(f"http://127.0.0.1:{port}", bodies, events))
            back = replicas_after(60.0)
        finally:
            serve.shutdown()
            ray.shutdown()
    statuses = Counter(status for status, _ in found)
    good = [(i, content) for i, (status, content) in enumerate(found) if status == 200]
    same = sum(slate(content) == expected[i % len(bodies)] for i, content in good)
    versions = Counter(json.loads(content)["model"]["version"] for _, content in good)
    report = {
        "requests": REQUESTS, "statuses": dict(statuses), "same_slates": same,
        "versions": dict(versions), "replicas_after": back,
        "failures": [content.decode()[:200] for status, content in found if status != 200][:3],
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    whole = same == REQUESTS and len(versions) == 2 and back == 2
    return 0 if whole else 1


async def once(url: str, body: bytes) -> bytes:
    """The answer to one request. Raises RuntimeError for another status than 200."""
    pool = Pool(url)
    status, content = await pool.post("/rerank", body)
    await pool.close()
    if status != 200:
        raise RuntimeError(f"{status}: {content!r}")
    return content


def replicas() -> list[int]:
    """The processes of the replicas that live, by the title that Ray gives them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(b"ray::ServeReplica:rerank:rerank"):
                found.append(int(process.name))
    return found


def kill_one() -> None:
    """kill -9, as a machine that dies would."""
    os.kill(replicas()[0], signal.SIGKILL)


def replicas_after(patience_s: float) -> int:
    """How many replicas live, once there are two again or patience is over."""
    end = time.monotonic() + patience_s
    while len(replicas()) != 2 and time.monotonic() < end:
        time.sleep(0.5)
    return len(replicas())


if __name__ == "__main__":
    sys.exit(main())
