"""Stores of real bundles, changed while a real server answers."""

import json
import os
import random
import shutil
import threading
import time
from dataclasses import replace

import pytest

from service.engine.contract import BundleError, Manifest
from service.metrics import Metrics
from service.models.fleet import Fleet
from service.models.store import ServingConfig, in_canary
from service.settings import Settings
from tests.support.stores import (
    admin_request,
    copy_bundle,
    metric_value,
    post_rerank,
    served_version,
    shuffled_bundle,
    store_server,
    update_hashes,
    wait_until,
)

ROUTE = "/admin/models/ranklens"
CHANGES = 'rerank_model_changes_total{name="ranklens",outcome="%s"}'


def test_a_store_without_bundles_and_a_default_that_is_not_there_are_refused(store, tmp_path):
    (tmp_path / "empty").mkdir()
    for settings in (
        Settings(models=tmp_path / "absent"),
        Settings(models=tmp_path / "empty"),
        Settings(models=store, default_model="other"),
    ):
        with pytest.raises(BundleError, match=r"absent|empty|RERANK_DEFAULT_MODEL"):
            Fleet.load(settings, Metrics())


def test_a_bundle_that_lies_where_another_should_is_refused(store):
    shutil.copytree(store / "ranklens" / "1", store / "ranklens" / "2")
    with pytest.raises(BundleError, match="the manifest says ranklens/1; a bundle must lie at NAME/VERSION"):
        Fleet.load(Settings(models=store), Metrics())


def test_a_version_may_be_a_link_to_where_its_files_are(store, tmp_path):
    shutil.move(store / "ranklens" / "1", tmp_path / "some-digest")
    (store / "ranklens" / "1").symlink_to(tmp_path / "some-digest")
    fleet = Fleet.load(Settings(models=store), Metrics())
    assert fleet.models["ranklens"].active.manifest.version == "1"


def test_a_request_names_the_model_that_answers(store):
    copy_bundle(store, "ranklens", "2")
    copy_bundle(store, "another", "7")
    with store_server(store, default_model="ranklens") as (client, _):
        told = post_rerank(client).json()["model"]
        assert told == {"name": "ranklens", "version": "2", "variant": "active"}
        told = post_rerank(client, model="another").json()["model"]
        assert told == {"name": "another", "version": "7", "variant": "active"}
        refused = post_rerank(client, model="third")
        assert refused.status_code == 422
        (error,) = refused.json()["errors"]
        assert error == {
            "field": "model", "rule": "one of another, ranklens", "value": '"third"',
        }  # fmt: skip
        body = {"candidates": ["10", "100"]}
        lists = [{**body, "model": name} for name in ("another", "ranklens", "another")]
        answer = client.post("/rerank/batch", json={"requests": lists}).raise_for_status().json()
        names = [response["model"]["name"] for response in answer["responses"]]
        assert names == ["another", "ranklens", "another"]
        lists[1]["model"] = "third"
        refused = client.post("/rerank/batch", json={"requests": lists})
        assert refused.json()["errors"][0]["field"] == "requests[1].model"
    with store_server(store) as (client, _):  # else the first by name
        assert post_rerank(client).json()["model"]["name"] == "another"


def test_the_canary_gets_the_same_users_every_time(store):
    copy_bundle(store, "ranklens", "2")
    ServingConfig("1", "2", 0.3).write(store / "ranklens")
    users = [f"u{i}" for i in range(40)]
    with store_server(store) as (client, _):
        found = {user: post_rerank(client, user=user).json()["model"] for user in users}
        again = {user: post_rerank(client, user=user).json()["model"] for user in users}
        anonymous = post_rerank(client).json()["model"]
        canaries = {user for user, model in found.items() if model["variant"] == "canary"}
        labels = 'rerank_requests_total{model="ranklens",outcome="ok",variant="%s",version="%s"}'
        assert metric_value(client, labels % ("canary", "2")) == 2 * len(canaries)
        assert metric_value(client, labels % ("active", "1")) == 2 * (40 - len(canaries)) + 1
    assert found == again
    assert canaries == {user for user in users if in_canary("ranklens", user, 0.3)}
    for user, model in found.items():
        assert model["version"] == ("2" if user in canaries else "1")
    assert anonymous == {"name": "ranklens", "version": "1", "variant": "active"}


SHADOW = 'rerank_shadow_total{model="ranklens",outcome="%s",version="2"}'


