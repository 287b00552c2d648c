"""Erasure: no byte of a deleted user's id is left in the files of the store."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx

from loadtest.errors import LoadTestError
from loadtest.measured import Bar, Measured
from loadtest.scenarios import Catalogue
from loadtest.server import serving
from loadtest.state.calls import entity_path, event, now_ms, put_records
from loadtest.state.command import EngineName, State
from loadtest.state.entities import user_record
from loadtest.state.stores import describe_store, empty_directory, redis_server, run_state

VICTIM = "erased-user-7f3a19c2"
OTHERS = 500
EVENTS = 40
CHUNK = 1 << 20


def measure(options: State) -> Measured:
    """Write, delete and compact with each engine. Raises ServerError or LoadTestError."""
    measured = Measured()
    for engine in options.engine:
        if engine == "redis":
            with redis_server(options, "erasure-redis") as server:
                live_and_delete(options, server.url, server.directory, measured, engine)
                run_state("compact", server.url)
                server.wait_for_rewrite()
                add_remains(measured, engine, server.url, server.directory)
            continue
        directory = empty_directory(options.scratch / "erasure-lmdb").resolve()
        try:
            live_and_delete(options, f"lmdb://{directory}", directory, measured, engine)
            run_state("compact", f"lmdb://{directory}")
            add_remains(measured, engine, f"lmdb://{directory}", directory)
        finally:
            shutil.rmtree(directory)
    return measured


def live_and_delete(
    options: State, address: str, directory: Path, measured: Measured, engine: EngineName
) -> None:
    """Let a user among others be put, answer and be ranked, count its id, and delete the user."""
    draw, ids = random.Random(0), Catalogue.of(options.bundle).ids
    count = min(10, len(ids))
    names = [VICTIM, *(f"user-{number}" for number in range(OTHERS))]
    with (
        serving(options.bundle, state=address) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        users = [user_record(name, draw.sample(ids, count), draw) for name in names]
        put_records(server.url, "users", users)
        events = [
            event(f"{VICTIM}-{number}", VICTIM, draw.choice(ids), number % 2, now_ms())
            for number in range(EVENTS)
        ]
        client.post("/feedback", json={"events": events}).raise_for_status()
        body = {"user": {"id": VICTIM}, "candidates": draw.sample(ids, count)}
        client.post("/rerank", json=body).raise_for_status()
        before = occurrences(directory, VICTIM.encode())
        if not before:
            raise LoadTestError(f"{directory}: the id must be in the files before it is deleted")
        measured.add("occurrences of the id before DELETE", engine, before, "occurrences")
        client.delete(entity_path("users", VICTIM)).raise_for_status()
        status = client.get(entity_path("users", VICTIM)).status_code
        measured.add("status of GET after DELETE", engine, status, "status", Bar("==", 404))


def add_remains(measured: Measured, engine: EngineName, address: str, directory: Path) -> None:
    """Add the occurrences of the id after compaction, and that the other users are still there."""
    measured.add(
        "occurrences of the id after DELETE and compaction", engine,
        occurrences(directory, VICTIM.encode()), "occurrences", Bar("==", 0),
    )  # fmt: skip
    dump = directory.with_name(f"{directory.name}.ndjson")
    run_state("dump", address, dump)
    try:
        users = [json.loads(line).get("user") for line in dump.read_text("utf-8").splitlines()]
    finally:
        dump.unlink()
    others = sum(user is not None for user in users)
    measured.add("other users after compaction", engine, others, "users", Bar("==", OTHERS))
    measured.add("size after compaction", engine, describe_store(address)["bytes"], "bytes")


def occurrences(directory: Path, needle: bytes) -> int:
    """Count a text in the names and contents of all files of a directory."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    in_names = sum(str(path.relative_to(directory)).encode().count(needle) for path in files)
    return in_names + sum(count_in(path, needle) for path in files)


def count_in(path: Path, needle: bytes) -> int:
    """Count a text in a file of any size."""
    total, rest = 0, b""
    for chunk in read_chunks(path):
        data = rest + chunk
        total += data.count(needle)
        rest = data[len(data) - len(needle) + 1 :] if len(needle) > 1 else b""
    return total


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield the content of a file."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
