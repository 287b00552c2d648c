"""Calls that a page of another origin makes a browser send."""

import re

import httpx
import pytest

from service.errors import Forbidden
from service.http.origins import is_loopback, refuse_cross_site
from tests.support.bodies import body, problem_of
from tests.support.journals import records_in
from tests.support.servers import fresh

KEY = "an-api-key-of-32-characters-xxxx"
HERE = {"host": "rank.example:8000"}
ANYWHERE, LOOPBACK = "0.0.0.0", "127.0.0.1"  # addresses that the service listens on
TEXT = {"Content-Type": "text/plain"}  # for which a browser does not ask the service first
EVIL = {**TEXT, "Origin": "http://evil.example"}
REBOUND = {**TEXT, "Origin": "http://evil.example:8000", "Host": "evil.example:8000"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://rank.example:8000"},
        {"origin": "http://RANK.example:8000"},
        {"sec-fetch-site": "same-origin", "origin": "https://public.example"},
        {"sec-fetch-site": "none"},
    ],
)
def test_a_call_of_a_program_or_of_a_page_of_the_service_passes(headers):
    refuse_cross_site({**HERE, **headers}, ANYWHERE)


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"origin": "http://evil.example"}, "Origin"),
        ({"origin": "http://rank.example"}, "Origin"),
        ({"origin": "http://rank.example:8001"}, "Origin"),
        ({"origin": "http://rank.example:8000.evil.example"}, "Origin"),
        ({"origin": "null"}, "Origin"),
        ({"origin": ""}, "Origin"),
        ({"origin": "http://[broken"}, "Origin"),
        ({"origin": "http://rank.example:8000", "sec-fetch-site": "cross-site"}, "Sec-Fetch-Site"),
        ({"sec-fetch-site": "same-site"}, "Sec-Fetch-Site"),
    ],
)
def test_a_call_of_a_page_of_another_origin_is_refused(headers, name):
    with pytest.raises(Forbidden, match=f"header {name}"):
        refuse_cross_site({**HERE, **headers}, ANYWHERE)


@pytest.mark.parametrize("headers", [{"origin": "http://{}"}, {"sec-fetch-site": "same-origin"}])
def test_on_a_loopback_address_a_page_is_of_a_loopback_host(headers):
    def headers_of(host):
        return {"host": host} | {name: value.format(host) for name, value in headers.items()}

    for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000"):
        refuse_cross_site(headers_of(host), LOOPBACK)
    for host in ("rebound.example:8000", "localhost.example", "127.0.0.1.example:8000"):
        refuse_cross_site(headers_of(host), ANYWHERE)
        with pytest.raises(Forbidden, match=rf"header Host: .*, is {re.escape(host)}$"):
            refuse_cross_site(headers_of(host), LOOPBACK)


def test_on_a_loopback_address_a_program_may_name_the_host_of_a_proxy():
    refuse_cross_site(HERE, LOOPBACK)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.example", False),
    ],
)  # fmt: skip
def test_only_addresses_of_this_host_are_loopback(host, expected):
    assert is_loopback(host) is expected


def test_feedback_without_keys_takes_no_event_from_a_page_of_another_origin(session, tmp_path):
    event = {"event_id": "e1", "user": "u1", "item": "260", "type": "like"}
    events = {"events": [event]}
    with fresh(session, state=f"lmdb://{tmp_path}/state") as url:
        for path, headers in (("/feedback", EVIL), ("/v1/feedback", EVIL), ("/feedback", REBOUND)):
            refused = httpx.post(url + path, json=events, headers=headers)
            assert problem_of(refused, 403)["code"] == "forbidden"
        assert httpx.get(f"{url}/users/u1").status_code == 404
        headers = {**TEXT, "Origin": url}
        assert httpx.post(f"{url}/feedback", json=events, headers=headers).json()["accepted"] == 1


def test_no_page_of_another_origin_writes_a_journal(session, items, tmp_path):
    single = body(items)
    with fresh(session, journal=f"files://{tmp_path}/journal") as url:
        for path, sent in (("/rerank", single), ("/v1/rerank/batch", {"requests": [single]})):
            for headers in (EVIL, REBOUND, {**TEXT, "Sec-Fetch-Site": "cross-site"}):
                refused = httpx.post(url + path, json=sent, headers=headers)
                assert problem_of(refused, 403)["code"] == "forbidden"
        for headers in ({**TEXT, "Origin": url}, {"Host": "shop.example"}):
            httpx.post(f"{url}/rerank", json=single, headers=headers).raise_for_status()
    assert len(records_in(tmp_path / "journal")) == 2


def test_without_a_journal_a_ranking_for_a_page_of_another_origin_is_no_harm(url, items):
    httpx.post(f"{url}/rerank", json=body(items), headers=EVIL).raise_for_status()


def test_feedback_with_a_key_is_taken_from_any_origin(session, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"shop:{KEY}\n")
    event = {"event_id": "e1", "user": "u1", "item": "260", "type": "like"}
    with fresh(session, state=f"lmdb://{tmp_path}/state", api_keys_file=keys) as url:
        headers = {"Origin": "http://shop.example", "Authorization": f"Bearer {KEY}"}
        response = httpx.post(f"{url}/feedback", json={"events": [event]}, headers=headers)
        assert response.json()["accepted"] == 1
