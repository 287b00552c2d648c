"""python -m loadtest reloads: change the served model again and again while clients ask.

Many versions of one bundle in a store, a closed loop of a few clients; first alone, then while an
admin serves one version after the other. Writes what failed, and the latency of both times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from loadtest.openloop import Sample, closed, run
from loadtest.server import ServerError, serving


def main(arguments: Sequence[str]) -> int:
    """Measure and write; exit status 1 where a request failed or a change was refused."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest reloads", description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--bundle", type=Path, default=Path("bundles/ranklens/1"), help="to serve")
    parser.add_argument("--changes", type=int, default=50, help="of the served version")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two changes")
    parser.add_argument("--clients", type=int, default=2, help="that ask all the time")
    parser.add_argument("--seconds", type=float, default=15.0, help="without changes, before")
    parser.add_argument("--out", type=Path, default=Path("docs/reports/reloads.json"), help="where")
    asked = parser.parse_args(arguments)
    try:
        report = measure(asked)
    except (OSError, ServerError, httpx.HTTPError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    asked.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report, indent=1))
    return 1 if report["failed"] or report["changes_refused"] else 0


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Both times, and what the changes took."""
    with np.load(asked.bundle / "items.npz", allow_pickle=False) as table:
        known = table["ids"].tolist()
    bodies = [json.dumps({"candidates": known[i : i + 50]}).encode() for i in range(0, 1000, 50)]
    with tempfile.TemporaryDirectory() as directory:
        scratch, key = Path(directory), secrets.token_hex(16)
        (scratch / "keys").write_text(f"bench:{key}\n")
        store = scratch / "models"
        name = asked.bundle.resolve().parent.name
        for version in range(1, asked.changes + 2):
            # Linked, not copied: fifty bundles would take half of a small disk.
            directory = store / name / str(version)
            shutil.copytree(asked.bundle, directory, copy_function=linked)
            renamed(directory, str(version))
        (store / name / "serving.json").write_text('{"active": "1"}')
        with serving(
            asked.bundle, f"--models={store}", admin_keys_file=scratch / "keys", timeout_ms=10_000
        ) as server:
            run(closed(server.url, bodies, asked.clients, 2.0))
            before = run(closed(server.url, bodies, asked.clients, asked.seconds))
            with ThreadPoolExecutor(1) as beside:
                changes = beside.submit(changed, server.url, name, key, asked.changes, asked.pause)
                during: list[Sample] = []
                while not changes.done():
                    during += run(closed(server.url, bodies, asked.clients, 2.0))
            took, errors = changes.result()
    one, other = told(before), told(during)
    return {
        "command": f"python -m loadtest reloads --changes {asked.changes}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared with the clients",
        "clients": asked.clients,
        "changes": len(took),
        "pause_s": asked.pause,
        "changes_refused": errors,
        "change_s_mean": round(float(np.mean(took)), 3) if took else None,
        "failed": one["failed"] + other["failed"],
        "before": one,
        "during": other,
        "p99_during_over_before": round(other["p99_ms"] / one["p99_ms"], 3),
    }


def changed(
    url: str, name: str, key: str, changes: int, pause_s: float
) -> tuple[list[float], list[str]]:
    """Serve versions 2, 3 and so on; how long each took (s), and what was refused."""
    took, errors = [], []
    with httpx.Client(
        base_url=url, timeout=60, headers={"Authorization": f"Bearer {key}"}
    ) as admin:
        for version in range(2, changes + 2):
            began = time.monotonic()
            try:
                answer = admin.put(f"/admin/models/{name}", json={"active": str(version)})
            except httpx.HTTPError as error:
                errors.append(f"{type(error).__name__}: {error}")
                break  # there is nobody to ask any more
            took.append(time.monotonic() - began)
            if not answer.is_success:
                errors.append(answer.text)
            time.sleep(pause_s)
    return took, errors


def linked(source: str, target: str) -> None:
    """Another name of a file, or a copy on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def renamed(directory: Path, version: str) -> None:
    """Give a copied bundle another version, sealed again."""
    path = directory / "manifest.json"
    content = json.dumps({**json.loads(path.read_bytes()), "version": version}).encode()
    seal = f"{hashlib.sha256(content).hexdigest()}\n".encode()
    for name, written in ((path.name, content), ("manifest.sha256", seal)):
        (directory / name).unlink()  # a link: the original must not change
        (directory / name).write_bytes(written)


def told(samples: Sequence[Sample]) -> dict[str, Any]:
    """Requests, those without a ranked slate, and latency."""
    latency = 1e3 * np.array([sample.latency_s for sample in samples])
    return {
        "requests": len(samples),
        "failed": sum(s.status != 200 or s.budget is None for s in samples),
        "p50_ms": round(float(np.quantile(latency, 0.5)), 3),
        "p99_ms": round(float(np.quantile(latency, 0.99)), 3),
    }