def test_a_shadow_ranks_the_same_lists_and_never_answers(store):
    copy_bundle(store, "ranklens", "2")
    ServingConfig("1", shadow="2").write(store / "ranklens")
    with store_server(store) as (client, fleet):
        assert {served_version(client) for _ in range(5)} == {"1"}
        wait_until(lambda: metric_value(client, SHADOW % "same_slate") == 5)
        shadow = fleet.models["ranklens"].deployments["2"].session
        shadow.run = None  # whatever is called now fails
        assert served_version(client) == "1"
        assert post_rerank(client).json()["degraded"] is None
        wait_until(lambda: metric_value(client, SHADOW % "failed") == 2)


def test_a_shadow_is_asked_what_the_client_asked(store, items):
    copy_bundle(store, "ranklens", "2")
    ServingConfig("1", shadow="2").write(store / "ranklens")
    knobs = (
        {"reasoning": {"entropy_threshold": -1}, "temperatures": {"reason": 100}},
        {"reasoning": {"entropy_threshold": 100}},
        {"reasoning": {"budget": 0}},
        {"slate_size": 3},
        {"constraints": {"pinned": {items[7]: 0}, "blocked": [items[0]]}},
    )
    draw = random.Random(0)
    with store_server(store) as (client, _):
        for knob in knobs:
            for _ in range(6):
                history = draw.sample(items, 20)
                asked = {"candidates": items[:8] + draw.sample(items[8:], 40), **knob}
                answer = client.post("/rerank", json={**asked, "user": {"history": history}})
                answer.raise_for_status()
        wait_until(lambda: metric_value(client, SHADOW % "same_slate") == 6 * len(knobs))


def test_a_shadow_that_ranks_otherwise_is_told_apart(store, items):
    shuffled_bundle(store, "ranklens", "2")
    ServingConfig("1", shadow="2").write(store / "ranklens")
    with store_server(store) as (client, _):
        for start in range(0, 300, 50):
            post_rerank(client, candidates=items[start : start + 50]).raise_for_status()
        wait_until(lambda: metric_value(client, SHADOW % "different") == 6)
        post_rerank(client, candidates=items[:1]).raise_for_status()
        wait_until(lambda: metric_value(client, SHADOW % "same_slate") == 1)


def test_a_change_of_the_file_is_followed_within_a_second(store):
    copy_bundle(store, "ranklens", "2")
    ServingConfig("1").write(store / "ranklens")
    took = []
    with store_server(store) as (client, _):
        for wanted in ("2", "1", "2"):
            began = time.monotonic()
            ServingConfig(wanted).write(store / "ranklens")
            wait_until(lambda wanted=wanted: served_version(client) == wanted)
            took.append(time.monotonic() - began)
        assert metric_value(client, CHANGES % "changed") == 3
    assert min(took) < 1.0  # a shared machine may stall once


def flipped(directory):
    path = directory / "items.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def otherwise(directory):
    golden = json.loads((directory / "golden.json").read_text())
    golden[0]["slate"][:2] = golden[0]["slate"][1::-1]
    (directory / "golden.json").write_text(json.dumps(golden))
    update_hashes(directory)


def no_golden(directory):
    (directory / "golden.json").write_text("[3]")
    update_hashes(directory)


def no_table(directory):
    (directory / "items.npz").write_bytes(b"PK\x03\x04 and no more")
    update_hashes(directory)


def no_graph(directory):
    (directory / "generator.onnx").write_bytes(b"no graph")
    update_hashes(directory)


def wide_graph(directory):
    manifest = Manifest.read(directory)
    replace(manifest, numbers=manifest.numbers + 1).write(directory)


BREAKINGS = [flipped, otherwise, no_golden, no_table, no_graph, wide_graph, shutil.rmtree]


def test_what_cannot_be_served_is_refused_once_until_it_is_mended(store):
    for number, broken in enumerate(BREAKINGS, start=2):
        broken(copy_bundle(store, "ranklens", str(number)))
    ServingConfig("1").write(store / "ranklens")
    with store_server(store, watch_s=0.02) as (client, _):
        for number, broken in enumerate(BREAKINGS, start=2):
            ServingConfig(str(number)).write(store / "ranklens")
            wait_until(lambda count=number - 1: metric_value(client, CHANGES % "refused") >= count)
            time.sleep(0.1)  # five more looks
            assert (broken.__name__, metric_value(client, CHANGES % "refused")) == (
                broken.__name__, number - 1,
            )  # fmt: skip
            assert served_version(client) == "1"
        copy_bundle(store.parent / "mended", "ranklens", "2").rename(store / "ranklens" / "mended")
        (store / "ranklens" / "2").rename(store / "ranklens" / ".broken")
        (store / "ranklens" / "mended").rename(store / "ranklens" / "2")
        ServingConfig("2").write(store / "ranklens")
        wait_until(lambda: served_version(client) == "2")
        assert metric_value(client, CHANGES % "changed") == 1


