"""Stores of real bundles, changed while a real server answers."""

import contextlib
import json
import random
import shutil
import time
from dataclasses import replace

import httpx
import pytest

from service.app import create_app
from service.contract import BundleError, Manifest
from service.fleet import Fleet, Serving, in_canary, versions_of
from service.metrics import Metrics
from service.settings import Settings
from tests.service.conftest import BUNDLE, serving

KEY = "a-key-of-more-than-16"


def put(store, name, version, golden=None):
    """The committed bundle under another name; `golden` changes its golden requests."""
    directory = shutil.copytree(BUNDLE, store / name / version)
    if golden is not None:
        path = directory / "golden.json"
        path.write_text(json.dumps(golden(json.loads(path.read_text()))))
    replace(Manifest.read(directory), name=name, version=version).write(directory)
    return directory


@pytest.fixture
def store(tmp_path):
    root = tmp_path / "models"
    put(root, "ranklens", "1")
    return root


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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "does not read"),
        ("[]", "body"),
        ("{}", "active: Field required"),
        ('{"active": 2}', "active"),
        ('{"active": "../2"}', "active"),
        ('{"active": "2", "extra": 1}', "extra"),
        ('{"active": "2", "canary": {"version": "3"}}', r"canary\.share: Field required"),
        ('{"active": "2", "canary": {"version": "3", "share": 1.5}}', r"canary\.share"),
        ('{"active": "2", "shadow": ""}', "shadow"),
    ],
)
def test_what_is_served_is_refused_naming_the_field_that_is_wrong(tmp_path, text, told):
    (tmp_path / "serving.json").write_text(text)
    with pytest.raises(BundleError, match=told):
        Serving.read(tmp_path)


def test_what_is_written_reads_back_and_without_a_file_the_highest_version_is_served(store):
    for number in ("9", "10"):
        put(store, "ranklens", number)
    directory = store / "ranklens"
    assert versions_of(directory) == ["1", "9", "10"]
    assert Serving.read(directory) == Serving("10")
    serving_ = Serving("1", "9", 0.25, "10")
    serving_.write(directory)
    assert Serving.read(directory) == serving_


def test_a_store_without_bundles_and_a_default_that_is_not_there_are_refused(store, tmp_path):
    for settings in (
        Settings(models=tmp_path / "empty"),
        Settings(models=store, default_model="other"),
    ):
        with pytest.raises(BundleError, match=r"empty|default_model"):
            Fleet.load(settings, Metrics())


def test_a_bundle_that_lies_where_another_should_is_refused(store):
    shutil.copytree(store / "ranklens" / "1", store / "ranklens" / "2")
    with pytest.raises(BundleError, match="a store has it where it says"):
        Fleet.load(Settings(models=store), Metrics())


def test_a_request_names_the_model_that_answers(store):
    put(store, "another", "7")
    with served(store, default_model="ranklens") as (client, _):
        assert ask(client).json()["model"]["name"] == "ranklens"
        assert ask(client, model="another").json()["model"]["version"] == "7"
        refused = ask(client, model="third")
        assert refused.status_code == 422
        error = refused.json()["errors"][0]
        assert (error["field"], error["rule"]) == ("model", "one of another, ranklens")


def test_the_canary_gets_the_same_share_of_the_same_users(store):
    put(store, "ranklens", "2")
    Serving("1", "2", 0.3).write(store / "ranklens")
    users = [f"u{i}" for i in range(60)]
    with served(store) as (client, _):
        found = {user: ask(client, user=user).json()["model"] for user in users}
        again = {user: ask(client, user=user).json()["model"] for user in users}
        anonymous = ask(client).json()["model"]
        canaries = [u for u, m in found.items() if m["variant"] == "canary"]
        labels = 'rerank_requests_total{model="ranklens",outcome="ok",variant="canary",version="2"}'
        assert counted(client, labels) == 2 * len(canaries)
    assert found == again
    assert {m["version"] for u, m in found.items() if u in canaries} == {"2"}
    assert anonymous == {"name": "ranklens", "version": "1", "variant": "active"}
    assert 8 <= len(canaries) <= 28
    assert all(in_canary("ranklens", user, 0.6) for user in canaries)  # who is in stays in
    assert sum(in_canary("m", f"u{i}", 0.3) for i in range(4000)) == pytest.approx(1200, abs=120)


