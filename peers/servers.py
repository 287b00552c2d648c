"""Start the servers under comparison, each on a free port of 127.0.0.1."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import httpx

from loadtest.processes import bound_to_parent
from loadtest.server import ServerError, serving_under
from peers import BACKENDS, Peer
from peers.environments import ROOT, python_of

START_S, STOP_S = 180.0, 30.0


@contextlib.contextmanager
def this_service(bundle: Path, checkout: Path | None = None) -> Iterator[str]:
    """Run this service, or that of another checkout, and yield its URL.

    Its budget stays at the bundle's under load, since no peer can lower its own.
    """
    settings = {"adaptive_budget": "false"}
    with serving_under((), bundle, ("--workers=2",), settings, checkout) as server:
        yield server.url


@contextlib.contextmanager
def peer_server(peer: Peer, bundle: Path) -> Iterator[str]:
    """Run a peer's server and yield its URL once it is ready. Raises ServerError with its output.

    It gets SIGTERM when this process dies. Its numpy has one thread: numpy 1, which Triton needs,
    solves the small systems of a history with all cores, which spin and cost it most of its
    capacity.
    """
    python = python_of(peer)
    if not python.exists():
        raise ServerError(f"{peer.name}: {python} is missing; --install makes it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [str(python), "-m", f"peers.{peer.module}", f"--bundle={bundle}", f"--port={port}"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            bound_to_parent(command), cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "RERANK_BACKEND": BACKENDS[peer.work],
                 "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            wait_until_ready(peer, url, process, log)
            yield url
        finally:
            end(process)


def wait_until_ready(
    peer: Peer, url: str, process: subprocess.Popen[bytes], log: IO[bytes]
) -> None:
    """Return once the peer's readiness route answers 200. Raises ServerError after START_S."""
    deadline = time.monotonic() + START_S
    while not answers_200(url + peer.ready):
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            output = log.read().decode("utf-8", "replace")[-2000:]
            raise ServerError(f"{peer.name} did not start: {output}")
        time.sleep(0.1)


def answers_200(url: str) -> bool:
    """Return true if a GET request gets status 200."""
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def end(process: subprocess.Popen[bytes]) -> None:
    """Terminate a server, then kill the rest of its process group."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):  # children that it left behind
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
