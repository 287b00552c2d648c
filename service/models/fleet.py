"""The deployments of all models: routing, canary, shadow, rollback, and changes while serving.

A new config in the store (`service.models.store`) is loaded, verified, replayed and warmed up while
requests go on, then swapped in between two requests; a deployment that leaves finishes its queue.
A config that cannot be served is refused and counted, and the deployments before it go on.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from service.batching.batcher import Batcher
from service.engine.contract import MANIFEST, BundleError
from service.engine.digests import Digests
from service.engine.session import Session
from service.errors import FieldError, InvalidRequest, NotReady
from service.metrics import Metrics
from service.models.deployment import (
    Deployment,
    ServedModel,
    deploy,
    load_session,
    lower_thread_priority,
    open_steps,
)
from service.models.store import ServingConfig, in_canary, stamp_of
from service.models.versions import SERVING, scan_store
from service.settings import Settings

logger = logging.getLogger("service")

OUTCOMES = ("changed", "refused", "rolled_back")


class Fleet:
    """All models of one process; `start` and `close` need a running event loop."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        store: Path | None = None,
        digests: Digests | None = None,
    ) -> None:
        self._settings, self._metrics, self._store = settings, metrics, store
        self._digests = digests or Digests()
        self.models: dict[str, ServedModel] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._looks: set[asyncio.Task[None]] = set()
        self._draining: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        self._writing = asyncio.Lock()  # held while the store is written, in the order of changes
        self._ignored: frozenset[Path] = frozenset()  # directories of the store, already logged
        self._refused: dict[str, tuple[Any, ...]] = {}  # by model, the stamp of its refused files
        # onnxruntime's threads would inherit the priority of the thread that creates them.
        initializer = lower_thread_priority if settings.threads == 1 else None
        self._loader = ThreadPoolExecutor(1, "loading", initializer=initializer)
        self._step_opener = ThreadPoolExecutor(1, "steps", lower_thread_priority)

    @classmethod
    def load(cls, settings: Settings, metrics: Metrics, digests: Digests | None = None) -> Fleet:
        """Load the store of the settings, or their one bundle. Raises BundleError.

        digests: of files that the supervisor has read.
        """
        if settings.models is None:
            return cls.of(load_session(settings.bundle, settings, digests), settings, metrics)
        fleet = cls(settings, metrics, settings.models, digests)
        names = fleet._models_in(settings.models)
        if not names:
            raise BundleError(
                f"{settings.models}: no bundle in this store; put one at NAME/VERSION/{MANIFEST}, "
                f"ignored: {', '.join(map(str, fleet._ignored)) or 'nothing'}"
            )
        for name in names:
            config = ServingConfig.read(settings.models / name)
            deployments = {v: fleet._load_version(name, v) for v in sorted(config.versions())}
            fleet.models[name] = ServedModel(config, deployments)
        fleet.default_name()
        return fleet

    @classmethod
    def of(cls, session: Session, settings: Settings, metrics: Metrics) -> Fleet:
        """Serve one loaded bundle that never changes."""
        fleet = cls(settings, metrics)
        manifest = session.manifest
        deployment = deploy(session, settings, metrics)
        fleet.models[manifest.name] = ServedModel(
            ServingConfig(manifest.version), {manifest.version: deployment}
        )
        return fleet

    def default_name(self) -> str:
        """Return the model of requests that name none. Raises BundleError."""
        name = self._settings.default_model
        if name is None:
            return min(self.models)
        if name not in self.models:
            raise BundleError(
                f"RERANK_DEFAULT_MODEL: must be one of {sorted(self.models)}, got {name!r}"
            )
        return name

    def start(self) -> None:
        """Start every batcher, and follow the store."""
        for name, model in self.models.items():
            for deployment in model.deployments.values():
                deployment.batcher.start()
            self._publish(name, model)
        if self._store is not None and self._settings.watch_s:
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Stop following the store, and finish every queue."""
        watchers = [*self._looks, *filter(None, [self._watcher])]
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        deployments = [d for model in self.models.values() for d in model.deployments.values()]
        await asyncio.gather(
            *(deployment.batcher.close() for deployment in deployments), *self._draining
        )
        self._loader.shutdown()
        # A graph that is being opened takes seconds, in which the journal could not be written.
        self._step_opener.shutdown(wait=False, cancel_futures=True)

    def choose(self, name: str | None, user_id: str | None, path: str) -> tuple[Deployment, str]:
        """Return the deployment that answers a request, and its variant: "active" or "canary".

        path: prefix of the field names in errors. Raises InvalidRequest for an unknown model.
        """
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
        """Return the deployment whose slates are compared with those of this one, if any."""
        model = self.models[deployment.manifest.name]
        shadow = model.config.shadow
        return None if shadow is None else model.deployments[shadow]

    def record_outcome(self, deployment: Deployment, failed: bool) -> None:
        """Count one answered list; roll back a new deployment that fails too often."""
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

    def roll_back(self, name: str, reason: str) -> asyncio.Task[None]:
        """Activate the previous deployment again, and return the task that writes it to the store.

        Requests need not wait for the task. Raises NotReady if there is no previous deployment.
        """
        model = self.models[name]
        previous, rejected = model.previous, model.config
        if previous is None:
            raise NotReady(f"{name}: nothing to roll back to")
        version = previous.manifest.version
        config = ServingConfig(version)
        logger.error(
            "model %s: rolled back from version %s to %s: %s",
            name, rejected.active, version, reason,
        )  # fmt: skip
        # Its batcher was closed; its forecast still holds.
        batcher = Batcher(previous.session, self._metrics, self._settings, previous.forecast)
        batcher.start()
        deployment = Deployment(previous.session, batcher, previous.forecast)
        # The store still has the rejected config; do not follow it again.
        current = ServedModel(config, {version: deployment}, rejected=rejected)
        self._swap(name, current)
        self._metrics.changes.labels(name, "rolled_back").inc()
        task = asyncio.get_running_loop().create_task(self._persist_rollback(name, current))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)
        return task

    async def _persist_rollback(self, name: str, model: ServedModel) -> None:
        try:
            await self._persist(name, model.config)
            model.rejected = None
        except BundleError as error:
            logger.error("model %s: %s", name, error)

    async def _persist(self, name: str, config: ServingConfig) -> None:
        """Write a config to the store, for other workers and the next start. Raises BundleError.

        A thread waits for the lock of the store, and requests go on meanwhile.
        """
        if self._store is None:
            return
        async with self._writing:
            try:
                await asyncio.to_thread(config.write_exclusively, self._store / name)
            except OSError as error:
                path = self._store / name / SERVING
                raise BundleError(f"{path}: cannot be written ({error.strerror})") from None

    def record_refusal(self, name: str, error: Exception) -> None:
        """Count and log a config that was refused."""
        self._metrics.changes.labels(name, "refused").inc()
        logger.error("model %s: change refused: %s", name, error)

    @property
    def max_candidates(self) -> int:
        """The longest list that any active deployment takes."""
        return max(model.active.manifest.max_candidates for model in self.models.values())

    async def change(self, name: str, config: ServingConfig, persist: bool = False) -> None:
        """Load the new versions of a config, warm them up and swap them in.

        A thread loads them; requests go on meanwhile. persist: write the config to the store.
        Raises BundleError and changes nothing if a version cannot be served.
        """
        async with self._changing:
            model = self.models.get(name)
            loaded = dict(model.deployments) if model else {}
            missing = sorted(config.versions() - loaded.keys())
            loop = asyncio.get_running_loop()
            for version in missing:
                load = functools.partial(self._load_version, name, version)
                loaded[version] = await loop.run_in_executor(self._loader, load)
            self._refuse_after_rollback(name, model, config)
            if persist:
                await self._persist(name, config)
                self._refuse_after_rollback(name, model, config)  # which is written after it
            if model is not None and model.config == config:
                return
            for version in missing:
                loaded[version].batcher.start()
            previous = model.previous if model else None
            if model is not None and model.config.active != config.active:
                previous = model.active
            deployments = {version: loaded[version] for version in config.versions()}
            self._swap(name, ServedModel(config, deployments, previous))
            self._metrics.changes.labels(name, "changed").inc()
            logger.info("model %s: serving %s", name, config)

    def _refuse_after_rollback(
        self, name: str, model: ServedModel | None, config: ServingConfig
    ) -> None:
        """Raise BundleError if a rollback has closed the deployments of a model meanwhile."""
        if self.models.get(name) is not model:
            raise BundleError(f"{name}: rolled back while {config} was loaded; try again")

    def _swap(self, name: str, model: ServedModel) -> None:
        """Replace the deployments of a model between two requests: nothing is awaited here."""
        old, default = self.models.get(name), self.default_name()
        self.models[name] = model
        if self.default_name() != default:
            logger.warning(
                "requests that name no model now go to %s instead of %s; set RERANK_DEFAULT_MODEL "
                "to fix their model", self.default_name(), default,
            )  # fmt: skip
        remaining = model.deployments.values()
        retired = [d for d in old.deployments.values() if d not in remaining] if old else []
        if old is None or old.active is not model.active:
            active = model.active
            active.since, active.answered, active.failed = time.monotonic(), 0, 0
        for deployment in retired:
            manifest = deployment.manifest
            labels = manifest.name, manifest.version, deployment.session.provider
            self._metrics.model_info.labels(*labels).set(0)
            self._set_backend(deployment, 0)
            task = asyncio.get_running_loop().create_task(deployment.batcher.close())
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
        self._publish(name, model)

    def _publish(self, name: str, model: ServedModel) -> None:
        """Set the metrics of a model, and open the graphs of its steps if the settings say so."""
        for deployment in model.deployments.values():
            version, provider = deployment.manifest.version, deployment.session.provider
            self._metrics.model_info.labels(name, version, provider).set(1)
            self._set_backend(deployment, 1)
            if self._settings.preload_steps:
                self._step_opener.submit(open_steps, deployment.session)
        for outcome in OUTCOMES:  # exported from 0, or the first change would be no increase
            self._metrics.changes.labels(name, outcome)

    def _set_backend(self, deployment: Deployment, value: int) -> None:
        manifest, backend = deployment.manifest, deployment.session.backend
        labels = manifest.name, manifest.version, backend.name, backend.reason
        self._metrics.backend_info.labels(*labels).set(value)

    async def _watch(self) -> None:
        """Follow the store; refuse a config that cannot be served once, until its files change."""
        while True:
            await asyncio.sleep(self._settings.watch_s)
            await self._look()

    def look_now(self) -> None:
        """Follow the store once, beside the requests; try a refused config again."""
        if self._store is not None:
            self._refused.clear()
            task = asyncio.get_running_loop().create_task(self._look())
            self._looks.add(task)
            task.add_done_callback(self._looks.discard)

    async def _look(self) -> None:
        assert self._store is not None
        try:
            for name in self._models_in(self._store):
                await self._follow(name, self._store / name)
        except OSError as error:  # a file vanished meanwhile; the next look will tell
            logger.warning("%s: %s", self._store, error)

    def _models_in(self, store: Path) -> Sequence[str]:
        """Return the models of the store; log once each directory that is ignored."""
        scan = scan_store(store)
        for path, reason in scan.ignored.items():
            if path not in self._ignored:
                logger.warning("%s: ignored: %s", path, reason)
        self._ignored = frozenset(scan.ignored)
        return scan.models

    async def sync_with_store(self, name: str) -> None:
        """Serve the config that the store has for a model.

        Raises BundleError and keeps the current config if it cannot be served.
        """
        if self._store is None:
            return
        async with self._writing:  # what this process has yet to write is not undone
            config = ServingConfig.read(self._store / name)
        model = self.models.get(name)
        if model is None or config not in (model.config, model.rejected):
            await self.change(name, config)

    async def _follow(self, name: str, directory: Path) -> None:
        stamp = stamp_of(directory)
        if self._refused.get(name) == stamp:
            return
        try:
            await self.sync_with_store(name)
        except Exception as error:  # of any kind: the current config goes on
            self._refused[name] = stamp
            self.record_refusal(name, error)

    def _load_version(self, name: str, version: str) -> Deployment:
        assert self._store is not None
        return deploy(
            load_session(self._store / name / version, self._settings, self._digests),
            self._settings,
            self._metrics,
        )
