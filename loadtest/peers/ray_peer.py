"""Ray Serve with its request batching, behind its HTTP proxy, on a cluster of this process's own."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from loadtest.peers.work import Work, arguments

# Read by Ray as it is imported, and handed on to every process that it starts.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    "RAY_AUTH_MODE": "disabled",
}


def application(bundle: Path, replicas: int) -> Any:
    """The deployment: one process per replica, each with batches of its own."""
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    class Rerank:
        def __init__(self) -> None:
            self.work = Work(bundle)

        @serve.batch(max_batch_size=int(os.environ.get("PB_BATCH", "16")), batch_wait_timeout_s=float(os.environ.get("PB_TIME", "0")))
        async def answers(self, contents: list[bytes]) -> list[bytes]:
            return self.work.answer(contents)

        async def __call__(self, request: Request) -> Response:
            if request.method == "GET":
                return Response()
            return Response(
                await self.answers(await request.body()), media_type="application/json"
            )

    return serve.deployment(
        Rerank,
        num_replicas=replicas,
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=1,
        logging_config={"enable_access_log": False},
    ).bind()


def main() -> None:
    """Run the server until SIGTERM."""
    asked = arguments(__doc__)
    for k, v in ENVIRONMENT.items(): os.environ.setdefault(k, v)
    import ray
    from ray import serve

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    with tempfile.TemporaryDirectory() as directory:
        ray.init(
            _node_ip_address="127.0.0.1", include_dashboard=False, _temp_dir=directory, num_cpus=2
        )
        serve.start(http_options={"host": "127.0.0.1", "port": asked.port}, logging_config={"enable_access_log": False})
        serve.run(application(asked.bundle.resolve(), asked.workers))
        signal.sigwait([signal.SIGTERM])
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
