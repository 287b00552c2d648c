"""Changes of the served model under load."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from loadtest.commands import Reloads
from loadtest.errors import MISSED, PASSED
from loadtest.openloop import Sample, closed_loop, run, run_until_interrupt
from loadtest.results import failures_of, hardware
from loadtest.scenarios import item_ids
from loadtest.server import serving

WARM_UP_S = 2.0  # of the closed loop before the first measurement
TURN_S = 2.0  # of the closed loop, until the changes are made


def reload_under_load(options: Reloads) -> int:
    """Measure and write the report; raises KeyboardInterrupt after that if it was interrupted."""
    report, interrupt = measure(options)
    options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report, indent=1))
    if interrupt is not None:
        raise interrupt
    return MISSED if report["failed"] or report["changes_refused"] else PASSED


def measure(options: Reloads) -> tuple[dict[str, Any], KeyboardInterrupt | None]:
    """Return latency before and during the changes, and their durations.

    The second value is the interrupt that ended the changes. Raises KeyboardInterrupt for one
    before a request was answered during them.
    """
    ids = item_ids(options.bundle)
    bodies = [json.dumps({"candidates": ids[i : i + 50]}).encode() for i in range(0, 1000, 50)]
    with tempfile.TemporaryDirectory() as directory:
        scratch, key = Path(directory), secrets.token_hex(16)
        (scratch / "keys").write_text(f"bench:{key}\n")
        name = options.bundle.resolve().parent.name
        store = fill_store(scratch / "models", name, options)
        with serving(
            options.bundle, f"--models={store}", admin_keys_file=scratch / "keys",
            timeout_ms=10_000,
        ) as server:  # fmt: skip
            run(closed_loop(server.url, bodies, options.clients, WARM_UP_S))
            before = run(closed_loop(server.url, bodies, options.clients, options.seconds))
            stop = threading.Event()
            with ThreadPoolExecutor(1) as thread:
                changes = thread.submit(
                    change_versions, server.url, name, key, options.changes, options.pause, stop
                )
                during: list[Sample] = []
                interrupt: KeyboardInterrupt | None = None
                while not changes.done() and interrupt is None:
                    interrupt = run_until_interrupt(
                        closed_loop(server.url, bodies, options.clients, TURN_S, into=during)
                    )
                stop.set()
            durations, errors = changes.result()
    if interrupt is not None and not during:
        raise interrupt
    calm, changing = summary(before), summary(during)
    report = {
        "command": f"python -m loadtest reloads --changes {options.changes}",
        "machine": f"{hardware()}, shared with the clients",
        "interrupted": interrupt is not None,
        "clients": options.clients,
        "changes": len(durations),
        "pause_s": options.pause,
        "changes_refused": errors,
        "change_s_mean": round(float(np.mean(durations)), 3) if durations else None,
        "failed": calm["failed"] + changing["failed"],
        "failures": dict(failures_of([*before, *during])),
        "before": calm,
        "during": changing,
        "p99_during_over_before": round(changing["p99_ms"] / calm["p99_ms"], 3),
    }
    return report, interrupt


def fill_store(store: Path, name: str, options: Reloads) -> Path:
    """Make a store with one version more than there are changes, the first one active."""
    for version in range(1, options.changes + 2):
        # Linked, not copied: fifty bundles would take half of a small disk.
        directory = store / name / str(version)
        shutil.copytree(options.bundle, directory, copy_function=link_or_copy)
        renamed(directory, str(version))
    (store / name / "serving.json").write_text('{"active": "1"}')
    return store


def change_versions(
    url: str, name: str, key: str, changes: int, pause_s: float, stop: threading.Event
) -> tuple[list[float], list[str]]:
    """Activate versions 2, 3 and so on until `stop`; return the durations (s) and the errors."""
    durations, errors = [], []
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, timeout=60, headers=headers) as admin:
        for version in range(2, changes + 2):
            began = time.monotonic()
            try:
                response = admin.put(f"/admin/models/{name}", json={"active": str(version)})
            except httpx.HTTPError as error:
                errors.append(f"{type(error).__name__}: {error}")
                break  # the service is gone
            durations.append(time.monotonic() - began)
            if not response.is_success:
                errors.append(response.text)
            if stop.wait(pause_s):
                break
    return durations, errors


def link_or_copy(source: str, target: str) -> None:
    """Link a file, or copy it to another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def renamed(directory: Path, version: str) -> None:
    """Give a copied bundle another version, and hash its manifest again."""
    path = directory / "manifest.json"
    content = json.dumps({**json.loads(path.read_bytes()), "version": version}).encode()
    digest = f"{hashlib.sha256(content).hexdigest()}\n".encode()
    for name, data in ((path.name, content), ("manifest.sha256", digest)):
        (directory / name).unlink()  # it may be a link: the original must not change
        (directory / name).write_bytes(data)


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the number of requests, of those without a ranked slate, and latency."""
    latency = 1e3 * np.array([sample.latency_s for sample in samples])
    return {
        "requests": len(samples),
        "failed": sum(s.status != 200 or s.budget is None for s in samples),
        "p50_ms": round(float(np.quantile(latency, 0.5)), 3),
        "p99_ms": round(float(np.quantile(latency, 0.99)), 3),
    }
