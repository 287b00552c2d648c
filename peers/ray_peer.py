"""Ray Serve with its request batching, behind HAProxy, on a cluster of this process's own."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

from peers.work import Work, parse_options

# Ray reads these when it is imported, and hands them on to every process that it starts.
ENVIRONMENT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",  # after SIGTERM
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # otherwise Ray leaves a token in the home directory
}
HAPROXY_FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}


def application(bundle: Path, replicas: int) -> Any:
    """Return the deployment: one process for each replica, with batches of its own."""
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    class Rerank:
        def __init__(self) -> None:
            self.work = Work(bundle)

        @serve.batch(max_batch_size=16, batch_wait_timeout_s=0)
        async def handle(self, contents: list[bytes]) -> list[bytes]:
            return self.work.handle(contents)

        async def __call__(self, request: Request) -> Response:
            if request.method == "GET":  # the readiness check
                return Response()
            response = await self.handle(await request.body())
            return Response(response, media_type="application/json")

    return serve.deployment(
        Rerank,
        num_replicas=replicas,
        max_ongoing_requests=1000,
        # 0, because proxy and replicas together would claim more than two cores.
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=1,
        logging_config={"enable_access_log": False},
    ).bind()


def main() -> None:
    """Run the server until SIGTERM."""
    options = parse_options(__doc__)
    stopped = threading.Event()
    with tempfile.TemporaryDirectory() as directory:
        haproxy = {name: f"{directory}/haproxy/{file}" for name, file in HAPROXY_FILES.items()}
        os.environ.update(ENVIRONMENT | haproxy)
        import ray
        from ray import serve

        ray.init(_node_ip_address="127.0.0.1", include_dashboard=False, _temp_dir=directory)
        # After init, whose own handler aborts, and before Serve responds.
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": options.port})
            serve.run(application(options.bundle.resolve(), options.workers))
            stopped.wait()
        finally:
            serve.shutdown()  # before the cluster ends: HAProxy would outlive it
            ray.shutdown()


if __name__ == "__main__":
    main()
