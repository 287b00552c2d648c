"""Probation of a new version, and rollbacks, behind a real server."""

import os
import threading
import time

import pytest

from service.models import store as stores
from service.models.store import ServingConfig, exclusive_config
from tests.support.stores import (
    admin_request,
    copy_bundle,
    metric_value,
    post_rerank,
    served_version,
    store_server,
    wait_until,
)

ROUTE = "/admin/models/ranklens"
CHANGES = 'rerank_model_changes_total{name="ranklens",outcome="%s"}'


def broken_run(rows):
    raise RuntimeError("this version cannot")


def stored_version(pair):
    return ServingConfig.read(pair / "ranklens").active


def fail(client, times):
    for _ in range(times):
        assert post_rerank(client).json()["degraded"] == {
            "reason": "model_error",
            "reasons": ["model_error"],
        }


@pytest.fixture
def pair(store):
    """A store of versions 1, which is active, and 2."""
    copy_bundle(store, "ranklens", "2")
    ServingConfig("1").write(store / "ranklens")
    return store


@pytest.mark.parametrize(("failures", "rolled_back"), [(3, True), (2, False)])
def test_a_new_version_that_fails_too_often_is_rolled_back(pair, failures, rolled_back):
    with store_server(pair, watch_s=0.02, rollback_failures=3) as (client, fleet):
        assert admin_request(client, "PUT", ROUTE, json={"active": "2"}).is_success
        session = fleet.models["ranklens"].active.session
        working, session.run = session.run, broken_run
        fail(client, failures)
        session.run = working
        expected = "1" if rolled_back else "2"
        assert served_version(client) == expected
        assert metric_value(client, CHANGES % "rolled_back") == float(rolled_back)
        wait_until(lambda: stored_version(pair) == expected)
        time.sleep(0.1)  # the watcher does not activate it again
        assert served_version(client) == expected


@pytest.mark.parametrize(
    "limits", [{"probation_s": 0.001}, {"rollback_share": 0.6}], ids=["late", "seldom"]
)
def test_late_or_rare_failures_roll_nothing_back(pair, limits):
    with store_server(pair, rollback_failures=2, **limits) as (client, fleet):
        assert admin_request(client, "PUT", ROUTE, json={"active": "2"}).is_success
        session = fleet.models["ranklens"].active.session
        for _ in range(4):
            assert served_version(client) == "2"
        working, session.run = session.run, broken_run
        fail(client, 4)
        session.run = working
        assert served_version(client) == "2"
        assert metric_value(client, CHANGES % "rolled_back") == 0


def test_the_first_version_is_not_rolled_back(store):
    with store_server(store, rollback_failures=1) as (client, fleet):
        session = fleet.models["ranklens"].active.session
        working, session.run = session.run, broken_run
        fail(client, 3)
        session.run = working
        assert served_version(client) == "1"


def test_a_version_that_was_rolled_back_is_served_when_the_store_names_it_again(pair):
    with store_server(pair, watch_s=0.02, rollback_failures=1) as (client, fleet):
        ServingConfig("2").write(pair / "ranklens")
        wait_until(lambda: served_version(client) == "2")
        fleet.models["ranklens"].active.session.run = broken_run
        fail(client, 1)
        assert served_version(client) == "1"
        wait_until(lambda: stored_version(pair) == "1")
        ServingConfig("2").write(pair / "ranklens")  # it is loaded again
        wait_until(lambda: served_version(client) == "2")


def test_a_rollback_holds_in_a_worker_that_cannot_write_the_store(pair):
    with store_server(pair, watch_s=0.02, rollback_failures=1) as (client, fleet):
        ServingConfig("2").write(pair / "ranklens")
        wait_until(lambda: served_version(client) == "2")
        (pair / "ranklens" / f".serving.json.{os.getpid()}").mkdir()
        fleet.models["ranklens"].active.session.run = broken_run
        fail(client, 1)  # a response, not an error
        time.sleep(0.1)  # the watcher does not activate it again
        assert served_version(client) == "1"
        assert ServingConfig.read(pair / "ranklens") == ServingConfig("2")


