"""A service whose standard error takes nothing goes on serving, and counts the lines it drops."""

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from tests.support.bundles import ROOT

REQUESTS = 3_000  # to each connection: their lines are more than the backlog and the pipe hold
PIPELINED = 50
LONG_ID = "r" * 128
BODY = json.dumps({"candidates": ["1", "296"], "slate_size": 1, "request_id": LONG_ID})
HEAD = f"POST /rerank HTTP/1.1\r\nHost: rerank\r\nContent-Length: {len(BODY)}\r\n\r\n"


@contextlib.contextmanager
def service(stderr, *arguments, prefix=()):
    """Run a service that logs every request and yield (process, port) once it is ready.

    prefix: a command that runs the one that follows it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "service", "--port", str(port), *arguments],
        cwd=ROOT,
        env={**os.environ, "RERANK_LOG_REQUESTS": "true", "RERANK_TIMEOUT_MS": "60000"},
        stderr=stderr,
    )
    try:
        assert poll(lambda: status(port, "/readyz") == 200, 60)
        yield process, port
    finally:
        process.kill()
        process.wait()


def poll(condition, seconds):
    """Return the last value of `condition`: the first true one, or that after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return value


def status(port, path):
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=2).status_code
    except httpx.TransportError:
        return None


def dropped(port):
    page = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
    return float(re.findall(r"^rerank_log_lines_dropped_total (\S+)$", page, re.MULTILINE)[0])


def rank(port, count):
    """Send requests over one connection; return the number of responses with status 200."""
    answered = 0
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        file = connection.makefile("rb")
        for _ in range(count // PIPELINED):
            connection.sendall((HEAD + BODY).encode() * PIPELINED)
            for _ in range(PIPELINED):
                head = list(iter(file.readline, b"\r\n"))
                answered += head[0].startswith(b"HTTP/1.1 200")
                (length,) = (int(line[16:]) for line in head if line.startswith(b"content-length:"))
                file.read(length)
    return answered


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_log_pipe_that_nobody_reads_stalls_no_request_and_no_stop(workers):
    read_end, write_end = os.pipe()
    fcntl.fcntl(read_end, fcntl.F_SETPIPE_SZ, 4096)
    with service(write_end, "--workers", workers) as (process, port):
        os.close(write_end)
        answered = []
        threads = [
            threading.Thread(target=lambda: answered.append(rank(port, REQUESTS)))
            for _ in range(int(workers))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answered == [REQUESTS] * int(workers)
        assert status(port, "/readyz") == 200
        assert poll(lambda: dropped(port), 5) > 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    os.close(read_end)


@pytest.mark.alone
def test_a_log_that_is_read_late_has_whole_lines_and_the_number_of_missing_ones():
    read_end, write_end = os.pipe()
    with service(write_end) as (process, port), open(read_end, "rb") as log:
        os.close(write_end)
        assert rank(port, REQUESTS) == REQUESTS
        time.sleep(1.5)  # the metric follows once a second
        counted = dropped(port)
        lines: list[bytes] = []
        reader = threading.Thread(target=lambda: lines.extend(log))
        reader.start()
        time.sleep(1)  # the backlog is written meanwhile
        assert rank(port, PIPELINED) == PIPELINED
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        reader.join()
    records = [json.loads(line) for line in lines]
    (report,) = (record for record in records if "were dropped" in record["event"])
    missing = int(report["event"].split()[0])
    assert missing == counted
    answered = sum(record["event"] == "answered" for record in records)
    assert answered == REQUESTS + PIPELINED - missing


@pytest.mark.parametrize("kind", ["closed pipe", "non-blocking pipe", "full disk", "none"])
def test_a_standard_error_that_fails_stalls_no_request(kind):
    read_end, write_end = os.pipe()
    if kind == "closed pipe":
        os.close(read_end)
    elif kind == "non-blocking pipe":
        fcntl.fcntl(read_end, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(write_end, False)
    elif kind == "full disk":
        os.dup2(os.open("/dev/full", os.O_WRONLY), write_end)
    prefix = ["sh", "-c", 'exec "$0" "$@" 2>&-'] if kind == "none" else []
    # Several workers share what their supervisor was started with.
    workers = "2" if kind in ("closed pipe", "none") else "1"
    with service(write_end, "--workers", workers, prefix=prefix) as (process, port):
        os.close(write_end)
        count = REQUESTS if kind == "non-blocking pipe" else 2 * PIPELINED
        assert rank(port, count) == count
        assert poll(lambda: dropped(port), 5) > 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
