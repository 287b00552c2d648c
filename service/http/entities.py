"""Routes that read, write and delete the users and items of the entity store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar
from urllib.parse import unquote_to_bytes

from fastapi import FastAPI, Request, Response

from service.engine.features.ids import read_id
from service.errors import (
    BadRequest,
    FieldError,
    InvalidRequest,
    NotFound,
    ServiceError,
    SlowClient,
    StoreCorrupt,
    StoreUnavailable,
    UnknownEntity,
)
from service.http.origins import is_loopback, named_host
from service.http.problems import refusal_by_store
from service.http.record_streams import Encoded, Splitter, body_parts, splitter_for
from service.http.responses import response_class
from service.http.security import Keys
from service.journal.journal import Journal
from service.metrics import Metrics
from service.models.fleet import Fleet
from service.settings import Settings
from service.state.engine import ID_RULE, Engine, Key, Value, encode_id, now_ms
from service.state.entities import UNKNOWN_SCHEMA
from service.state.errors import EngineError, EntityError, NewerEntity
from service.state.records import MAX_TIME, Record, parse_record, record_of
from service.state.schema_check import SchemaCheck
from service.state.store import EntityStore

T = TypeVar("T")
EntityKind = Literal["user", "item"]
COLLECTIONS: tuple[tuple[EntityKind, str], ...] = (("user", "/users"), ("item", "/items"))
UPLOAD_PATHS = [prefix + path for prefix in ("", "/v1") for _, path in COLLECTIONS]
BATCH_RECORDS = 1000  # after which records are written
BATCH_BYTES = 1 << 20  # of the body
MAX_REFUSED = 20  # refused records that one response names
THREADS = 4  # of a worker, for all entity routes; LMDB has one writer at a time
NO_STORE = {"Cache-Control": "no-store"}


class EntityApi:
    """`PUT /users` and `/items`, and `GET` and `DELETE` of one; each also under /v1."""

    def __init__(
        self,
        store: EntityStore,
        fleet: Fleet,
        settings: Settings,
        metrics: Metrics,
        keys: Keys | None,
        journal: Journal | None = None,
    ) -> None:
        """keys: those of RERANK_STATE_KEYS_FILE. Without, the routes are open on loopback only."""
        self._journal, self._records = journal, metrics.state_records
        self._store, self._fleet, self._settings, self._keys = store, fleet, settings, keys
        self._threads = ThreadPoolExecutor(THREADS, "entities")

    def add_routes(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        for kind, path in COLLECTIONS:
            for prefix in ("", "/v1"):
                one = prefix + path + "/{id:path}"
                for endpoint, route, method in (
                    (self.put, prefix + path, "PUT"),
                    (self.read, one, "GET"),
                    (self.delete, one, "DELETE"),
                ):
                    app.router.add_route(route, partial(endpoint, kind), methods=[method])

    async def close(self) -> None:
        """Finish the writes that run."""
        await asyncio.to_thread(self._threads.shutdown)

    async def put(self, kind: EntityKind, request: Request) -> Response:
        """Merge the records of the body into the store; the response counts what was written."""
        self._authenticate(request)
        headers = request.state.headers
        splitter = splitter_for(headers, self._settings.max_body_bytes)
        with _store_errors():
            upload = self._upload(kind, request, splitter)
        try:
            await self._read_body(upload, request)
        except EntityError as error:
            broken = FieldError(error.field, error.rule, error.value)
            detail = f"body: {broken.path}: {broken.rule}, got {broken.value_text}"
            raise upload.ended_by(BadRequest(detail, [broken])) from None
        except ServiceError as refusal:
            raise upload.ended_by(refusal) from None
        finally:
            self._records[kind, "written"].inc(upload.written)
            self._records[kind, "refused"].inc(upload.refused_count)
        return response_class(headers)(upload.outcome(), headers=NO_STORE)

    async def _read_body(self, upload: Upload, request: Request) -> None:
        """Feed the body to an upload, on a thread: rankings wait for the event loop meanwhile."""
        with _store_errors():
            try:
                async for part in body_parts(request.receive, self._settings.body_timeout_s):
                    await self._run(partial(upload.feed, part))
            except SlowClient:
                await self._run(upload.flush)
                raise
            await self._run(upload.end)

    async def read(self, kind: EntityKind, request: Request) -> Response:
        """Return an entity in the form of a record.

        Raises UnknownEntity, StoreCorrupt, or StoreUnavailable for one of a later version.
        """
        self._authenticate(request)
        key = _key(kind, request)
        with _store_errors():
            blobs = await self._run(partial(self._store.engine.get_many, [key]))
        if blobs[0] is None:
            raise UnknownEntity(f"{kind}: the store has no {_quoted(key)}")
        try:
            record = record_of(key, Value(blobs[0]))
        except NewerEntity:
            raise StoreUnavailable(
                f"{kind} {_quoted(key)}: was written by a later version of the service; send the "
                "request again later, or update this service"
            ) from None
        except EntityError:
            raise StoreCorrupt(
                f"{kind} {_quoted(key)}: its bytes are not those of a {kind}; delete it or put it "
                "again"
            ) from None
        return response_class(request.state.headers)(record, headers=NO_STORE)

    async def delete(self, kind: EntityKind, request: Request) -> Response:
        """Delete an entity, whether it exists or not, so that a repetition is harmless."""
        self._authenticate(request)
        key = _key(kind, request)
        with _store_errors():
            deleted = await self._run(partial(self._store.engine.delete, [key]))
        self._records[kind, "deleted"].inc(deleted)
        if self._journal is not None and kind == "user":
            self._journal.erase(key.id)
        return Response(status_code=204, headers=NO_STORE)

    def _authenticate(self, request: Request) -> None:
        """Raise Unauthorized or Forbidden; or NotFound where the routes are off."""
        if self._keys is not None:
            self._keys.client(request.headers.get("authorization"))
        elif not (
            is_loopback(self._settings.host) and is_loopback(named_host(request.state.headers))
        ):
            raise NotFound(
                f"{request.method} {request.scope['path'][:100]}: set RERANK_STATE_KEYS_FILE; "
                "without keys, users and items are served under a loopback address only"
            )

    def _upload(self, kind: EntityKind, request: Request, splitter: Splitter) -> Upload:
        """Return the upload that the query asks for. Raises InvalidRequest."""
        options = _options(request)
        active = [model.active for model in self._fleet.models.values()]
        limit = max(each.session.featuriser.schema.history.limit for each in active)
        check = None
        if options.check:
            default = self._fleet.models[self._fleet.default_name()].active
            check = SchemaCheck(default.session.featuriser.schema)
        return Upload(self._store.engine, kind, splitter, check, limit, options.expires_at)

    async def _run(self, work: Callable[[], T]) -> T:
        """Do work that may wait for a disk or a server on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


