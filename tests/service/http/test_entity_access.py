"""For whom, and under which names and settings, the routes of users and items answer."""

import httpx
import pytest

from tests.support.servers import fresh

KEY = "state-key-0123456789"


@pytest.fixture(scope="module")
def client(session, tmp_path_factory):
    """A client of a service with a store, without keys on loopback."""
    store = tmp_path_factory.mktemp("state")
    with (
        fresh(session, state=f"lmdb://{store}") as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def problem(response, status, code):
    assert response.status_code == status, response.text
    body = response.json()
    assert (body["status"], body["code"]) == (status, code)
    return body


def test_routes_of_a_store_that_is_down_are_unavailable(session, tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"no database")
    with (
        fresh(session, state=f"lmdb://{tmp_path}") as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        for response in (
            client.put("/users", content=b"{}"), client.get("/users/u1"),
            client.delete("/users/u1"),
        ):  # fmt: skip
            assert "data.mdb" not in str(problem(response, 503, "state_unavailable"))
            assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", ["/users%2Fu1", "/v1%2Fusers/u1", "/%75sers/u1"])
def test_a_route_that_is_percent_encoded_deletes_nobody(client, path):
    """An answer of 204 for the user `users/u1` would hide that u1 stays."""
    (error,) = problem(client.delete(path), 422, "invalid_request")["errors"]
    assert error["field"] == "path"


def test_without_a_store_there_are_no_routes(session):
    with fresh(session) as url:
        assert httpx.get(f"{url}/users/u1").json()["code"] == "not_found"
        assert httpx.put(f"{url}/users", content=b"").status_code == 404


def test_without_keys_the_routes_are_off_but_on_loopback(session, tmp_path):
    with fresh(session, state=f"lmdb://{tmp_path}", host="0.0.0.0") as url:
        for method, path in (("PUT", "/users"), ("GET", "/v1/items/i1"), ("DELETE", "/users/u1")):
            response = httpx.request(method, f"{url}{path}")
            assert "RERANK_STATE_KEYS_FILE" in problem(response, 404, "not_found")["detail"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 204), ("127.0.0.1:80", 204), ("[::1]:8000", 204), ("[::1]", 204),
        ("shop.example", 404), ("127.0.0.1.example:8000", 404), ("[::2]", 404), ("", 404),
        ("[::1].shop.example", 404),
    ],
)  # fmt: skip
def test_without_keys_a_request_names_a_loopback_host(client, host, status):
    assert client.delete("/users/t1", headers={"Host": host}).status_code == status


def test_with_keys_every_route_requires_one(session, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"feed:{KEY}\n")
    settings = {"state": f"lmdb://{tmp_path}/state", "state_keys_file": keys, "host": "0.0.0.0"}
    with fresh(session, **settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        client.headers["Host"] = "shop.example"
        for method, path in (("PUT", "/items"), ("GET", "/items/i1"), ("DELETE", "/users/u1")):
            problem(client.request(method, path), 401, "unauthorized")
            wrong = {"Authorization": f"Bearer {KEY}x"}
            problem(client.request(method, path, headers=wrong), 403, "forbidden")
        allowed = {"Authorization": f"Bearer {KEY}"}
        written = client.put("/items", content=b'{"item": "i1"}', headers=allowed)
        assert written.json()["written"] == 1
        assert client.get("/items/i1", headers=allowed).status_code == 200