def test_a_change_that_loads_during_a_rollback_is_refused(pair):
    copy_bundle(pair, "ranklens", "3")
    with store_server(pair, watch_s=0, rollback_failures=1) as (client, fleet):
        assert admin_request(client, "PUT", ROUTE, json={"active": "2"}).is_success
        deployment, release = fleet.models["ranklens"].active, threading.Event()
        fleet._loader.submit(release.wait)  # the next version loads after that
        payload = {"active": "2", "canary": {"version": "3", "share": 0.5}}
        responses = []
        thread = threading.Thread(
            target=lambda: responses.append(admin_request(client, "PUT", ROUTE, json=payload))
        )
        thread.start()
        wait_until(fleet._changing.locked)
        deployment.session.run = broken_run
        fail(client, 1)
        release.set()
        thread.join()
        assert responses[0].status_code == 409
        assert {served_version(client, user=f"u{i}") for i in range(8)} == {"1"}
        wait_until(lambda: ServingConfig.read(pair / "ranklens") == ServingConfig("1"))


def test_lists_are_answered_while_another_process_holds_the_lock_of_the_store(pair, monkeypatch):
    monkeypatch.setattr(stores, "LOCK_WAIT_S", 120.0)
    with store_server(pair, watch_s=0.02, rollback_failures=1) as (client, fleet):
        with exclusive_config(pair / "ranklens"):
            responses = []
            thread = threading.Thread(
                target=lambda: responses.append(
                    admin_request(client, "PUT", ROUTE, json={"active": "2"})
                )
            )
            thread.start()
            wait_until(fleet._writing.locked)
            assert served_version(client) == "1"
        thread.join()
        assert responses[0].is_success
        with exclusive_config(pair / "ranklens"):
            fleet.models["ranklens"].active.session.run = broken_run
            fail(client, 1)
            time.sleep(0.1)  # the watcher does not activate it again
            assert (served_version(client), stored_version(pair)) == ("1", "2")
        wait_until(lambda: stored_version(pair) == "1")
        assert served_version(client) == "1"


def test_a_change_that_is_written_during_a_rollback_is_refused_and_replaced(pair, monkeypatch):
    monkeypatch.setattr(stores, "LOCK_WAIT_S", 120.0)
    payload = {"active": "2", "shadow": "1"}
    with store_server(pair, watch_s=0, rollback_failures=1) as (client, fleet):
        assert admin_request(client, "PUT", ROUTE, json={"active": "2"}).is_success
        with exclusive_config(pair / "ranklens"):
            responses = []
            thread = threading.Thread(
                target=lambda: responses.append(admin_request(client, "PUT", ROUTE, json=payload))
            )
            thread.start()
            wait_until(fleet._writing.locked)
            fleet.models["ranklens"].active.session.run = broken_run
            fail(client, 1)
        thread.join()
        assert responses[0].status_code == 409
        assert served_version(client) == "1"
        wait_until(lambda: ServingConfig.read(pair / "ranklens") == ServingConfig("1"))


def test_adding_a_shadow_does_not_restart_the_probation_of_the_active_version(pair):
    copy_bundle(pair, "ranklens", "3")
    with store_server(pair, watch_s=0, rollback_failures=2) as (client, fleet):
        assert admin_request(client, "PUT", ROUTE, json={"active": "2"}).is_success
        deployment = fleet.models["ranklens"].active
        fleet.models["ranklens"].active.session.run = broken_run
        fail(client, 1)
        since = deployment.since
        assert admin_request(client, "PUT", ROUTE, json={"active": "2", "shadow": "3"}).is_success
        assert fleet.models["ranklens"].active is deployment
        assert (deployment.since, deployment.failed) == (since, 1)
        fail(client, 1)
        assert served_version(client) == "1"


def test_a_canary_that_becomes_active_starts_its_probation_again(pair):
    canary = {"active": "1", "canary": {"version": "2", "share": 1.0}}
    with store_server(pair, watch_s=0, rollback_failures=2) as (client, fleet):
        assert admin_request(client, "PUT", ROUTE, json=canary).is_success
        deployment = fleet.models["ranklens"].deployments["2"]
        working, deployment.session.run = deployment.session.run, broken_run
        assert post_rerank(client, user="u").json()["degraded"] == {
            "reason": "model_error",
            "reasons": ["model_error"],
        }
        assert admin_request(client, "PUT", ROUTE, json={"active": "2"}).is_success
        assert fleet.models["ranklens"].active is deployment  # not loaded twice
        fail(client, 1)
        deployment.session.run = working
        assert served_version(client) == "2"