@dataclass
class Upload:
    """One body of records on its way into the store.

    limit         most answers that a user keeps
    expires_at    of records without their own, in ms since 1970 UTC
    written       number of records so far
    refused       the first MAX_REFUSED records that break a rule; refused_count is of all
    """

    engine: Engine
    kind: EntityKind
    splitter: Splitter
    check: SchemaCheck | None
    limit: int
    expires_at: int | None
    written: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)
    refused_count: int = 0
    _pending: list[Record] = field(default_factory=list)
    _pending_bytes: int = 0

    def feed(self, part: bytes) -> None:
        """Take a part of the body; each full batch is durable on return.

        Raises EngineError; or EntityError behind the records before an error that ends the body.
        """
        self._pending_bytes += len(part)
        self._take(self.splitter.feed(part))
        if self._pending_bytes >= BATCH_BYTES:
            self.flush()

    def end(self) -> None:
        """Take the end of the body. Raises as `feed` does, or ServiceError."""
        self._take(self.splitter.end())
        self.flush()

    def _take(self, entries: Iterator[Encoded]) -> None:
        try:
            for entry in entries:
                try:
                    self._pending.append(self._record(entry))
                except EntityError as error:
                    self._refuse(entry.number, error)
                if len(self._pending) == BATCH_RECORDS:
                    self.flush()
        except EntityError:
            self.flush()
            raise

    def flush(self) -> None:
        """Merge the pending records into the store; durable on return. Raises EngineError."""
        records, self._pending, self._pending_bytes = self._pending, [], 0
        now, limit = now_ms(), self.limit
        fingerprint = UNKNOWN_SCHEMA if self.check is None else self.check.fingerprint

        def merged(place: int, blob: bytes | None) -> Value:
            return records[place].merged(blob, now, limit, fingerprint)

        if records:
            self.engine.update_many([record.key for record in records], merged)
        self.written += len(records)

    def _record(self, entry: Encoded) -> Record:
        """Return the record of one part of the body. Raises EntityError."""
        if entry.error is not None:
            raise entry.error
        record = parse_record(self.splitter.decode(entry.content))
        if record.key.kind != self.kind:
            rule = f"{self.kind}s only; send it to PUT /{record.key.kind}s"
            raise EntityError(record.key.kind, rule, record.key.id)
        if self.check is not None:
            self.check(record)
        if record.expires_at is None:
            record.expires_at = self.expires_at
        return record

    def _refuse(self, number: int, error: EntityError) -> None:
        self.refused_count += 1
        if len(self.refused) < MAX_REFUSED:
            broken = FieldError(error.field, error.rule, error.value)
            self.refused.append(
                {
                    "line": number, "field": broken.path, "rule": broken.rule,
                    "value": broken.value_text,
                }
            )  # fmt: skip

    def outcome(self) -> dict[str, Any]:
        """Return the content of the response."""
        return {
            "written": self.written, "refused_count": self.refused_count, "refused": self.refused,
        }  # fmt: skip

    def ended_by(self, refusal: ServiceError) -> ServiceError:
        """Add to a refusal what was written before it."""
        refusal.members = self.outcome()
        if self.written:
            refusal.detail += (
                f"; {self.written} records were written before and stay, and all may be sent again"
            )
        return refusal


