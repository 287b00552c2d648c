"""Stores of real bundles, and a real server over them."""

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
from tests.support.servers import serving

KEY = "a-key-of-more-than-16"


def put(store, name, version, golden=None):
    """The committed bundle under another name; `golden` changes its golden requests."""
    directory = shutil.copytree(BUNDLE, store / name / version)
    if golden is not None:
        path = directory / "golden.json"
        path.write_text(json.dumps(golden(json.loads(path.read_text()))))
    replace(Manifest.read(directory), name=name, version=version).write(directory)
    return directory


@contextlib.contextmanager
def served(store, **settings):
    """A client of a server over a store, and the metrics and fleet behind it."""
    keys = store.parent / "keys"
    keys.write_text(f"ops:{KEY}\n")
    asked = {"watch_s": 0.05, "timeout_ms": 60_000, "adaptive_budget": False, **settings}
    settings = Settings(models=store, admin_keys_file=keys, **asked)
    metrics = Metrics()
    fleet = Fleet.load(settings, metrics)
    with (
        serving(create_app(settings, fleet, metrics)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client, fleet


def ask(client, user=None, **body):
    asked = {"candidates": ["10", "100", "1003", "1036"], **body}
    if user is not None:
        asked["user"] = {"id": user}
    return client.post("/rerank", json=asked)


def version(client, **asked):
    return ask(client, **asked).raise_for_status().json()["model"]["version"]


def soon(holds, seconds=20.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def counted(client, line):
    found = [li for li in client.get("/metrics").text.splitlines() if li.startswith(line)]
    return float(found[0].rsplit(" ", 1)[1]) if found else 0.0


def admin(client, method, path, key=KEY, **more):
    return client.request(method, path, headers={"Authorization": f"Bearer {key}"}, **more)


def sealed(directory):
    """Every hash made right again."""
    return Manifest.read(directory).write(directory)


def stranger(store, name, version):
    """A bundle that verifies and ranks otherwise: every item has the features of another."""
    directory = put(store, name, version, golden=lambda golden: [])
    with np.load(directory / "items.npz", allow_pickle=False) as table:
        columns = {key: table[key] for key in table.files}
    others = {key: np.roll(values, 97, 0) for key, values in columns.items() if key != "ids"}
    np.savez(directory / "items.npz", ids=columns["ids"], **others)
    sealed(directory)
    session = Session.load(directory)
    golden = json.loads((BUNDLE / "golden.json").read_text())
    for entry in golden:
        (slate,) = session.run([session.row(CandidateList.from_json(entry["request"]))])
        candidates = entry["request"]["candidates"]
        entry["slate"] = [candidates[i]["id"] for i in slate.indices.tolist()]
        entry["steps"] = slate.steps.tolist()
    (directory / "golden.json").write_text(json.dumps(golden))
    sealed(directory)
    return directory