def test_a_shadow_ranks_the_same_lists_and_never_answers(store):
    put(store, "ranklens", "2")
    Serving("1", shadow="2").write(store / "ranklens")
    name = 'rerank_shadow_total{model="ranklens",outcome="%s",version="2"}'
    with served(store) as (client, fleet):
        assert {version(client) for _ in range(5)} == {"1"}
        soon(lambda: counted(client, name % "same_slate") == 5)
        shadow = fleet.lineups["ranklens"].engines["2"].session
        shadow.run = None  # whatever is called now fails
        assert version(client) == "1"
        assert ask(client).json()["degraded"] is None
        soon(lambda: counted(client, name % "failed") == 2)


def test_a_change_of_the_file_is_followed_and_what_cannot_be_served_is_refused_once(store):
    put(store, "ranklens", "2")
    bad = put(store, "ranklens", "3", golden=lambda g: [{**g[0], "steps": [9]}, *g[1:]])
    Serving("1").write(store / "ranklens")
    changes = 'rerank_model_changes_total{name="ranklens",outcome="%s"}'
    with served(store) as (client, _):
        assert version(client) == "1"
        Serving("2").write(store / "ranklens")
        soon(lambda: version(client) == "2")
        Serving("3").write(store / "ranklens")
        soon(lambda: counted(client, changes % "refused") == 1)
        time.sleep(0.3)  # six more looks
        assert counted(client, changes % "refused") == 1
        assert version(client) == "2"
        shutil.rmtree(bad)
        put(store, "ranklens", "3")  # mended
        soon(lambda: version(client) == "3")
        assert counted(client, changes % "changed") == 2


def test_any_single_flipped_bit_of_a_bundle_is_refused(store):
    draw = random.Random(0)
    directory = store / "ranklens" / "1"
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        places = {0, len(content) - 1, *(draw.randrange(len(content)) for _ in range(8))}
        for place in places:
            broken = bytearray(content)
            broken[place] ^= 1 << draw.randrange(8)
            path.write_bytes(bytes(broken))
            with pytest.raises(BundleError):
                Manifest.read(directory).verify_files(directory)
        path.write_bytes(content)
    Manifest.read(directory).verify_files(directory)  # and whole it is taken


@pytest.mark.parametrize(("failures", "back"), [(3, True), (2, False)])
def test_a_new_version_that_fails_goes_back_by_itself(store, failures, back):
    put(store, "ranklens", "2")
    Serving("1").write(store / "ranklens")
    with served(store, rollback_failures=3) as (client, fleet):
        assert admin(client, "PUT", "/admin/models/ranklens", json={"active": "2"}).is_success
        session = fleet.lineups["ranklens"].engines["2"].session
        working, session.run = session.run, None
        for _ in range(failures):
            assert ask(client).json()["degraded"] == {"reason": "model_error"}
        session.run = working
        assert version(client) == ("1" if back else "2")
        rolled = 'rerank_model_changes_total{name="ranklens",outcome="rolled_back"}'
        assert counted(client, rolled) == float(back)
        assert Serving.read(store / "ranklens").active == ("1" if back else "2")
        time.sleep(0.2)  # the watcher does not bring it back
        assert version(client) == ("1" if back else "2")


def test_admins_change_roll_back_and_are_told_what_is_served(store):
    put(store, "ranklens", "2")
    Serving("1").write(store / "ranklens")
    broken = put(store, "ranklens", "3")
    (broken / "items.npz").write_bytes(b"no")
    with served(store) as (client, _):
        route = "/admin/models/ranklens"
        assert client.get("/admin/models").status_code == 401
        assert admin(client, "GET", "/admin/models", key="x" * 20).status_code == 403
        told = admin(client, "PUT", route, json={"active": "2"}).json()["models"]["ranklens"]
        assert (told["active"], told["previous"]) == ("2", "1")
        refused = admin(client, "PUT", route, json={"active": "3"})
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        assert admin(client, "PUT", route, json={"active": 3}).status_code == 400
        assert admin(client, "PUT", "/admin/models/none", json={"active": "1"}).status_code == 409
        assert version(client) == "2"
        assert admin(client, "POST", f"{route}/rollback").is_success
        assert version(client) == "1"
        assert admin(client, "POST", f"{route}/rollback").status_code == 409  # nothing before it
        assert KEY not in client.get("/info").text + client.get("/metrics").text


def test_without_admin_keys_there_are_no_admin_routes(client):
    assert client.get("/admin/models").status_code == 404