@dataclass(frozen=True)
class _Options:
    check: bool
    expires_at: int | None


def _options(request: Request) -> _Options:
    """Read `check` and `ttl_s` of the query. Raises InvalidRequest."""
    check, expires_at = True, None
    for name, text in request.query_params.multi_items():
        if name == "check":
            if text not in ("true", "false"):
                raise InvalidRequest.of(FieldError("query check", "true or false", text))
            check = text == "true"
        elif name == "ttl_s":
            expires_at = _expiry(text)
        else:
            raise InvalidRequest.of(FieldError("query", "check and ttl_s only", name))
    return _Options(check, expires_at)


def _expiry(text: str) -> int:
    """Return the time in ms at which an entity that lives for `text` seconds expires."""
    rule = "a positive number of seconds"
    try:
        expires_at = now_ms() + int(1e3 * float(text))
    except (ValueError, OverflowError):
        raise InvalidRequest.of(FieldError("query ttl_s", rule, text)) from None
    if not now_ms() < expires_at < MAX_TIME:
        raise InvalidRequest.of(FieldError("query ttl_s", rule, text))
    return expires_at


def _key(kind: EntityKind, request: Request) -> Key:
    """Return the key that the path names. Raises InvalidRequest.

    The id is read from the path as it was sent: decoded, a slash at its end would be lost.
    """
    path, version = request.scope["raw_path"], request.scope["path"].startswith("/v1/")
    start = f"{'/v1' if version else ''}/{kind}s/"
    if not path.startswith(start.encode()):  # of /users%2Fu1, nobody knows which id was meant
        raise InvalidRequest.of(FieldError("path", f"{start}ID", path.decode("latin-1")))
    sent = path[len(start) :].removesuffix(b"/")
    try:
        text = unquote_to_bytes(sent).decode()
    except UnicodeDecodeError:
        value = sent.decode("latin-1")
        raise InvalidRequest.of(FieldError(f"{kind} id", "UTF-8, percent-encoded", value)) from None
    try:
        key = Key(kind, str(read_id(text)))
        encode_id(key)
    except ValueError:  # EntityError is one
        raise InvalidRequest.of(FieldError(f"{kind} id", ID_RULE, text)) from None
    return key


def _quoted(key: Key) -> str:
    return FieldError(key.kind, "", key.id).value_text


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    """Raise errors of the engine as refusals."""
    try:
        yield
    except EngineError as error:
        raise refusal_by_store(error) from None
