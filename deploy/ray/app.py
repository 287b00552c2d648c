"""The application on a Ray cluster: `serve deploy deploy/ray/config.yaml`.

Each replica is a process with its own model, queue and budget. Ray starts, watches and replaces
replicas, and HAProxy spreads the requests over them. A changed `bundle` argument is a rolling
update: Ray replaces replica by replica, and each is ready before the next one stops.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve

from service.settings import Settings, drop_foreign_variables, with_profile

# Ray reads these variables when it starts, so they belong into the environment of `ray start`.
# A request that a dead replica did not answer goes to another one: ranking twice does no harm.
ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",  # otherwise Ray reports its use
    "ORT_DISABLE_TELEMETRY": "1",
}


def build(arguments: dict[str, Any]) -> Any:
    """Return the Ray application.

    A bundle that does not verify fails the deployment, and the replicas of the old one continue to
    serve.

    Args:
        arguments: `replicas` and `most_replicas`, between which Ray scales by requests in flight.
            Every other name is a setting of docs/service.md in lower case without RERANK_.

    Raises ValueError for a name that is no setting.
    """
    settings = {name: value for name, value in arguments.items() if value != ""}  # as in variables
    least, largest = (int(settings.pop(name, 2)) for name in ("replicas", "most_replicas"))
    unknown = sorted(set(settings) - set(Settings.model_fields))
    if unknown:
        raise ValueError(
            f"args: {', '.join(unknown)}: no setting of the service; "
            "docs/service.md lists the settings"
        )
    if "bundle" in settings:
        settings["bundle"] = Path(settings["bundle"]).resolve()  # replicas run in another directory

    def service() -> FastAPI:
        drop_foreign_variables()
        from service.server import application

        return application(with_profile(Settings(**settings)))[0]

    deployment = serve.deployment(
        serve.ingress(service)(),
        name="rerank",
        autoscaling_config={
            "min_replicas": least,
            "max_replicas": max(least, largest),
            "target_ongoing_requests": 6,  # above it the service reasons less
            "downscale_delay_s": 300,
        },
        max_ongoing_requests=512,  # the service has a queue of its own, and sheds by itself
        ray_actor_options={"num_cpus": 1},
        health_check_period_s=5,
        graceful_shutdown_timeout_s=15,
    )
    return deployment.bind()