@pytest.mark.parametrize("broken", BREAKINGS[1:6], ids=lambda broken: broken.__name__)
def test_a_store_that_cannot_be_served_is_refused_at_the_start(store, broken):
    broken(store / "ranklens" / "1")
    with pytest.raises(BundleError):
        Fleet.load(Settings(models=store), Metrics())


def test_a_broken_file_is_counted_once_and_what_was_served_goes_on(store):
    copy_bundle(store, "ranklens", "2")
    ServingConfig("1").write(store / "ranklens")
    with store_server(store, watch_s=0.02) as (client, _):
        (store / "ranklens" / "serving.json").write_text('{"active": 2}')
        wait_until(lambda: metric_value(client, CHANGES % "refused") == 1)
        time.sleep(0.1)
        assert metric_value(client, CHANGES % "refused") == 1
        assert served_version(client) == "1"
        ServingConfig("2").write(store / "ranklens")
        wait_until(lambda: served_version(client) == "2")


def test_a_store_is_followed_while_files_come_and_go(store):
    copy_bundle(store, "ranklens", "2")
    ServingConfig("1").write(store / "ranklens")
    stop = threading.Event()

    def churn():
        number = 0
        while not stop.is_set():
            directory = store / "ranklens" / f"0.{number % 3}"
            directory.mkdir(parents=True)
            for name in ("manifest.json", "a", "b", "c", "d", "e"):
                (directory / name).write_text("half a bundle")
            shutil.rmtree(directory)
            number += 1

    with store_server(store, watch_s=0.001) as (client, fleet):
        thread = threading.Thread(target=churn)
        thread.start()
        for _ in range(100):
            served_version(client)
        stop.set()
        thread.join()
        assert not fleet._watcher.done()
        ServingConfig("2").write(store / "ranklens")
        wait_until(lambda: served_version(client) == "2")


def test_a_model_that_comes_later_is_served(store):
    with store_server(store) as (client, _):
        assert post_rerank(client, model="zebra").status_code == 422
        copy_bundle(store.parent / "copy", "zebra", "1")
        (store.parent / "copy" / "zebra").rename(store / "zebra")
        wait_until(lambda: post_rerank(client, model="zebra").status_code == 200)
        assert post_rerank(client).json()["model"]["name"] == "ranklens"


def broken_run(rows):
    raise RuntimeError("this version cannot")


def fail(client, times):
    for _ in range(times):
        assert post_rerank(client).json()["degraded"] == {"reason": "model_error"}


@pytest.fixture
def pair(store):
    """Version 1 is served, 2 is there."""
    copy_bundle(store, "ranklens", "2")
    ServingConfig("1").write(store / "ranklens")
    return store


@pytest.mark.parametrize(("failures", "back"), [(3, True), (2, False)])
def test_a_new_version_that_fails_goes_back_by_itself(pair, failures, back):
    with store_server(pair, watch_s=0.02, rollback_failures=3) as (client, fleet):
        assert admin_request(client, "PUT", ROUTE, json={"active": "2"}).is_success
        session = fleet.models["ranklens"].active.session
        working, session.run = session.run, broken_run
        fail(client, failures)
        session.run = working
        expected = "1" if back else "2"
        assert served_version(client) == expected
        assert metric_value(client, CHANGES % "rolled_back") == float(back)
        assert ServingConfig.read(pair / "ranklens") == ServingConfig(expected)
        time.sleep(0.1)  # the watcher does not bring it back
        assert served_version(client) == expected


