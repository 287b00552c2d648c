"""Stores of bundles, a server over a store, and requests to it."""

import contextlib
import json
import shutil
import time
from dataclasses import replace

import httpx
import numpy as np

from service.engine.contract import Manifest
from service.engine.features.candidates import CandidateList
from service.engine.session import Session
from service.http.api import create_app
from service.metrics import Metrics
from service.models.fleet import Fleet
from service.settings import Settings
from tests.support.bundles import BUNDLE
from tests.support.servers import serving, short_warm_up

KEY = "a-key-of-more-than-16"


def copy_bundle(store, name, version, golden=None):
    """Copy the committed bundle to another name; `golden` maps its golden requests to new ones."""
    directory = shutil.copytree(BUNDLE, store / name / version)
    if golden is not None:
        path = directory / "golden.json"
        path.write_text(json.dumps(golden(json.loads(path.read_text()))))
    replace(Manifest.read(directory), name=name, version=version).write(directory)
    return directory


@contextlib.contextmanager
def store_server(store, **settings):
    """Yield a client of a server over a store, and its fleet."""
    keys = store.parent / "keys"
    keys.write_text(f"ops:{KEY}\n")
    defaults = {"watch_s": 0.05, "timeout_ms": 60_000, "adaptive_budget": False}
    values = Settings(models=store, admin_keys_file=keys, **{**defaults, **settings})
    metrics = Metrics()
    with short_warm_up():
        fleet = Fleet.load(values, metrics)
    with (
        serving(create_app(values, fleet, metrics)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client, fleet


def post_rerank(client, user=None, **body):
    payload = {"candidates": ["10", "100", "1003", "1036"], **body}
    if user is not None:
        payload["user"] = {"id": user}
    return client.post("/rerank", json=payload)


def served_version(client, **body):
    return post_rerank(client, **body).raise_for_status().json()["model"]["version"]


def wait_until(holds, seconds=20.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "the condition did not hold in time"
        time.sleep(0.02)


def metric_value(client, line):
    lines = [li for li in client.get("/metrics").text.splitlines() if li.startswith(line)]
    return float(lines[0].rsplit(" ", 1)[1]) if lines else 0.0


def admin_request(client, method, path, key=KEY, **more):
    return client.request(method, path, headers={"Authorization": f"Bearer {key}"}, **more)


def update_hashes(directory):
    """Rewrite the manifest with the hashes of the files."""
    return Manifest.read(directory).write(directory)


def shuffled_bundle(store, name, version):
    """Copy the bundle with item rows permuted: it verifies and ranks differently."""
    directory = copy_bundle(store, name, version, golden=lambda golden: [])
    path = directory / "generator.rows.npy"
    rows = np.load(path)
    np.save(path, np.concatenate([np.roll(rows[:-1], 97, 0), rows[-1:]]))
    (directory / "golden.intent.json").write_text("[]")
    update_hashes(directory)
    session = Session.load(directory)
    golden = json.loads((BUNDLE / "golden.json").read_text())
    for entry in golden:
        (slate,) = session.run([session.row(CandidateList.from_json(entry["request"]))])
        candidates = entry["request"]["candidates"]
        entry["slate"] = [candidates[i]["id"] for i in slate.indices.tolist()]
        entry["steps"] = slate.steps.tolist()
    (directory / "golden.json").write_text(json.dumps(golden))
    update_hashes(directory)
    return directory
