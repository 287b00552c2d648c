"""Who may change models, and what they are told."""

import os

import httpx
import pytest

from service.models.store import ServingConfig
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
def running(store):
    """A client of versions 1, which is served, 2, and 3, which is broken; what it was told."""
    copy_bundle(store, "ranklens", "2")
    (copy_bundle(store, "ranklens", "3") / "items.npz").write_bytes(b"no")
    ServingConfig("1").write(store / "ranklens")
    said = []
    with store_server(store, watch_s=0) as (client, _):

        def heard(response):
            response.read()
            said.append(f"{response.headers}{response.text}")

        client.event_hooks = {"response": [heard]}
        yield client
        for path in ("/info", "/metrics", "/openapi.json", "/admin/models"):
            client.get(path)
    assert KEY not in "".join(said)


def problem(response, status, code):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["code"]) == (status, code)
    return body


def standing(store):
    return ServingConfig.read(store / "ranklens")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_admin_keys_there_are_no_admin_routes(client, method, path):
    problem(admin_request(client, method, path), 404, "not_found")


def test_a_service_of_one_bundle_says_what_it_serves_and_changes_nothing(session, tmp_path):
    (tmp_path / "keys").write_text(f"ops:{KEY}\n")
    with fresh(session, admin_keys_file=tmp_path / "keys") as url, httpx.Client(base_url=url) as c:
        told = admin_request(c, "GET", "/admin/models").raise_for_status().json()
        assert told == {
            "models": {
                "ranklens": {
                    "active": "1", "canary": None, "share": 0.0, "shadow": None, "previous": None,
                }
            }
        }  # fmt: skip
        body = problem(admin_request(c, "PUT", ROUTE, json={"active": "1"}), 409, "conflict")
        assert "no store" in body["detail"]
        problem(admin_request(c, "POST", f"{ROUTE}/rollback"), 409, "conflict")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_only_a_known_admin_key_is_let_in(running, store, method, path):
    refused = running.request(method, path, json={"active": "2"})
    problem(refused, 401, "unauthorized")
    assert refused.headers["www-authenticate"] == "Bearer"
    basic = running.request(method, path, headers={"Authorization": f"Basic {KEY}"})
    problem(basic, 401, "unauthorized")
    for key in ("x" * 20, KEY[:-1], f"{KEY}x", KEY.upper()):
        problem(
            admin_request(running, method, path, key=key, json={"active": "2"}), 403, "forbidden"
        )
    assert (served_version(running), standing(store)) == ("1", ServingConfig("1"))


def test_a_key_to_ask_is_no_key_to_change(store):
    (store.parent / "askers").write_text("web:one-who-may-only-ask\n")
    with store_server(store, api_keys_file=store.parent / "askers") as (client, _):
        key = "one-who-may-only-ask"
        problem(admin_request(client, "GET", "/admin/models", key=key), 403, "forbidden")
        asked = {"json": {"candidates": ["10", "100"]}}
        assert admin_request(client, "POST", "/rerank", key=key, **asked).status_code == 200
        problem(admin_request(client, "POST", "/rerank", **asked), 403, "forbidden")


def test_an_admin_changes_what_is_served_and_it_lasts(running, store):
    asked = {"active": "2", "canary": {"version": "1", "share": 0.25}, "shadow": "1"}
    answer = admin_request(running, "PUT", ROUTE, json=asked).raise_for_status().json()
    told = {
        "ranklens": {
            "active": "2", "canary": "1", "share": 0.25, "shadow": "1", "previous": "1",
        }
    }  # fmt: skip
    assert answer == {"models": told}
    assert admin_request(running, "GET", "/admin/models").json() == {"models": told}
    assert served_version(running) == "2"
    assert standing(store) == ServingConfig("2", "1", 0.25, "1")
    assert admin_request(running, "PUT", ROUTE, json=asked).json() == {
        "models": told
    }  # asked again
    assert metric_value(running, CHANGES % "changed") == 1