@pytest.mark.parametrize(
    "spared", [{"probation_s": 0.001}, {"rollback_share": 0.6}], ids=["late", "seldom"]
)
def test_failures_after_probation_or_among_many_answers_change_nothing(pair, spared):
    with store_server(pair, rollback_failures=2, **spared) as (client, fleet):
        assert admin_request(client, "PUT", ROUTE, json={"active": "2"}).is_success
        session = fleet.models["ranklens"].active.session
        for _ in range(4):
            assert served_version(client) == "2"
        working, session.run = session.run, broken_run
        fail(client, 4)
        session.run = working
        assert served_version(client) == "2"
        assert metric_value(client, CHANGES % "rolled_back") == 0


def test_the_first_version_has_nowhere_to_go_back_to(store):
    with store_server(store, rollback_failures=1) as (client, fleet):
        session = fleet.models["ranklens"].active.session
        working, session.run = session.run, broken_run
        fail(client, 3)
        session.run = working
        assert served_version(client) == "1"


def test_what_went_back_is_served_when_it_is_asked_for_again(pair):
    with store_server(pair, watch_s=0.02, rollback_failures=1) as (client, fleet):
        ServingConfig("2").write(pair / "ranklens")
        wait_until(lambda: served_version(client) == "2")
        fleet.models["ranklens"].active.session.run = broken_run
        fail(client, 1)
        assert served_version(client) == "1"
        ServingConfig("2").write(pair / "ranklens")  # mended, say: it is loaded anew
        wait_until(lambda: served_version(client) == "2")


def test_it_goes_back_where_the_store_cannot_be_written_and_stays_there(pair):
    with store_server(pair, watch_s=0.02, rollback_failures=1) as (client, fleet):
        ServingConfig("2").write(pair / "ranklens")
        wait_until(lambda: served_version(client) == "2")
        (pair / "ranklens" / f".serving.json.{os.getpid()}").mkdir()
        fleet.models["ranklens"].active.session.run = broken_run
        fail(client, 1)  # an answer, not an error
        time.sleep(0.1)  # the watcher does not bring it back
        assert served_version(client) == "1"
        assert ServingConfig.read(pair / "ranklens") == ServingConfig("2")


def test_a_change_that_was_loading_while_it_went_back_is_refused(pair):
    copy_bundle(pair, "ranklens", "3")
    with store_server(pair, watch_s=0, rollback_failures=1) as (client, fleet):
        assert admin_request(client, "PUT", ROUTE, json={"active": "2"}).is_success
        engine, release = fleet.models["ranklens"].active, threading.Event()
        fleet._loader.submit(release.wait)  # the next version loads after that
        asked = {"active": "2", "canary": {"version": "3", "share": 0.5}}
        found = []
        thread = threading.Thread(
            target=lambda: found.append(admin_request(client, "PUT", ROUTE, json=asked))
        )
        thread.start()
        wait_until(fleet._changing.locked)
        engine.session.run = broken_run
        fail(client, 1)
        release.set()
        thread.join()
        assert found[0].status_code == 409
        assert {served_version(client, user=f"u{i}") for i in range(8)} == {"1"}
        assert ServingConfig.read(pair / "ranklens") == ServingConfig("1")


def test_probation_is_of_the_active_version_whatever_stands_beside_it(pair):
    copy_bundle(pair, "ranklens", "3")
    with store_server(pair, watch_s=0, rollback_failures=2) as (client, fleet):
        assert admin_request(client, "PUT", ROUTE, json={"active": "2"}).is_success
        engine = fleet.models["ranklens"].active
        fleet.models["ranklens"].active.session.run = broken_run
        fail(client, 1)
        since = engine.since
        assert admin_request(client, "PUT", ROUTE, json={"active": "2", "shadow": "3"}).is_success
        assert fleet.models["ranklens"].active is engine
        assert (engine.since, engine.failed) == (since, 1)
        fail(client, 1)
        assert served_version(client) == "1"


def test_a_canary_that_becomes_active_begins_its_probation_anew(pair):
    canary = {"active": "1", "canary": {"version": "2", "share": 1.0}}
    with store_server(pair, watch_s=0, rollback_failures=2) as (client, fleet):
        assert admin_request(client, "PUT", ROUTE, json=canary).is_success
        engine = fleet.models["ranklens"].deployments["2"]
        working, engine.session.run = engine.session.run, broken_run
        assert post_rerank(client, user="u").json()["degraded"] == {"reason": "model_error"}
        assert admin_request(client, "PUT", ROUTE, json={"active": "2"}).is_success
        assert fleet.models["ranklens"].active is engine  # not loaded twice
        fail(client, 1)
        engine.session.run = working
        assert served_version(client) == "2"
