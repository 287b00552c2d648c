"""Integer ids: the same items as their text, returned as they were sent."""

import json

import httpx
import ormsgpack
import pytest

from service.http.ids import ID_RULE
from service.http.parsing import MSGPACK
from tests.support.bodies import problem_of, slate_ids
from tests.support.fakes import Failing
from tests.support.servers import fresh

BIG = 2**53 + 1  # a double cannot hold it


def post(client, payload, packed, path="/rerank"):
    """Send a body as JSON or MessagePack and return the decoded response, or the refusal."""
    if not packed:
        response = client.post(path, content=json.dumps(payload))
        return response.json() if response.status_code == 200 else response
    headers = {"Content-Type": MSGPACK}
    content = ormsgpack.packb(payload, option=ormsgpack.OPT_NON_STR_KEYS)
    response = client.post(path, content=content, headers=headers)
    return ormsgpack.unpackb(response.content) if response.status_code == 200 else response


def typed(ids):
    """Return ids with their types: 1, 1.0 and True are equal in Python."""
    return [(type(item), item) for item in ids]


def as_text(payload, key="id"):
    """Return a payload with every integer id as text."""
    if isinstance(payload, dict):
        return {str(k): as_text(v, k) for k, v in payload.items()}
    if isinstance(payload, list):
        return [as_text(entry, key) for entry in payload]
    ids = key in ("id", "candidates", "history", "blocked")
    return str(int(payload)) if ids and isinstance(payload, (int, float)) else payload


def stripped(payload):
    """Return a payload without the blanks around any text."""
    if isinstance(payload, dict):
        return {key.strip(): stripped(value) for key, value in payload.items()}
    if isinstance(payload, list):
        return [stripped(entry) for entry in payload]
    return payload.strip() if isinstance(payload, str) else payload


@pytest.fixture
def integers(items):
    """Ids of known items as integers."""
    numbers = [int(item) for item in items if item.isdecimal() and str(int(item)) == item]
    assert len(numbers) > 30
    return numbers[:30]


FORMS = {
    "ids": lambda ids: ids,
    "records": lambda ids: [{"id": item, "groups": {"author": "a"}} for item in ids],
    "columns": lambda ids: {"id": ids, "groups": {"author": ["a"] * len(ids)}},
}


@pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])
@pytest.mark.parametrize("form", FORMS)
def test_integer_ids_rank_as_their_text_and_come_back_as_sent(client, integers, form, packed):
    payload = {
        "candidates": FORMS[form]([*integers, BIG]),
        "user": {"id": 7, "history": [integers[1], {"id": integers[2], "label": 0.0}]},
        "constraints": {"pinned": {BIG if packed else str(BIG): 0}, "blocked": [integers[3]]},
        "explain": True,
    }
    result, expected = post(client, payload, packed), post(client, as_text(payload), packed)
    assert slate_ids(expected)[0] == str(BIG)
    assert typed(slate_ids(result)) == typed(int(item) for item in slate_ids(expected))
    assert integers[3] not in slate_ids(result)
    for entry, text in zip(result["slate"], expected["slate"], strict=True):
        assert entry["logprob"] == text["logprob"]
        alternatives = [
            [one["id"] for one in e["explanation"]["alternatives"]] for e in (entry, text)
        ]
        assert typed(alternatives[0]) == typed(int(item) for item in alternatives[1])
    assert result["unknown_candidates"] == expected["unknown_candidates"] == 1


@pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])
def test_a_mixture_of_strings_integers_and_integral_floats_comes_back_as_sent(
    client, integers, packed
):
    first, second, third = integers[:3]
    candidates = [first, float(second), str(third), "sku-1", -5, 2**64 - 1, -(2**63)]
    for payload in ({"candidates": candidates}, {"requests": [{"candidates": candidates}]}):
        path = "/rerank/batch" if "requests" in payload else "/rerank"
        result = post(client, payload, packed, path)
        result = result["responses"][0] if "requests" in payload else result
        sent = [candidates[entry["initial_position"]] for entry in result["slate"]]
        assert typed(slate_ids(result)) == typed(sent)
        assert len(sent) == len(candidates)


def test_a_degraded_response_has_integer_ids_as_sent(session):
    with fresh(Failing(session)) as url:
        result = httpx.post(f"{url}/rerank", json={"candidates": [BIG, "a", 1.0]}).json()
    assert result["degraded"] == {"reason": "model_error", "reasons": ["model_error"]}
    assert typed(slate_ids(result)) == typed([BIG, "a", 1.0])


@pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("first", "second"), [(1, "1"), ("1", 1.0), (1, 1), (0, -0.0), ("1", " 1\t")]
)
def test_an_integer_and_its_text_in_one_list_are_duplicates(client, form, packed, first, second):
    payload = {"candidates": FORMS[form](["a", first, second])}
    (error,) = problem_of(post(client, payload, packed), 422)["errors"]
    field = {"ids": "[2]", "records": "[2].id", "columns": ".id[2]"}[form]
    assert error["field"] == f"candidates{field}"
    assert "unique within the list" in error["rule"]
    assert error["value"] == json.dumps(second)


NO_IDS = [True, False, 1.5, float(2**53), 1e300, None, [], [1], "", " ", "\u2003\n"]


@pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])
@pytest.mark.parametrize("value", NO_IDS, ids=repr)
def test_a_boolean_or_an_inexact_number_is_no_id(client, value, packed):
    for payload, field in (
        ({"candidates": ["1", value]}, "candidates[1]"),
        ({"candidates": [{"id": value}]}, "candidates[0].id"),
        ({"candidates": {"id": [value]}}, "candidates.id[0]"),
        ({"candidates": ["1"], "user": {"history": [value]}}, "user.history[0]"),
        ({"candidates": ["1"], "user": {"history": [{"id": value}]}}, "user.history[0].id"),
        ({"candidates": ["1"], "constraints": {"blocked": [value]}}, "constraints.blocked[0]"),
        ({"candidates": ["1"], "user": {"id": value}}, "user.id"),
    ):
        if field == "user.id" and value is None:
            continue  # no user id
        (error,) = problem_of(post(client, payload, packed), 422)["errors"]
        assert (error["field"], json.loads(error["value"])) == (field, value)
        assert ID_RULE in error["rule"]


@pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])
@pytest.mark.parametrize("form", FORMS)
def test_blanks_around_an_id_do_not_count_and_come_back_as_sent(client, items, form, packed):
    padded = [f" {item}\u2003" for item in items[:8]]
    payload = {
        "candidates": FORMS[form]([*padded, "sku 1\n"]),
        "user": {"id": " u ", "history": [padded[1], {"id": padded[2], "label": 0.0}]},
        "constraints": {"pinned": {"\tsku 1": 0}, "blocked": [f"{items[3]} "]},
    }
    result, expected = post(client, payload, packed), post(client, stripped(payload), packed)
    sent = [*padded, "sku 1\n"]
    assert slate_ids(result)[0] == "sku 1\n"
    assert [item.strip() for item in slate_ids(result)] == slate_ids(expected)
    assert set(slate_ids(result)) == {item for item in sent if item != padded[3]}
    for entry, text in zip(result["slate"], expected["slate"], strict=True):
        assert entry["logprob"] == text["logprob"]
    assert result["unknown_candidates"] == expected["unknown_candidates"] == 1


def test_two_spellings_of_a_pinned_id_are_refused(client):
    payload = {"candidates": ["1", "2"], "constraints": {"pinned": {"1": 0, " 1": 1}}}
    (error,) = problem_of(client.post("/rerank", json=payload), 422)["errors"]
    assert error["field"] == "constraints.pinned"
    assert "one id" in error["rule"]


@pytest.mark.parametrize("number", ["9007199254740993.0", "18446744073709551616.0", "1e30"])
def test_a_float_of_json_that_is_not_decoded_exactly_is_no_id(client, number):
    response = client.post("/rerank", content=f'{{"candidates": [{number}]}}')
    (error,) = problem_of(response, 422)["errors"]
    assert (error["field"], error["value"]) == ("candidates[0]", json.dumps(float(number)))


HUGE = [2**64, 2**64 + 1, -(2**63) - 1, 10**255]  # all beyond 64 bits; two are the same double


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", ["/rerank", "/rerank/batch"])
def test_integers_of_json_beyond_64_bits_come_back_as_sent(client, items, form, path):
    payload = {
        "candidates": FORMS[form]([*HUGE, int(items[0]), "a"]),
        "user": {"id": HUGE[0], "history": [HUGE[1], {"id": HUGE[2]}]},
        "constraints": {"pinned": {str(HUGE[1]): 0}, "blocked": [HUGE[3]]},
        "explain": True,
    }
    results = []
    for body in (payload, as_text(payload)):
        content = {"requests": [body]} if "batch" in path else body
        result = client.post(path, content=json.dumps(content)).raise_for_status().json()
        results.append(result["responses"][0] if "batch" in path else result)
    sent, expected = results
    assert HUGE[1] == slate_ids(sent)[0]
    assert typed(slate_ids(sent)) == typed(
        "a" if item == "a" else int(item) for item in slate_ids(expected)
    )
    assert set(slate_ids(sent)) == {*HUGE[:3], int(items[0]), "a"}
    figures = [[entry["logprob"] for entry in result["slate"]] for result in results]
    assert figures[0] == figures[1]


