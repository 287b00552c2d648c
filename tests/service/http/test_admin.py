"""The admin routes: authentication, changes, refusals and rollbacks."""

import os

import httpx
import pytest

from service.models import store as stores
from service.models.store import ServingConfig, exclusive_config
from tests.support.servers import fresh
from tests.support.stores import (
    KEY,
    admin_request,
    copy_bundle,
    metric_value,
    served_version,
    store_server,
)

ROUTE = "/admin/models/ranklens"
CHANGES = 'rerank_model_changes_total{name="ranklens",outcome="%s"}'
ROUTES = [("GET", "/admin/models"), ("PUT", ROUTE), ("POST", f"{ROUTE}/rollback")]


@pytest.fixture
def admin_client(store):
    """Yield a client of a store with version 1, served, version 2, and version 3, damaged.

    Checks at the end that no response contained the key.
    """
    copy_bundle(store, "ranklens", "2")
    (copy_bundle(store, "ranklens", "3") / "items.numbers.npy").write_bytes(b"no")
    ServingConfig("1").write(store / "ranklens")
    transcript = []
    with store_server(store, watch_s=0) as (client, _):

        def record(response):
            response.read()
            transcript.append(f"{response.headers}{response.text}")

        client.event_hooks = {"response": [record]}
        yield client
        for path in ("/info", "/metrics", "/openapi.json", "/admin/models"):
            client.get(path)
    assert KEY not in "".join(transcript)


def assert_problem(response, status, code):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["code"]) == (status, code)
    return body


def stored_config(store):
    return ServingConfig.read(store / "ranklens")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_admin_keys_there_are_no_admin_routes(client, method, path):
    assert_problem(admin_request(client, method, path), 404, "not_found")


def test_a_service_of_one_bundle_lists_it_and_refuses_changes(session, tmp_path):
    (tmp_path / "keys").write_text(f"ops:{KEY}\n")
    with (
        fresh(session, admin_keys_file=tmp_path / "keys") as url,
        httpx.Client(base_url=url) as client,
    ):
        response = admin_request(client, "GET", "/admin/models").raise_for_status().json()
        assert response == {
            "models": {
                "ranklens": {
                    "active": "1", "canary": None, "share": 0.0, "shadow": None, "previous": None,
                }
            }
        }  # fmt: skip
        body = assert_problem(
            admin_request(client, "PUT", ROUTE, json={"active": "1"}), 409, "conflict"
        )
        assert "no store" in body["detail"]
        assert_problem(admin_request(client, "POST", f"{ROUTE}/rollback"), 409, "conflict")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_only_a_valid_admin_key_is_accepted(admin_client, store, method, path):
    refused = admin_client.request(method, path, json={"active": "2"})
    assert_problem(refused, 401, "unauthorized")
    assert refused.headers["www-authenticate"] == "Bearer"
    basic = admin_client.request(method, path, headers={"Authorization": f"Basic {KEY}"})
    assert_problem(basic, 401, "unauthorized")
    for key in ("x" * 20, KEY[:-1], f"{KEY}x", KEY.upper()):
        assert_problem(
            admin_request(admin_client, method, path, key=key, json={"active": "2"}),
            403,
            "forbidden",
        )
    assert (served_version(admin_client), stored_config(store)) == ("1", ServingConfig("1"))


def test_api_keys_and_admin_keys_are_separate(store):
    (store.parent / "askers").write_text("web:one-who-may-only-ask\n")
    with store_server(store, api_keys_file=store.parent / "askers") as (client, _):
        key = "one-who-may-only-ask"
        assert_problem(admin_request(client, "GET", "/admin/models", key=key), 403, "forbidden")
        payload = {"json": {"candidates": ["10", "100"]}}
        assert admin_request(client, "POST", "/rerank", key=key, **payload).status_code == 200
        assert_problem(admin_request(client, "POST", "/rerank", **payload), 403, "forbidden")


def test_a_change_is_served_and_written_to_the_store(admin_client, store):
    payload = {"active": "2", "canary": {"version": "1", "share": 0.25}, "shadow": "1"}
    response = admin_request(admin_client, "PUT", ROUTE, json=payload).raise_for_status().json()
    models = {
        "ranklens": {
            "active": "2", "canary": "1", "share": 0.25, "shadow": "1", "previous": "1",
        }
    }  # fmt: skip
    assert response == {"models": models}
    assert admin_request(admin_client, "GET", "/admin/models").json() == {"models": models}
    assert served_version(admin_client) == "2"
    assert stored_config(store) == ServingConfig("2", "1", 0.25, "1")
    repeated = admin_request(admin_client, "PUT", ROUTE, json=payload)
    assert repeated.json() == {"models": models}
    assert metric_value(admin_client, CHANGES % "changed") == 1


