"""The same application on a Ray cluster: `serve deploy deploy/ray/config.yaml`.

Each replica is a process with the model, the queue and the budget of its own; Ray starts, watches
and replaces them, HAProxy before them spreads the calls. A new bundle is a new `bundle` argument:
Ray replaces replica by replica, each ready before the next one goes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve

from service.server import application
from service.settings import Settings, with_profile

# Ranking twice does no harm: what a replica that died did not answer goes to another one. Read by
# Ray when it starts, so these belong into the environment of `ray start`.
ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
}


def build(arguments: dict[str, Any]) -> Any:
    """The Ray application; its arguments are settings of the service, and how many replicas.

    replicas, most_replicas: between which Ray scales by calls in flight. Everything else is a
    setting as docs/service.md has them, in lower case without RERANK_. Raises ValueError for a
    setting that there is not; a bundle that does not verify fails the deployment, and the replicas
    of the old one serve on.
    """
    settings = dict(arguments)
    least, most = (int(settings.pop(name, 2)) for name in ("replicas", "most_replicas"))
    unknown = sorted(set(settings) - set(Settings.model_fields))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no setting of the service")
    if "bundle" in settings:
        settings["bundle"] = Path(settings["bundle"]).resolve()  # replicas run elsewhere

    def service() -> FastAPI:
        return application(with_profile(Settings(**settings)))[0]

    deployment = serve.deployment(
        serve.ingress(service)(),
        name="rerank",
        autoscaling_config={
            "min_replicas": least,
            "max_replicas": max(least, most),
            "target_ongoing_requests": 6,  # above it the service reasons less
            "downscale_delay_s": 300,
        },
        max_ongoing_requests=512,  # the service has a queue of its own, and sheds by itself
        ray_actor_options={"num_cpus": 1},
        health_check_period_s=5,
        graceful_shutdown_timeout_s=15,
    )
    return deployment.bind()
