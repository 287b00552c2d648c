"""Which bundle answers whom: deployments of several models, changed while they serve.

A change of what a store says (`service.models.store`) is verified, replayed and warmed beside the
traffic, then swapped in between two requests; the deployment that goes finishes what it has. What
cannot be served is refused and counted, and what was served goes on.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from service.batching.batcher import Batcher
from service.engine.contract import MANIFEST, BundleError
from service.engine.session import Session
from service.errors import FieldError, InvalidRequest, NotReady
from service.metrics import Metrics
from service.models.deployment import (
    Deployment,
    ServedModel,
    deploy,
    load_session,
    lower_thread_priority,
)
from service.models.store import SERVING, ServingConfig, in_canary, models_of, stamp_of
from service.settings import Settings

logger = logging.getLogger("service")

OUTCOMES = ("changed", "refused", "rolled_back")


class Fleet:
    """All models of one process. Made with its sessions loaded; `start` and `close` on a loop."""

    def __init__(self, settings: Settings, metrics: Metrics, store: Path | None = None) -> None:
        self._settings, self._metrics, self._store = settings, metrics, store
        self.models: dict[str, ServedModel] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._draining: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        # A session's own threads inherit the priority of the one that makes it, so only without.
        quietly = lower_thread_priority if settings.threads == 1 else None
        self._loader = ThreadPoolExecutor(1, "loading", initializer=quietly)

    @classmethod
    def load(cls, settings: Settings, metrics: Metrics) -> Fleet:
        """The store, or the one bundle, as the settings say. Raises BundleError."""
        if settings.models is None:
            return cls.of(load_session(settings.bundle, settings), settings, metrics)
        fleet = cls(settings, metrics, settings.models)
        names = models_of(settings.models)
        if not names:
            raise BundleError(f"{settings.models}: no bundle in it, looked for */*/{MANIFEST}")
        for name in names:
            config = ServingConfig.read(settings.models / name)
            deployments = {v: fleet._load_version(name, v) for v in sorted(config.versions())}
            fleet.models[name] = ServedModel(config, deployments)
        fleet.default_name()
        return fleet

    @classmethod
    def of(cls, session: Session, settings: Settings, metrics: Metrics) -> Fleet:
        """Of one loaded bundle that nobody will change."""
        fleet = cls(settings, metrics)
        manifest = session.manifest
        deployment = deploy(session, settings, metrics)
        fleet.models[manifest.name] = ServedModel(
            ServingConfig(manifest.version), {manifest.version: deployment}
        )
        return fleet

    def default_name(self) -> str:
        """The model that a request means that names none. Raises BundleError."""
        name = self._settings.default_model
        if name is None:
            return min(self.models)
        if name not in self.models:
            raise BundleError(f"RERANK_DEFAULT_MODEL: one of {sorted(self.models)}, got {name!r}")
        return name

    def start(self) -> None:
        """Let every deployment take rows, and watch the store."""
        for name, model in self.models.items():
            for deployment in model.deployments.values():
                deployment.batcher.start()
            self._publish(name, model)
        if self._store is not None and self._settings.watch_s:
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Finish what waits and what runs."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        deployments = [e for model in self.models.values() for e in model.deployments.values()]
        await asyncio.gather(
            *(deployment.batcher.close() for deployment in deployments), *self._draining
        )
        self._loader.shutdown()

    def choose(self, name: str | None, user_id: str | None, path: str) -> tuple[Deployment, str]:
        """Who answers, and as which variant: "active" or "canary". Raises InvalidRequest."""
        if name is None:
            name = self.default_name()
        model = self.models.get(name)
        if model is None:
            rule = f"one of {', '.join(sorted(self.models))}"
            raise InvalidRequest.of(FieldError(f"{path}model", rule, name))
        config = model.config
        if config.canary is not None and user_id is not None and (
            in_canary(name, user_id, config.share)
        ):  # fmt: skip
            return model.deployments[config.canary], "canary"
        return model.active, "active"

    def shadow_of(self, deployment: Deployment) -> Deployment | None:
        """Who answers beside this deployment and is only compared."""
        model = self.models[deployment.manifest.name]
        shadow = model.config.shadow
        return None if shadow is None else model.deployments[shadow]

    def record_outcome(self, deployment: Deployment, failed: bool) -> None:
        """Count one answered list; a new deployment that fails too often goes back by itself."""
        deployment.answered += 1
        deployment.failed += failed
        model = self.models.get(deployment.manifest.name)
        settings = self._settings
        if (
            failed
            and model is not None
            and model.previous is not None
            and model.active is deployment
            and time.monotonic() - deployment.since < settings.probation_s
            and deployment.failed >= settings.rollback_failures
            and deployment.failed > settings.rollback_share * deployment.answered
        ):
            self.roll_back(deployment.manifest.name, "failures")

    def roll_back(self, name: str, reason: str) -> ServingConfig:
        """Swap the previous deployment in again, and say so in the store. Raises NotReady without."""
        model = self.models[name]
        previous, rejected = model.previous, model.config
        if previous is None:
            raise NotReady(f"{name}: nothing to roll back to")
        version = previous.manifest.version
        config = ServingConfig(version)
        logger.error("model %s: back from %s to %s (%s)", name, rejected.active, version, reason)
        # Its batcher has drained; what was measured of it still holds.
        batcher = Batcher(previous.session, self._metrics, self._settings, previous.forecast)
        batcher.start()
        deployment = Deployment(previous.session, batcher, previous.forecast)
        current = ServedModel(config, {version: deployment})
        self._swap(name, current)
        self._metrics.changes.labels(name, "rolled_back").inc()
        try:
            self._persist(name, config)
        except BundleError as error:
            current.rejected = rejected  # it still stands there, and is not followed again
            logger.error("model %s: %s", name, error)
        return config

    def _persist(self, name: str, config: ServingConfig) -> None:
        """Write it into the store, for other workers and the next start. Raises BundleError."""
        if self._store is None:
            return
        try:
            config.write(self._store / name)
        except OSError as error:
            path = self._store / name / SERVING
            raise BundleError(f"{path}: cannot be written ({error.strerror})") from None

    def record_refusal(self, name: str, error: Exception) -> None:
        """Count and log a change that was not made."""
        self._metrics.changes.labels(name, "refused").inc()
        logger.error("model %s: refused, %s", name, error)

    @property
    def max_candidates(self) -> int:
        """The longest list that any model takes."""
        return max(model.active.manifest.max_candidates for model in self.models.values())

    async def change(self, name: str, config: ServingConfig, persist: bool = False) -> None:
        """Load what is new of `serving`, warm it and swap it in. Raises BundleError, swaps nothing.

        The work is done in a thread; requests go on meanwhile. persist: written into the store.
        """
        async with self._changing:
            model = self.models.get(name)
            known = dict(model.deployments) if model else {}
            missing = sorted(config.versions() - known.keys())
            loop = asyncio.get_running_loop()
            for version in missing:
                load_it = functools.partial(self._load_version, name, version)
                known[version] = await loop.run_in_executor(self._loader, load_it)
            if self.models.get(name) is not model:  # the deployments known above are closed now
                raise BundleError(f"{name}: went back while {config} was loaded")
            if persist:
                self._persist(name, config)
            if model is not None and model.config == config:
                return
            for version in missing:
                known[version].batcher.start()
            previous = model.previous if model else None
            if model is not None and model.config.active != config.active:
                previous = model.active
            deployments = {version: known[version] for version in config.versions()}
            self._swap(name, ServedModel(config, deployments, previous))
            self._metrics.changes.labels(name, "changed").inc()
            logger.info("model %s: serving %s", name, config)

    def _swap(self, name: str, model: ServedModel) -> None:
        """Between two requests: nothing is awaited here."""
        old, default = self.models.get(name), self.default_name()
        self.models[name] = model
        if self.default_name() != default:
            logger.warning(
                "requests that name no model go to %s now, not to %s: RERANK_DEFAULT_MODEL says it "
                "once and for all", self.default_name(), default,
            )  # fmt: skip
        gone = (
            [e for e in old.deployments.values() if e not in model.deployments.values()]
            if old
            else []
        )
        if old is None or old.active is not model.active:
            active = model.active
            active.since, active.answered, active.failed = time.monotonic(), 0, 0
        for deployment in gone:
            manifest = deployment.manifest
            labels = manifest.name, manifest.version, deployment.session.provider
            self._metrics.model_info.labels(*labels).set(0)
            task = asyncio.get_running_loop().create_task(deployment.batcher.close())
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
        self._publish(name, model)

    def _publish(self, name: str, model: ServedModel) -> None:
        for deployment in model.deployments.values():
            version, provider = deployment.manifest.version, deployment.session.provider
            self._metrics.model_info.labels(name, version, provider).set(1)
        for outcome in OUTCOMES:  # from 0 on, or the first one would be no increase
            self._metrics.changes.labels(name, outcome)

    async def _watch(self) -> None:
        """Follow the store; what cannot be served is refused once, not at every look."""
        assert self._store is not None
        refused: dict[str, tuple[Any, ...]] = {}
        while True:
            await asyncio.sleep(self._settings.watch_s)
            try:
                for name in models_of(self._store):
                    await self._follow(name, self._store / name, refused)
            except OSError as error:  # gone while it was looked at; there will be another look
                logger.warning("%s: %s", self._store, error)

    async def sync_with_store(self, name: str) -> None:
        """Serve what the store says of a model. Raises BundleError, serves on what it serves."""
        if self._store is None:
            return
        model, config = self.models.get(name), ServingConfig.read(self._store / name)
        if model is None or config not in (model.config, model.rejected):
            await self.change(name, config)

    async def _follow(
        self, name: str, directory: Path, refused: dict[str, tuple[Any, ...]]
    ) -> None:
        stamp = stamp_of(directory)
        if refused.get(name) == stamp:
            return
        try:
            await self.sync_with_store(name)
        except Exception as error:  # whatever it was, what is served goes on
            refused[name] = stamp
            self.record_refusal(name, error)

    def _load_version(self, name: str, version: str) -> Deployment:
        assert self._store is not None
        return deploy(
            load_session(self._store / name / version, self._settings),
            self._settings,
            self._metrics,
        )
