"""Paths and methods: trailing slashes, repeated slashes, HEAD and OPTIONS on every route."""

import shutil

import httpx
import pytest

from tests.support.bodies import body, problem_of
from tests.support.bundles import BUNDLE
from tests.support.servers import fresh
from tests.support.wire import exchange

RANKING = ("/rerank", "/v1/rerank", "/rerank/batch", "/v1/rerank/batch")
PAGES = ("/livez", "/readyz", "/info", "/metrics", "/openapi.json", "/docs", "/redoc")
KEY = "an-admin-key-of-32-characters-xx"


@pytest.fixture(scope="module")
def routes(session, tmp_path_factory):
    """A client of a service with admin routes, and the methods of each path."""
    directory = tmp_path_factory.mktemp("routes")
    keys = directory / "keys"
    keys.write_text(f"admin:{KEY}\n")
    shutil.copytree(BUNDLE, directory / "models" / "ranklens" / "1")
    settings = {"admin_keys_file": keys, "models": directory / "models"}
    methods = {path: {"POST"} for path in RANKING} | {path: {"GET", "HEAD"} for path in PAGES}
    methods["/admin/models"] = {"GET", "HEAD"}
    methods["/admin/models/ranklens"] = {"PUT"}
    methods["/admin/models/ranklens/rollback"] = {"POST"}
    headers = {"Authorization": f"Bearer {KEY}"}
    with fresh(session, **settings) as url, httpx.Client(base_url=url, headers=headers) as http:
        yield http, methods


def test_options_of_every_route_names_its_methods(routes):
    http, methods = routes
    for path, expected in methods.items():
        for spelling in (path, f"{path}/"):
            response = http.options(spelling)
            assert (response.status_code, response.content) == (204, b"")
            assert set(response.headers["allow"].split(", ")) == expected | {"OPTIONS"}


def test_other_methods_of_every_route_get_405_with_the_same_methods(routes):
    http, methods = routes
    for path, expected in methods.items():
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE"} - expected:
            response = http.request(method, path)
            assert response.status_code == 405
            assert set(response.headers["allow"].split(", ")) == expected | {"OPTIONS"}
            if method != "HEAD":
                assert problem_of(response, 405)["code"] == "method_not_allowed"


def test_head_of_every_page_has_the_headers_of_get_and_no_body(routes):
    http, methods = routes
    for path, expected in methods.items():
        if "HEAD" not in expected:
            continue
        head, get = http.head(path), http.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
        assert "content-length" in head.headers


@pytest.mark.parametrize("path", RANKING)
def test_a_ranking_call_with_a_trailing_slash_is_served_without_a_redirect(client, items, path):
    payload = {"requests": [body(items)]} if path.endswith("batch") else body(items)
    response = client.post(f"{path}/", json=payload, headers={"X-Forwarded-Proto": "https"})
    assert response.status_code == 200
    assert "location" not in response.headers


def test_no_path_with_more_slashes_is_a_redirect(routes):
    http, methods = routes
    for path in methods:
        assert http.get(f"{path}/").status_code == http.get(path).status_code
        for spelling in (f"/{path}", f"{path}//", path.replace("/", "//")):
            response = http.request("POST", f"{http.base_url}".rstrip("/") + spelling, json={})
            assert problem_of(response, 404)["detail"].endswith(f"; the path is {path}")


def test_options_of_the_service_as_a_whole_names_all_methods(url):
    (response,) = exchange(url, b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert response.status == 204
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


def test_options_of_an_unknown_path_is_404(client):
    assert problem_of(client.options("/nowhere"), 404)["code"] == "not_found"


def test_a_cors_preflight_is_answered_without_permission(client):
    headers = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    response = client.options("/rerank", headers=headers)
    assert response.status_code == 204
    assert not [name for name in response.headers if name.startswith("access-control")]
