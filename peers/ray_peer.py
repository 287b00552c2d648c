"""Ray Serve with its request batching, behind HAProxy, on a cluster of this process's own."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from peers.work import Work, arguments

# Ray reads these as it is imported, and hands them on to every process that it starts.
ENVIRONMENT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",  # when asked to stop
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # else it leaves a token in the home directory
}
HAPROXY_FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}


def application(bundle: Path, replicas: int) -> Any:
    """The deployment: a process for each replica, with batches of its own."""
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    class Rerank:
        def __init__(self) -> None:
            self.work = Work(bundle)

        @serve.batch(max_batch_size=16, batch_wait_timeout_s=0)
        async def answers(self, contents: list[bytes]) -> list[bytes]:
            return self.work.answer(contents)

        async def __call__(self, request: Request) -> Response:
            if request.method == "GET":  # whether it is ready
                return Response()
            answer = await self.answers(await request.body())
            return Response(answer, media_type="application/json")

    return serve.deployment(
        Rerank,
        num_replicas=replicas,
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},  # else proxy and replicas want more cores than two
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=1,
        logging_config={"enable_access_log": False},
    ).bind()


def main() -> None:
    """Run the server until SIGTERM."""
    asked = arguments(__doc__)
    stopped = threading.Event()
    with tempfile.TemporaryDirectory() as directory:
        haproxy = {name: f"{directory}/haproxy/{file}" for name, file in HAPROXY_FILES.items()}
        os.environ.update(ENVIRONMENT | haproxy)
        import ray
        from ray import serve

        ray.init(_node_ip_address="127.0.0.1", include_dashboard=False, _temp_dir=directory)
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": asked.port})
            serve.run(application(asked.bundle.resolve(), asked.workers))
            signal.signal(signal.SIGTERM, lambda *_: stopped.set())
            stopped.wait()
        finally:
            serve.shutdown()  # first: HAProxy outlives the cluster otherwise
            ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