def test_an_invalid_version_is_refused_and_the_served_one_stays(admin_client, store):
    for payload in (
        {"active": "3"},
        {"active": "4"},
        {"active": "2", "shadow": "3"},
        {"active": "1", "canary": {"version": "3", "share": 0.5}},
    ):
        body = assert_problem(
            admin_request(admin_client, "PUT", ROUTE, json=payload), 409, "conflict"
        )
        assert "the served versions stay" in body["detail"]
        assert (served_version(admin_client), stored_config(store)) == ("1", ServingConfig("1"))
    assert metric_value(admin_client, CHANGES % "refused") == 4
    assert metric_value(admin_client, CHANGES % "changed") == 0


@pytest.mark.parametrize(
    ("payload", "field", "value"),
    [
        ([], "body", "[]"),
        ({}, "active", "null"),
        ({"active": 3}, "active", "3"),
        ({"active": "../1"}, "active", '"../1"'),
        ({"active": "1", "shadows": "2"}, "shadows", '"2"'),
        ({"active": "1", "canary": {"version": "2", "share": 2}}, "canary.share", "2"),
    ],
)
def test_an_invalid_change_is_refused_by_field(admin_client, store, payload, field, value):
    (error,) = assert_problem(
        admin_request(admin_client, "PUT", ROUTE, json=payload), 422, "invalid_request"
    )["errors"]
    assert (error["field"], error["value"]) == (field, value)
    assert error["rule"]
    assert (served_version(admin_client), stored_config(store)) == ("1", ServingConfig("1"))


def test_invalid_json_and_unknown_models_have_different_codes(admin_client):
    assert_problem(admin_request(admin_client, "PUT", ROUTE, content=b"{"), 400, "bad_json")
    for name in ("none", "..%2Franklens", ".hidden", "x" * 300):
        route = f"/admin/models/{name}"
        body = admin_request(admin_client, "PUT", route, json={"active": "1"})
        assert body.status_code in (404, 409)
    errors = assert_problem(
        admin_request(admin_client, "PUT", "/admin/models/none", json={"active": "1"}),
        409,
        "conflict",
    )["errors"]
    assert errors == [{"field": "name", "rule": "one of ranklens", "value": '"none"'}]
    assert_problem(admin_request(admin_client, "DELETE", ROUTE), 405, "method_not_allowed")


def test_a_rollback_restores_the_previous_active_version(admin_client, store):
    without_previous = admin_request(admin_client, "POST", f"{ROUTE}/rollback")
    assert_problem(without_previous, 409, "conflict")
    admin_request(
        admin_client, "PUT", ROUTE, json={"active": "2", "shadow": "1"}
    ).raise_for_status()
    response = admin_request(admin_client, "POST", f"{ROUTE}/rollback").raise_for_status().json()
    assert response["models"]["ranklens"]["active"] == "1"
    assert response["models"]["ranklens"]["previous"] is None
    assert (served_version(admin_client), stored_config(store)) == ("1", ServingConfig("1"))
    assert_problem(admin_request(admin_client, "POST", f"{ROUTE}/rollback"), 409, "conflict")
    assert metric_value(admin_client, CHANGES % "rolled_back") == 1
    admin_request(admin_client, "PUT", ROUTE, json={"active": "2"}).raise_for_status()
    assert served_version(admin_client) == "2"


def test_a_rollback_undoes_the_latest_change_of_another_worker(admin_client, store):
    copy_bundle(store, "ranklens", "4")
    admin_request(admin_client, "PUT", ROUTE, json={"active": "2"}).raise_for_status()
    # Another worker writes a change that this one has not noticed yet.
    ServingConfig("4").write(store / "ranklens")
    response = admin_request(admin_client, "POST", f"{ROUTE}/rollback").raise_for_status().json()
    assert response["models"]["ranklens"]["active"] == "2"
    assert stored_config(store) == ServingConfig("2")
    ServingConfig("3").write(store / "ranklens")  # damaged, so there is no change to undo
    response = assert_problem(
        admin_request(admin_client, "POST", f"{ROUTE}/rollback"), 409, "conflict"
    )
    assert "items.numbers.npy" in response["detail"]
    assert served_version(admin_client) == "2"


def test_a_change_that_cannot_be_written_is_refused(admin_client, store):
    (store / "ranklens" / f".serving.json.{os.getpid()}").mkdir()  # prevents the temporary file
    body = assert_problem(
        admin_request(admin_client, "PUT", ROUTE, json={"active": "2"}), 409, "conflict"
    )
    assert "cannot be written" in body["detail"]
    assert (served_version(admin_client), stored_config(store)) == ("1", ServingConfig("1"))


def test_a_change_waits_for_another_writer_of_the_store_and_is_refused_if_that_takes_long(
    admin_client, store, monkeypatch
):
    monkeypatch.setattr(stores, "LOCK_WAIT_S", 0.01)
    with exclusive_config(store / "ranklens"):
        response = admin_request(admin_client, "PUT", ROUTE, json={"active": "2"})
    assert "held by another process" in assert_problem(response, 409, "conflict")["detail"]
    assert (served_version(admin_client), stored_config(store)) == ("1", ServingConfig("1"))
    admin_request(admin_client, "PUT", ROUTE, json={"active": "2"}).raise_for_status()
