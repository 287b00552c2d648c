"""A bundle of many numbers and vectors: as torch ranks, so does the service, in every form."""

import json

import httpx
import numpy as np
import ormsgpack
import pytest

from export import bundle, verify
from export.cases import cases
from service.engine.session import Session
from tests.support.servers import fresh
from tests.support.wide import NUMBERS, untrained, write_data


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """The bundle's directory and its verification, by a few of the cases."""
    directory = tmp_path_factory.mktemp("wide")
    data = write_data(directory)
    trained = untrained(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "cases", lambda trained: cases(trained)[::12])
        outcome = bundle.write(trained, directory / "wide" / "1", data)
    return directory / "wide" / "1", outcome["verification"]


@pytest.fixture(scope="module")
def client(wide):
    with fresh(Session.load(wide[0])) as base, httpx.Client(base_url=base, timeout=60) as client:
        yield client


def post(client, body, media_type="application/msgpack"):
    content = ormsgpack.packb(body) if "msgpack" in media_type else json.dumps(body).encode()
    headers = {"Content-Type": media_type, "Accept": "application/json"}
    return client.post("/rerank", content=content, headers=headers)


def packed(values):
    array = np.asarray(values, "<f8")
    return {"dtype": "float64", "shape": list(array.shape), "data": array.tobytes()}


def test_the_exported_graph_of_a_wide_schema_agrees_with_torch(wide):
    directory, verification = wide
    assert verification["slates"] > 50
    # 300 numbers, six of them list-relative as like_rate is, whose own column lies in the item
    # rows; vectors of width 4, 2 and 3.
    assert Session.load(directory).manifest.numbers == 300 + 6 * 3 + 3 + 4 + 2 + 3


def test_records_columns_and_arrays_get_the_same_slate(client):
    draw = np.random.default_rng(1)
    ids = [f"i{index}" for index in range(30)]
    columns = {f"number_{index}": draw.exponential(size=30).tolist() for index in range(NUMBERS)}
    columns["look"] = draw.normal(size=(30, 3)).tolist()
    rows = zip(*columns.values(), strict=True)
    records = [
        {"id": item, "features": dict(zip(columns, row, strict=True))}
        for item, row in zip(ids, rows, strict=True)
    ]
    more = {"user": {"features": {"taste": [1.0, 2.0, 0.5, 0.0]}}, "context": {"mood": [0.5, 1.5]}}
    arrays = {
        "candidates": {"id": ids, "features": {n: packed(v) for n, v in columns.items()}},
        "user": {"features": {"taste": packed([1.0, 2.0, 0.5, 0.0])}},
        "context": {"mood": packed([0.5, 1.5])},
    }
    slates = [
        post(client, {"candidates": records, **more}, "application/json"),
        post(client, {"candidates": {"id": ids, "features": columns}, **more}, "application/json"),
        post(client, arrays),
    ]
    assert slates[0].json()["slate"] == slates[1].json()["slate"] == slates[2].json()["slate"]
    assert slates[0].json()["slate"] != post(client, {"candidates": ids}).json()["slate"]


def test_the_first_broken_number_of_a_wide_list_is_named_in_its_form(client):
    ids = [f"i{index}" for index in range(30)]
    column = [0.5] * 30
    broken = packed([*column[:17], np.nan, *column[18:]])
    features = {f"number_{index}": packed(column) for index in range(NUMBERS)}
    body = {"candidates": {"id": ids, "features": {**features, "number_299": broken}}}
    (error,) = post(client, body).json()["errors"]
    assert error == {
        "field": "candidates.features.number_299[17]",
        "rule": "a finite number",
        "value": "NaN",
    }
    short = {"candidates": ids, "user": {"features": {"taste": packed([1.0])}}}
    (error,) = post(client, short).json()["errors"]
    assert error["field"] == "user.features.taste"
    assert error["rule"].startswith("a list of 4 numbers")


def test_info_has_the_width_of_vectors(client):
    features = {f["name"]: f for f in client.get("/info").json()["features"]}
    assert features["taste"]["width"] == 4
    assert features["taste"]["of"] == "user"