def test_integers_beyond_64_bits_are_text_in_messagepack_which_has_none(client):
    headers = {"Accept": MSGPACK}
    response = client.post("/rerank", content=json.dumps({"candidates": HUGE}), headers=headers)
    slate = slate_ids(ormsgpack.unpackb(response.raise_for_status().content))
    assert set(slate) == set(map(str, HUGE))


@pytest.mark.parametrize(
    ("payload", "field", "value"),
    [
        ({"candidates": ["1", 10**256]}, "candidates[1]", 10**256),
        ({"candidates": [2**64, True]}, "candidates[1]", True),
        ({"candidates": [2**64, str(2**64)]}, "candidates[1]", str(2**64)),
        ({"candidates": [2**64 + 1] * 2}, "candidates[1]", 2**64 + 1),
        ({"candidates": ["1"], "slate_size": 2**64 + 1}, "slate_size", 2**64 + 1),
        ({"candidates": ["1"], "request_id": 2**64 + 1}, "request_id", 2**64 + 1),
        ({"candidates": ["1"], "reasoning": {"budget": 2**70}}, "reasoning.budget", 2**70),
    ],
)
def test_an_error_quotes_an_integer_beyond_64_bits_as_it_was_sent(client, payload, field, value):
    response = client.post("/rerank", content=json.dumps(payload))
    (error,) = problem_of(response, 422)["errors"]
    quoted = json.dumps(value)
    assert error["field"] == field
    assert error["value"] == (quoted if len(quoted) <= 100 else quoted[:100] + "...")


@pytest.mark.parametrize("value", [2**64, -(2**64), 10**300])
def test_a_huge_integer_beside_a_huge_id_is_ranked_or_refused_wherever_it_stands(client, value):
    for feature in ("vote_avg", "like_rate", "budget", "genres", "director", "text_vector"):
        for inline in (value, [value], [value] * 64):
            record = {"id": 2**64, "features": {feature: inline}}
            response = client.post("/rerank", content=json.dumps({"candidates": [record]}))
            assert response.status_code in (200, 422), (feature, inline, response.text)
    for rest in (
        {"candidates": [{"id": 2**64, "score": value}]},
        {"candidates": {"id": [2**64], "score": [value]}},
        {"candidates": [2**64], "timeout_ms": value},
        {"candidates": [2**64], "context": {"hour": value}},
        {"candidates": [2**64], "temperatures": {"reason": value}},
        {"candidates": [2**64], "user": {"history": [{"id": 2**64, "label": value}]}},
        {"candidates": [2**64], "constraints": {"pinned": {str(2**64): value}}},
    ):
        response = client.post("/rerank", content=json.dumps(rest))
        assert response.status_code in (200, 422), (rest, response.text)


def test_a_number_is_no_name_of_a_model_and_no_request_id(client):
    for field in ("model", "request_id"):
        payload = {"candidates": ["1"], field: 1}
        (error,) = problem_of(client.post("/rerank", json=payload), 422)["errors"]
        assert (error["field"], error["rule"]) == (field, "a string")


@pytest.mark.parametrize(
    ("constraints", "field", "value"),
    [
        ({"pinned": {1: 0, "1": 1}}, "constraints.pinned", '{"1": 0, "1": 1}'),
        ({"pinned": {9: 0}}, "constraints.pinned.9", "9"),
        ({"pinned": {1: 0}, "blocked": [1.0]}, "constraints.pinned.1", "1"),
    ],
)
def test_integer_keys_of_messagepack_are_checked_as_ids(client, constraints, field, value):
    payload = {"candidates": [1, 2], "constraints": constraints}
    (error,) = problem_of(post(client, payload, packed=True), 422)["errors"]
    assert (error["field"], error["value"]) == (field, value)


def test_other_maps_of_messagepack_have_string_keys(client):
    for payload in ({1: 2}, {"candidates": [{"id": "1", "features": {1: 2}}]}):
        assert problem_of(post(client, payload, packed=True), 422)["code"] == "invalid_request"


def test_the_document_says_that_ids_may_be_integers(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for name, field in (("Candidate", "id"), ("HistoryEntry", "id")):
        kinds = [form["type"] for form in schemas[name]["properties"][field]["anyOf"]]
        assert kinds == ["string", "integer"]
    for name in ("SlateEntry", "Alternative"):
        kinds = [form["type"] for form in schemas[name]["properties"]["id"]["anyOf"]]
        assert kinds == ["string", "integer"]
