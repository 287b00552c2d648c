"""Calls to /feedback that a page of another origin makes a browser send."""

import httpx
import pytest

from service.errors import Forbidden
from service.http.origins import refuse_cross_site
from tests.support.bodies import problem_of
from tests.support.servers import fresh

KEY = "an-api-key-of-32-characters-xxxx"
HERE = {"host": "rank.example:8000"}


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
    refuse_cross_site({**HERE, **headers})


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
        refuse_cross_site({**HERE, **headers})


def test_feedback_without_keys_takes_no_event_from_a_page_of_another_origin(session, tmp_path):
    event = {"event_id": "e1", "user": "u1", "item": "260", "type": "like"}
    body = {"events": [event]}
    with fresh(session, state=f"lmdb://{tmp_path}/state") as url:
        text = {"Content-Type": "text/plain"}  # for which a browser does not ask the service first
        for path in ("/feedback", "/v1/feedback"):
            headers = {**text, "Origin": "http://evil.example"}
            refused = httpx.post(url + path, json=body, headers=headers)
            assert problem_of(refused, 403)["code"] == "forbidden"
        assert httpx.get(f"{url}/users/u1").status_code == 404
        headers = {**text, "Origin": url}
        assert httpx.post(f"{url}/feedback", json=body, headers=headers).json()["accepted"] == 1


def test_feedback_with_a_key_is_taken_from_any_origin(session, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"shop:{KEY}\n")
    event = {"event_id": "e1", "user": "u1", "item": "260", "type": "like"}
    with fresh(session, state=f"lmdb://{tmp_path}/state", api_keys_file=keys) as url:
        headers = {"Origin": "http://shop.example", "Authorization": f"Bearer {KEY}"}
        response = httpx.post(f"{url}/feedback", json={"events": [event]}, headers=headers)
        assert response.json()["accepted"] == 1
