"""Which bundle answers whom: engines of several models, changed while they serve.

A change of what a store says (`service.models.store`) is verified, replayed and warmed beside the
traffic, then swapped in between two requests; the engine that goes finishes what it has. What
cannot be served is refused and counted, and what was served goes on.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.batching.batcher import Batcher
from service.batching.budget import Pace
from service.engine.collate import ModelError
from service.engine.contract import MANIFEST, BundleError, Manifest
from service.engine.session import Session
from service.errors import FieldError, InvalidRequest, NotReady
from service.metrics import Metrics
from service.models.store import SERVING, Serving, in_canary, models_of, stamp_of
from service.settings import Settings

logger = logging.getLogger("service")

OUTCOMES = ("changed", "refused", "rolled_back")


@dataclass
class Engine:
    """One loaded bundle at work. `answered` and `failed` count lists since it began to serve."""

    session: Session
    batcher: Batcher
    pace: Pace
    since: float = field(default_factory=time.monotonic)
    answered: int = 0
    failed: int = 0

    @property
    def manifest(self) -> Manifest:
        """Of its bundle."""
        return self.session.manifest


@dataclass
class Lineup:
    """The engines of one model; `previous` can come back at once."""

    serving: Serving
    engines: dict[str, Engine]
    previous: Engine | None = None
    refused: Serving | None = None

    @property
    def active(self) -> Engine:
        """Who answers by default."""
        return self.engines[self.serving.active]


class Fleet:
    """All models of one process. Made with its sessions loaded; `start` and `close` on a loop."""

    def __init__(self, settings: Settings, metrics: Metrics, store: Path | None = None) -> None:
        self._settings, self._metrics, self._store = settings, metrics, store
        self.lineups: dict[str, Lineup] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._draining: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        # A session's own threads inherit the priority of the one that makes it, so only without.
        quietly = give_way if settings.threads == 1 else None
        self._loader = ThreadPoolExecutor(1, "loading", initializer=quietly)

    @classmethod
    def load(cls, settings: Settings, metrics: Metrics) -> Fleet:
        """The store, or the one bundle, as the settings say. Raises BundleError."""
        if settings.models is None:
            return cls.of(load(settings.bundle, settings), settings, metrics)
        fleet = cls(settings, metrics, settings.models)
        names = models_of(settings.models)
        if not names:
            raise BundleError(f"{settings.models}: no bundle in it, looked for */*/{MANIFEST}")
        for name in names:
            serving = Serving.read(settings.models / name)
            engines = {v: fleet._engine(name, v) for v in sorted(serving.versions())}
            fleet.lineups[name] = Lineup(serving, engines)
        fleet.default_name()
        return fleet

    @classmethod
    def of(cls, session: Session, settings: Settings, metrics: Metrics) -> Fleet:
        """Of one loaded bundle that nobody will change."""
        fleet = cls(settings, metrics)
        manifest = session.manifest
        engine = fleet._engine_of(session)
        fleet.lineups[manifest.name] = Lineup(Serving(manifest.version), {manifest.version: engine})
        return fleet

    def default_name(self) -> str:
        """The model that a request means that names none. Raises BundleError."""
        name = self._settings.default_model
        if name is None:
            return min(self.lineups)
        if name not in self.lineups:
            raise BundleError(f"RERANK_DEFAULT_MODEL: one of {sorted(self.lineups)}, got {name!r}")
        return name

    def start(self) -> None:
        """Let every engine take rows, and watch the store."""
        for name, lineup in self.lineups.items():
            for engine in lineup.engines.values():
                engine.batcher.start()
            self._show(name, lineup)
        if self._store is not None and self._settings.watch_s:
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Finish what waits and what runs."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        engines = [e for lineup in self.lineups.values() for e in lineup.engines.values()]
        await asyncio.gather(*(engine.batcher.close() for engine in engines), *self._draining)
        self._loader.shutdown()

    def choose(self, name: str | None, user_id: str | None, path: str) -> tuple[Engine, str]:
        """Who answers, and as which variant: "active" or "canary". Raises InvalidRequest."""
        if name is None:
            name = self.default_name()
        lineup = self.lineups.get(name)
        if lineup is None:
            rule = f"one of {', '.join(sorted(self.lineups))}"
            raise InvalidRequest.of(FieldError(f"{path}model", rule, name))
        serving = lineup.serving
        if serving.canary is not None and user_id is not None and (
            in_canary(name, user_id, serving.share)
        ):  # fmt: skip
            return lineup.engines[serving.canary], "canary"
        return lineup.active, "active"

    def shadow_of(self, engine: Engine) -> Engine | None:
        """Who answers beside this engine and is only compared."""
        lineup = self.lineups[engine.manifest.name]
        shadow = lineup.serving.shadow
        return None if shadow is None else lineup.engines[shadow]

    def told(self, engine: Engine, failed: bool) -> None:
        """Count one answered list; a new engine that fails too often goes back by itself."""
        engine.answered += 1
        engine.failed += failed
        lineup = self.lineups.get(engine.manifest.name)
        settings = self._settings
        if (
            failed
            and lineup is not None
            and lineup.previous is not None
            and lineup.active is engine
            and time.monotonic() - engine.since < settings.probation_s
            and engine.failed >= settings.rollback_failures
            and engine.failed > settings.rollback_share * engine.answered
        ):
            self.roll_back(engine.manifest.name, "failures")

    def roll_back(self, name: str, why: str) -> Serving:
        """Swap the previous engine in again, and say so in the store. Raises NotReady without."""
        lineup = self.lineups[name]
        previous, refused = lineup.previous, lineup.serving
        if previous is None:
            raise NotReady(f"{name}: nothing to roll back to")
        version = previous.manifest.version
        serving = Serving(version)
        logger.error("model %s: back from %s to %s (%s)", name, refused.active, version, why)
        # Its batcher has drained; what was measured of it still holds.
        batcher = Batcher(previous.session, self._metrics, self._settings, previous.pace)
        batcher.start()
        engine = Engine(previous.session, batcher, previous.pace)
        current = Lineup(serving, {version: engine})
        self._swap(name, current)
        self._metrics.changes.labels(name, "rolled_back").inc()
        try:
            self._remember(name, serving)
        except BundleError as error:
            current.refused = refused  # it still stands there, and is not followed again
            logger.error("model %s: %s", name, error)
        return serving

    def _remember(self, name: str, serving: Serving) -> None:
        """Write it into the store, for other workers and the next start. Raises BundleError."""
        if self._store is None:
            return
        try:
            serving.write(self._store / name)
        except OSError as error:
            path = self._store / name / SERVING
            raise BundleError(f"{path}: cannot be written ({error.strerror})") from None

    def refused(self, name: str, error: Exception) -> None:
        """Count and log a change that was not made."""
        self._metrics.changes.labels(name, "refused").inc()
        logger.error("model %s: refused, %s", name, error)

    @property
    def max_candidates(self) -> int:
        """The longest list that any model takes."""
        return max(lineup.active.manifest.max_candidates for lineup in self.lineups.values())

    async def change(self, name: str, serving: Serving, lasting: bool = False) -> None:
        """Load what is new of `serving`, warm it and swap it in. Raises BundleError, swaps nothing.

        The work is done in a thread; requests go on meanwhile. lasting: written into the store.
        """
        async with self._changing:
            lineup = self.lineups.get(name)
            known = dict(lineup.engines) if lineup else {}
            missing = sorted(serving.versions() - known.keys())
            loop = asyncio.get_running_loop()
            for version in missing:
                load_it = functools.partial(self._engine, name, version)
                known[version] = await loop.run_in_executor(self._loader, load_it)
            if self.lineups.get(name) is not lineup:  # the engines known above are closed now
                raise BundleError(f"{name}: went back while {serving} was loaded")
            if lasting:
                self._remember(name, serving)
            if lineup is not None and lineup.serving == serving:
                return
            for version in missing:
                known[version].batcher.start()
            previous = lineup.previous if lineup else None
            if lineup is not None and lineup.serving.active != serving.active:
                previous = lineup.active
            engines = {version: known[version] for version in serving.versions()}
            self._swap(name, Lineup(serving, engines, previous))
            self._metrics.changes.labels(name, "changed").inc()
            logger.info("model %s: serving %s", name, serving)

    def _swap(self, name: str, lineup: Lineup) -> None:
        """Between two requests: nothing is awaited here."""
        old, default = self.lineups.get(name), self.default_name()
        self.lineups[name] = lineup
        if self.default_name() != default:
            logger.warning(
                "requests that name no model go to %s now, not to %s: RERANK_DEFAULT_MODEL says it "
                "once and for all", self.default_name(), default,
            )  # fmt: skip
        gone = [e for e in old.engines.values() if e not in lineup.engines.values()] if old else []
        if old is None or old.active is not lineup.active:
            active = lineup.active
            active.since, active.answered, active.failed = time.monotonic(), 0, 0
        for engine in gone:
            manifest = engine.manifest
            labels = manifest.name, manifest.version, engine.session.provider
            self._metrics.model_info.labels(*labels).set(0)
            task = asyncio.get_running_loop().create_task(engine.batcher.close())
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
        self._show(name, lineup)

    def _show(self, name: str, lineup: Lineup) -> None:
        for engine in lineup.engines.values():
            version, provider = engine.manifest.version, engine.session.provider
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

    async def catch_up(self, name: str) -> None:
        """Serve what the store says of a model. Raises BundleError, serves on what it serves."""
        if self._store is None:
            return
        lineup, serving = self.lineups.get(name), Serving.read(self._store / name)
        if lineup is None or serving not in (lineup.serving, lineup.refused):
            await self.change(name, serving)

    async def _follow(
        self, name: str, directory: Path, refused: dict[str, tuple[Any, ...]]
    ) -> None:
        stamp = stamp_of(directory)
        if refused.get(name) == stamp:
            return
        try:
            await self.catch_up(name)
        except Exception as error:  # whatever it was, what is served goes on
            refused[name] = stamp
            self.refused(name, error)

    def _engine(self, name: str, version: str) -> Engine:
        assert self._store is not None
        return self._engine_of(load(self._store / name / version, self._settings))

    def _engine_of(self, session: Session) -> Engine:
        batches = [1, max(2, self._settings.max_batch_size)]
        try:
            timings = session.warm_up(batches, min(50, session.manifest.max_candidates))
        except ModelError as error:
            raise BundleError(f"warm-up: {error}") from error
        pace = Pace(timings)
        return Engine(session, Batcher(session, self._metrics, self._settings, pace), pace)


def give_way() -> None:
    """Let the thread that loads a model have what the others leave of the cores."""
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def load(directory: Path, settings: Settings) -> Session:
    """One bundle, verified and replayed. Raises BundleError."""
    try:
        session = Session.load(directory, settings.threads, settings.provider, settings.spinning)
    except BundleError:
        raise
    except Exception as error:  # a file may be as the manifest says, and yet anything
        raise BundleError(f"{directory}: does not load ({error!r})") from error
    manifest = session.manifest
    where = directory.parent.name, directory.name
    if settings.models is not None and (manifest.name, manifest.version) != where:
        raise BundleError(
            f"{directory}: holds {manifest.name}/{manifest.version}, a store has it where it says"
        )
    return session
