"""The format of a response, by the weights of Accept."""

import httpx
import ormsgpack
import pytest

from tests.support.bodies import body

JSON, MSGPACK = "application/json", "application/msgpack"


@pytest.mark.parametrize(
    ("accept", "of_json", "of_msgpack"),
    [
        ("application/msgpack;q=0", JSON, JSON),
        ("application/msgpack;q=0, */*", JSON, JSON),
        ("application/msgpack;q=0.000, application/json;q=0.1", JSON, JSON),
        ("application/msgpack;q=0.5, application/json", JSON, JSON),
        ("application/msgpack;q=0.5, */*;q=0.9", JSON, JSON),
        ("application/json;q=0.5, application/msgpack", MSGPACK, MSGPACK),
        ("application/json;q=0, */*", MSGPACK, MSGPACK),
        ("application/json, application/msgpack", MSGPACK, MSGPACK),
        ("application/json, text/plain, */*", JSON, MSGPACK),
        ("application/*", JSON, MSGPACK),
        ("application/*;q=0", JSON, JSON),
        ("*/*;q=0.1", JSON, MSGPACK),
        ("*/*;q=0", JSON, JSON),
        ("text/html", JSON, JSON),
        ("application/msgpackish", JSON, JSON),
        ("text/html;a=application/msgpack", JSON, JSON),
        ("Application/MsgPack ; Q=0.4 , application/json;Q=0.3", MSGPACK, MSGPACK),
        ("application/msgpack;charset=x;q=0.1, application/json", JSON, JSON),
        ("application/msgpack;q=2, application/json;q=0.9", MSGPACK, MSGPACK),
        ("application/x-msgpack;q=0.2, application/vnd.msgpack;q=0.8, */*;q=0.5", MSGPACK, MSGPACK),
        ("application/x-msgpack, application/json, application/msgpack;q=0", JSON, JSON),
        ("application/vnd.msgpack, application/msgpack;q=0.2, application/json;q=0.3", JSON, JSON),
        ("", JSON, JSON),
        (",;=, ;q", JSON, JSON),
    ],
)
def test_the_format_follows_the_weights_of_accept(url, items, accept, of_json, of_msgpack):
    content = ormsgpack.packb(body(items))
    for kind, expected in ((JSON, of_json), (MSGPACK, of_msgpack)):
        sent = content if kind == MSGPACK else None
        payload = None if kind == MSGPACK else body(items)
        headers = {"Accept": accept, "Content-Type": kind}
        response = httpx.post(f"{url}/rerank", content=sent, json=payload, headers=headers)
        assert response.status_code == 200
        assert response.headers["content-type"] == expected
