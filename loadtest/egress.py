"""Connections of a service beyond this machine, as strace sees them while it ranks."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.connections import Pool
from loadtest.contract_commands import Egress
from loadtest.errors import MISSED, PASSED, UsageError
from loadtest.openloop import Sample, run, send_request
from loadtest.processes import bound_to_parent
from loadtest.results import commit, failures_of, hardware
from loadtest.scenarios import Catalogue, RequestOptions, scenario
from loadtest.server import serving_under

CLIENTS = 8
END_S = 10.0  # until the tracer has written its last line
# Calls that name a peer; uvloop writes responses by others, so that tracing costs it little.
CALLS = "trace=connect,sendto,sendmsg,sendmmsg"
ADDRESS = re.compile(r'sa_family=AF_(\w+)|inet_(?:addr|pton)\((?:AF_INET6, )?"([^"]+)"')
LOCAL = {"UNIX", "NETLINK", "UNSPEC"}  # families that do not leave the machine
MAX_LINES = 20
CONTROL = """
import os, socket
os.fork()
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))
except OSError:
    pass  # no route: the call is seen all the same
try:
    os.wait()
except ChildProcessError:
    pass
"""


@dataclass
class Peers:
    """Calls by the family of the peer, and the calls to peers beyond this machine."""

    families: Counter[str] = field(default_factory=Counter)
    beyond: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, lines: Iterable[str]) -> Peers:
        """Classify the lines of a trace; calls without an address are left out."""
        peers = cls()
        for line in lines:
            parts = ADDRESS.findall(line)
            family = next((name for name, _ in parts if name), None)
            if family is None:
                continue
            peers.families[family] += 1
            addresses = [address for _, address in parts if address]
            if family not in LOCAL and not (addresses and all(map(is_loopback, addresses))):
                peers.beyond.append(line.strip())
        return peers


def is_loopback(address: str) -> bool:
    """Return True for 127.0.0.0/8 and ::1, also as an IPv4 address in IPv6."""
    ip = ipaddress.ip_address(address)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def tracer(log: Path) -> list[str]:
    """Return the command that traces another one and all its processes into a file.

    The traced process stays this one's child (-D). Raises UsageError without strace.
    """
    path = shutil.which("strace")
    if path is None:
        raise UsageError("strace: not installed; install the package strace of your distribution")
    return [path, "-D", "-f", "--seccomp-bpf", "-e", CALLS, "-o", str(log)]


def read_trace(log: Path, pid: int) -> list[str]:
    """Return the lines of a trace, which ends after the process.

    Raises UsageError when END_S seconds later the end of the process is not in it.
    """
    deadline = time.monotonic() + END_S
    end = re.compile(rf"^{pid} +\+\+\+ ", re.M)
    while not (log.exists() and end.search(log.read_text("utf-8", "replace"))):
        if time.monotonic() > deadline:
            raise UsageError("strace: the trace has no end; may this process trace its children?")
        time.sleep(0.05)
    return log.read_text("utf-8", "replace").splitlines()


def check_tracer() -> None:
    """Trace a program that addresses another machine. Raises UsageError if that is not seen.

    Connecting a datagram socket sends nothing.
    """
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "trace"
        process = subprocess.Popen(
            bound_to_parent([*tracer(log), sys.executable, "-ES", "-c", CONTROL]),
            stderr=subprocess.PIPE,
        )
        _, errors = process.communicate()
        try:
            peers = Peers.of(read_trace(log, process.pid))
        except UsageError as error:
            raise UsageError(f"{error} {errors.decode(errors='replace').strip()}") from None
    if len(peers.beyond) != 2:  # by the process and by its child
        raise UsageError(f"strace: misses connections of a test program, saw {peers.beyond}")


def egress(options: Egress) -> int:
    """Measure and write the report. Raises UsageError without a strace that works."""
    began = time.monotonic()
    check_tracer()
    catalogue = Catalogue.of(options.bundle)
    requests = RequestOptions(min(50, len(catalogue.ids)))
    bodies = scenario("mixed", catalogue, requests).bodies
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "trace"
        arguments = [f"--workers={options.workers}"]
        with serving_under(tracer(log), options.bundle, arguments) as server:
            samples = run(send_count(server.url, bodies, options.requests))
            time.sleep(options.idle)
        lines = read_trace(log, server.process.pid)
    report = report_of(options, samples, lines, time.monotonic() - began)
    text = json.dumps(report, indent=1)
    print(text)
    options.out.write_text(text + "\n", "utf-8")
    return MISSED if report["calls_beyond_this_machine"] or report["failures"] else PASSED


async def send_count(url: str, bodies: Sequence[bytes], count: int) -> list[Sample]:
    """Send `count` requests from a few clients and return their samples."""
    pool, began = Pool(url), time.monotonic()
    queue = iter(itertools.islice(itertools.cycle(bodies), count))

    async def client() -> list[Sample]:
        return [
            await send_request(pool, "/rerank", body, time.monotonic() - began, began)
            for body in queue
        ]

    parts = await asyncio.gather(*(client() for _ in range(CLIENTS)))
    await pool.close()
    return [sample for samples in parts for sample in samples]


def report_of(
    options: Egress, samples: Sequence[Sample], lines: Sequence[str], seconds: float
) -> dict[str, Any]:
    """Return the report for JSON."""
    peers = Peers.of(lines)
    return {
        "command": f"python -m loadtest egress --requests {options.requests} "
        f"--workers {options.workers}",
        "commit": commit(),
        "machine": hardware(),
        "seconds": round(seconds, 1),
        "requests": len(samples),
        "failures": dict(failures_of(samples)),
        "workers": options.workers,
        "idle_s": options.idle,
        "traced_threads": len({line.split(" ", 1)[0] for line in lines}),
        "calls_by_family": dict(sorted(peers.families.items())),
        "calls_beyond_this_machine": len(peers.beyond),
        "examples": peers.beyond[:MAX_LINES],
    }
