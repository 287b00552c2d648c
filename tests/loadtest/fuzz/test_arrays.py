"""Arrays of MessagePack in fuzzed requests, and their checks."""

import ormsgpack

from loadtest.fuzz.arrays import array_of, bodies_with_arrays, with_arrays
from loadtest.fuzz.bodies import bodies
from loadtest.fuzz.bundle import Bundle
from loadtest.fuzz.checks import LIST_CHECKS
from loadtest.fuzz.contract import decoded_request
from loadtest.fuzz.exchange import Exchange
from loadtest.fuzz.messages import MSGPACK, Conversation, Message
from loadtest.fuzz.requests import draw_conversations
from service.errors import InvalidRequest
from service.http.parsing import featuriser_input, validate
from service.http.schemas import RerankRequest
from tests.support.bundles import BUNDLE


def test_columns_of_numbers_alone_become_arrays():
    features = {"price": [1, 2.5], "genre": ["a", "b"], "flag": [True, 1], "gap": [1.0, None]}
    body = with_arrays({"candidates": {"id": ["1", "2"], "features": features}})
    assert body["candidates"]["features"] == features | {"price": array_of([1, 2.5])}
    assert with_arrays({"candidates": ["1"]}) == {"candidates": ["1"]}


def test_drawn_arrays_are_both_intact_and_broken():
    bundle = Bundle.read(BUNDLE)
    strategy = bodies_with_arrays(bodies(bundle), bundle).map(
        lambda body: Conversation((Message("POST", "/rerank", (("Content-Type", MSGPACK),), body),))
    )
    outcomes = []
    for conversation in draw_conversations(strategy, "0", 40):
        payload = ormsgpack.unpackb(conversation.messages[0].body)
        try:
            outcomes.append(bool(featuriser_input(validate(RerankRequest, payload), "")))
        except InvalidRequest:
            outcomes.append(False)
    assert set(outcomes) == {True, False}


def test_bytes_of_a_request_are_text_to_the_checks():
    candidates = {
        "id": ["1"], "features": {"price": array_of([1.5])}, "boost": array_of([0.5], "float32"),
    }  # fmt: skip
    body = ormsgpack.packb({"candidates": candidates})
    request = decoded_request(Message("POST", "/rerank", (("Content-Type", MSGPACK),), body))
    assert isinstance(request["candidates"]["features"]["price"]["data"], str)
    exchange = Exchange(request, {"unknown_candidates": 1}, Bundle([], {}, {}), {})
    assert exchange.candidates == [
        {"id": "1", "features": {}, "groups": {}, "topics": {}, "boost": 0.5}
    ]
    assert LIST_CHECKS["unknown_candidates"](exchange) is None
