"""Load a bundle into a deployment: a session, its batcher and its forecast."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from service.batching.batcher import Batcher
from service.batching.budget import Forecast
from service.engine.collate import ModelError
from service.engine.contract import OLD_CONTRACT, BundleError, Manifest
from service.engine.digests import Digests
from service.engine.session import Session
from service.metrics import Metrics
from service.models.store import ServingConfig
from service.models.versions import scan_store
from service.settings import Settings

logger = logging.getLogger("service")

WARM_UP_LIST = 50  # candidates of the lists of warm-up


@dataclass
class Deployment:
    """One loaded bundle that can answer; `answered` and `failed` count lists since `since`."""

    session: Session
    batcher: Batcher
    forecast: Forecast
    since: float = field(default_factory=time.monotonic)
    answered: int = 0
    failed: int = 0

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle."""
        return self.session.manifest


@dataclass
class ServedModel:
    """The deployments of one model by version.

    previous: the deployment that a rollback activates; rejected: a config that was rolled back and
    is not replaced in the store, or not yet, so that it is not followed again.
    """

    config: ServingConfig
    deployments: dict[str, Deployment]
    previous: Deployment | None = None
    rejected: ServingConfig | None = None

    @property
    def active(self) -> Deployment:
        """The deployment that answers by default."""
        return self.deployments[self.config.active]


def hash_files(settings: Settings) -> Digests:
    """Return the digests of all files of the bundles that the settings serve at first.

    A bundle that cannot be read is left to the worker that loads it, which gives the reason.
    """
    digests = Digests()
    with contextlib.suppress(BundleError, OSError):
        for directory in first_bundles(settings):
            with contextlib.suppress(BundleError, OSError):
                Manifest.read(directory).verify_files(directory, digests)
    return digests


def first_bundles(settings: Settings) -> list[Path]:
    """Return the directories that a start loads. Raises BundleError or OSError."""
    if settings.models is None:
        return [settings.bundle]
    return [
        settings.models / name / version
        for name in scan_store(settings.models).models
        for version in sorted(ServingConfig.read(settings.models / name).versions())
    ]


def load_session(directory: Path, settings: Settings, digests: Digests | None = None) -> Session:
    """Load one bundle, verify it and replay its golden requests. Raises BundleError."""
    try:
        session = Session.load(
            directory, settings.threads, settings.provider, settings.spinning, digests,
            settings.backend,
        )  # fmt: skip
    except BundleError:
        raise
    except Exception as error:  # a file can have the right hash and any content
        raise BundleError(f"{directory}: does not load ({error!r})") from error
    log_backend(session)
    manifest, path = session.manifest, f"{directory.parent.name}/{directory.name}"
    if manifest.contract_version == OLD_CONTRACT:
        logger.warning(
            "%s: contract %d is deprecated, the next minor version may not load it; rewrite the "
            "bundle with `python -m export upgrade`", directory, OLD_CONTRACT,
        )  # fmt: skip
    if settings.models is not None and f"{manifest.name}/{manifest.version}" != path:
        raise BundleError(
            f"{directory}: the manifest says {manifest.name}/{manifest.version}; "
            "a bundle must lie at NAME/VERSION in the store"
        )
    return session


def log_backend(session: Session) -> None:
    """Log the backend of a session; a warning if the library decodes other slates."""
    manifest, backend = session.manifest, session.backend
    level = logging.WARNING if backend.reason == "difference" else logging.INFO
    logger.log(
        level, "%s/%s: backend %s (%s)", manifest.name, manifest.version, backend.name,
        backend.detail,
    )  # fmt: skip


def open_steps(session: Session) -> None:
    """Open the graphs that trace the steps of a session; log the time, or the failure."""
    manifest, begin = session.manifest, time.monotonic()
    if session.tracer is None:
        return
    try:
        if session.tracer.open():
            logger.info(
                "%s/%s: graphs of steps opened in %.1f s", manifest.name, manifest.version,
                time.monotonic() - begin,
            )  # fmt: skip
    except Exception as error:  # the bundle ranks without them
        logger.warning(
            "%s/%s: its steps cannot be traced (%s)", manifest.name, manifest.version, error
        )


def deploy(session: Session, settings: Settings, metrics: Metrics) -> Deployment:
    """Warm up a session and build its deployment. Raises BundleError."""
    batches = [1, max(2, settings.max_batch_size)]
    try:
        timings = session.warm_up(batches, min(WARM_UP_LIST, session.manifest.max_candidates))
    except ModelError as error:
        manifest = session.manifest
        raise BundleError(f"{manifest.name}/{manifest.version}: warm-up: {error}") from error
    cache_bytes = int(settings.history_cache_mb * 2**20)
    session.featuriser.cache_histories(cache_bytes, metrics.count_history_lookup)
    if settings.state != "off":
        session.featuriser.prepare_stored_rows()
    forecast = Forecast(timings)
    return Deployment(session, Batcher(session, metrics, settings, forecast), forecast)


def lower_thread_priority() -> None:
    """Let the calling thread, which loads a model, use only the CPU time that others leave."""
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