def test_what_cannot_be_served_is_refused_and_what_was_served_goes_on(running, store):
    for asked in (
        {"active": "3"},
        {"active": "4"},
        {"active": "2", "shadow": "3"},
        {"active": "1", "canary": {"version": "3", "share": 0.5}},
    ):
        body = problem(admin_request(running, "PUT", ROUTE, json=asked), 409, "conflict")
        assert "the served versions stay" in body["detail"]
        assert (served_version(running), standing(store)) == ("1", ServingConfig("1"))
    assert metric_value(running, CHANGES % "refused") == 4
    assert metric_value(running, CHANGES % "changed") == 0


@pytest.mark.parametrize(
    ("asked", "field", "value"),
    [
        ([], "body", "[]"),
        ({}, "active", "null"),
        ({"active": 3}, "active", "3"),
        ({"active": "../1"}, "active", '"../1"'),
        ({"active": "1", "shadows": "2"}, "shadows", '"2"'),
        ({"active": "1", "canary": {"version": "2", "share": 2}}, "canary.share", "2"),
    ],
)
def test_a_change_that_is_none_is_refused_by_field(running, store, asked, field, value):
    (error,) = problem(admin_request(running, "PUT", ROUTE, json=asked), 422, "invalid_request")[
        "errors"
    ]
    assert (error["field"], error["value"]) == (field, value)
    assert error["rule"]
    assert (served_version(running), standing(store)) == ("1", ServingConfig("1"))


def test_what_is_no_json_and_who_is_no_model_are_told_apart(running):
    problem(admin_request(running, "PUT", ROUTE, content=b"{"), 400, "bad_json")
    for name in ("none", "..%2Franklens", ".hidden", "x" * 300):
        route = f"/admin/models/{name}"
        body = admin_request(running, "PUT", route, json={"active": "1"})
        assert body.status_code in (404, 409)
    errors = problem(
        admin_request(running, "PUT", "/admin/models/none", json={"active": "1"}), 409, "conflict"
    )["errors"]
    assert errors == [{"field": "name", "rule": "one of ranklens", "value": '"none"'}]
    problem(admin_request(running, "DELETE", ROUTE), 405, "method_not_allowed")


def test_a_rollback_brings_back_what_was_active_before(running, store):
    problem(
        admin_request(running, "POST", f"{ROUTE}/rollback"), 409, "conflict"
    )  # nothing was before
    admin_request(running, "PUT", ROUTE, json={"active": "2", "shadow": "1"}).raise_for_status()
    told = admin_request(running, "POST", f"{ROUTE}/rollback").raise_for_status().json()
    assert told["models"]["ranklens"]["active"] == "1"
    assert told["models"]["ranklens"]["previous"] is None
    assert (served_version(running), standing(store)) == ("1", ServingConfig("1"))
    problem(admin_request(running, "POST", f"{ROUTE}/rollback"), 409, "conflict")
    assert metric_value(running, CHANGES % "rolled_back") == 1
    admin_request(running, "PUT", ROUTE, json={"active": "2"}).raise_for_status()  # and forth again
    assert served_version(running) == "2"


def test_a_rollback_goes_back_from_what_another_worker_was_told_just_now(running, store):
    copy_bundle(store, "ranklens", "4")
    admin_request(running, "PUT", ROUTE, json={"active": "2"}).raise_for_status()
    ServingConfig("4").write(
        store / "ranklens"
    )  # as another worker does; this one has not looked yet
    told = admin_request(running, "POST", f"{ROUTE}/rollback").raise_for_status().json()
    assert told["models"]["ranklens"]["active"] == "2"
    assert standing(store) == ServingConfig("2")
    ServingConfig("3").write(store / "ranklens")  # which is broken: nothing to go back from
    told = problem(admin_request(running, "POST", f"{ROUTE}/rollback"), 409, "conflict")
    assert "items.npz" in told["detail"]
    assert served_version(running) == "2"


def test_a_change_that_the_store_does_not_keep_is_not_made(running, store):
    (store / "ranklens" / f".serving.json.{os.getpid()}").mkdir()  # no file can be there
    body = problem(admin_request(running, "PUT", ROUTE, json={"active": "2"}), 409, "conflict")
    assert "cannot be written" in body["detail"]
    assert (served_version(running), standing(store)) == ("1", ServingConfig("1"))
