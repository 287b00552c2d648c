"""Diversity and boosts over HTTP with the committed bundle: the slates that its graph decodes."""

import dataclasses
import json

import httpx
import numpy as np
import ormsgpack
import pytest

from service.engine.features.candidates import CandidateList
from service.engine.intent import DiversityTerm, build_intent
from service.engine.rows import SlateSampling
from service.http.parsing import MSGPACK
from tests.support.bodies import slate_ids
from tests.support.servers import fresh

CLOSE = 1e-5  # nats: figures are rounded to six digits
USER = {"history": ["1196", "1198", {"id": "1721", "label": 0.0}]}
GENRES = {"by": "genres", "weight": 2.0, "decay": 0.5}


@pytest.fixture(scope="module")
def ids(items):
    return items[:40]


def post(client, **body):
    return client.post("/rerank", json={"user": USER, **body}).raise_for_status().json()


def row_of(session, ids, terms=(), boosts=None, **changes):
    """Return the row of USER and plain ids with an intent by genres."""
    history = [("1196", 1.0), ("1198", 1.0), ("1721", 0.0)]
    row = session.row(CandidateList(ids=ids, history=history))
    values = session.values("genres", row)
    if terms or boosts is not None:
        changes["intent"] = build_intent(terms, [values] * len(terms), boosts)
    return dataclasses.replace(row, **changes)


TERM = DiversityTerm("genres", 2.0, 0.5, "sum")


def test_the_slate_is_that_of_the_session_under_the_same_intent(client, session, ids):
    assert client.get("/info").json()["intent"] is True
    (plain,) = session.run([row_of(session, ids)])
    (diverse,) = session.run([row_of(session, ids, [TERM])])
    assert plain.indices.tolist() != diverse.indices.tolist()
    for options, slate in (({}, plain), ({"diversity": GENRES}, diverse)):
        entries = post(client, candidates=ids, **options)["slate"]
        assert [entry["initial_position"] for entry in entries] == slate.indices.tolist()
        for name, expected in (("logprob", slate.logprob), ("entropy", slate.entropy_before)):
            assert [entry[name] for entry in entries] == pytest.approx(expected, abs=CLOSE)


@pytest.mark.parametrize("boost", [None, 0.0])
def test_an_intent_of_0_changes_no_digit(client, ids, boost):
    expected = post(client, candidates=ids, explain=True)
    candidates = [{"id": item, "boost": boost} for item in ids]
    terms = [{"by": "genres", "weight": 0}, {"by": "director", "weight": 0.0}]
    response = post(client, candidates=candidates, diversity=terms, explain=True)
    for name in ("slate", "reasoning"):
        assert json.dumps(response[name]) == json.dumps(expected[name])


def test_explanations_state_the_adjustment_and_the_choice_without_it(client, session, ids):
    boosts = np.zeros(len(ids), np.float32)
    boosts[7], boosts[0] = 1.5, -3.0
    candidates = [{"id": item} for item in ids]
    candidates[7]["boost"], candidates[0]["boost"] = 1.5, -3
    response = post(client, candidates=candidates, diversity=GENRES, explain=True)
    row = row_of(session, ids, [TERM], boosts, explain=True)
    (slate,) = session.run([row])
    adjustment = row.intent.adjustment(slate.indices.tolist())
    changed = 0
    for position, entry in enumerate(response["slate"]):
        index = int(slate.indices[position])
        assert entry["initial_position"] == index
        explanation = entry["explanation"]
        assert explanation["boost"] == boosts[index]
        bonus = adjustment[position, index] - boosts[index]
        assert explanation["diversity"] == pytest.approx(bonus, abs=CLOSE)
        alone = int((slate.logits[position] - adjustment[position]).argmax())
        assert explanation["instead_of"] == (None if alone == index else ids[alone])
        changed += alone != index
        assert explanation["probability"] == pytest.approx(np.exp(entry["logprob"]), abs=CLOSE)
    assert 0 < changed <= len(response["slate"])


def test_every_form_of_an_intent_gives_the_same_slate(client, ids):
    boosts = [0.5 * (index % 3) for index in range(len(ids))]
    moods = [["calm"], ["dark", "calm"], None, []]
    topics = [moods[index % 4] for index in range(len(ids))]
    diversity = [GENRES, {"by": "mood", "weight": 1.0, "law": "mean"}]
    records = [
        {"id": item, "boost": boost, "topics": {"mood": mood}}
        for item, boost, mood in zip(ids, boosts, topics, strict=True)
    ]
    columns = {"id": ids, "boost": boosts, "topics": {"mood": topics}}
    array = {
        "dtype": "float32", "shape": [len(ids)], "data": np.array(boosts, np.float32).tobytes()
    }  # fmt: skip
    expected = post(client, candidates=records, diversity=diversity)["slate"]
    assert post(client, candidates=columns, diversity=diversity)["slate"] == expected
    packed = ormsgpack.packb(
        {"user": USER, "candidates": {**columns, "boost": array}, "diversity": diversity}
    )
    headers = {"Content-Type": MSGPACK, "Accept": "application/json"}
    response = client.post("/rerank", content=packed, headers=headers).raise_for_status().json()
    assert response["slate"] == expected
    assert post(client, candidates=ids)["slate"] != expected


def test_an_intent_composes_with_constraints(client, session, items):
    candidates = items[:60]
    row = session.row(CandidateList(ids=candidates))
    directors = dict(zip(candidates, session.groups("director", row), strict=True))
    rules = {
        "pinned": {candidates[9]: 1}, "blocked": [candidates[3]], "max_per_group": {"director": 1},
    }  # fmt: skip
    boosted = [{"id": item, "boost": 10 if item == candidates[3] else 0} for item in candidates]
    response = post(client, candidates=boosted, diversity=GENRES, constraints=rules, explain=True)
    slate = slate_ids(response)
    assert slate[1] == candidates[9]
    assert candidates[3] not in slate
    named = [directors[item] for item in slate if directors[item] is not None]
    assert len(named) == len(set(named))
    assert response["slate"][1]["explanation"]["diversity"] is None


def test_lists_with_and_without_an_intent_share_a_call(client, ids):
    bodies = [
        {"candidates": ids[:12], "user": USER},
        {"candidates": ids, "user": USER, "diversity": GENRES},
        {"candidates": [{"id": item, "boost": 3.0 * (item == ids[20])} for item in ids]},
    ]
    alone = [client.post("/rerank", json=each).raise_for_status().json() for each in bodies]
    batch = client.post("/rerank/batch", json={"requests": bodies}).raise_for_status().json()
    for response, expected in zip(batch["responses"], alone, strict=True):
        assert slate_ids(response) == slate_ids(expected)
        for entry, other in zip(response["slate"], expected["slate"], strict=True):
            assert entry["logprob"] == pytest.approx(other["logprob"], abs=2 * CLOSE)


def test_a_sampled_slate_counts_the_intent_in_its_log_probabilities(client, session, ids):
    sampling = {"slates": 4, "seed": 3}
    body = {"candidates": ids, "diversity": GENRES, "sampling": sampling, "explain": True}
    first, again = post(client, **body), post(client, **body)
    assert first["slate"] == again["slate"]
    row = row_of(session, ids, [TERM], sampling=SlateSampling(4, 3))
    (slate,) = session.run([row])
    assert [entry["logprob"] for entry in first["slate"]] == pytest.approx(slate.logprob, abs=CLOSE)
    explanations = [entry["explanation"] for entry in first["slate"]]
    noise = row.sampling.noise(10, len(ids))[slate.sample]
    scores = slate.logits / row.recommend_temperature + noise[: len(slate.indices)]
    assert scores.argmax(axis=1).tolist() == slate.indices.tolist()
    adjustment = row.intent.adjustment(slate.indices.tolist())
    alone = (scores - adjustment / row.recommend_temperature).argmax(axis=1).tolist()
    expected = [
        None if other == index else ids[other]
        for other, index in zip(alone, slate.indices.tolist(), strict=True)
    ]
    assert [each["instead_of"] for each in explanations] == expected
    assert any(each["diversity"] for each in explanations)
    plain = post(client, **{**body, "diversity": None})
    assert [e["logprob"] for e in plain["slate"]] != [e["logprob"] for e in first["slate"]]


def test_a_large_boost_is_a_certain_first_choice(client, ids):
    candidates = [{"id": item, "boost": 10} if item == ids[-1] else {"id": item} for item in ids]
    temperatures = {"recommend": 0.5}
    response = post(client, candidates=candidates, temperatures=temperatures)
    assert slate_ids(response)[0] == ids[-1]
    assert response["slate"][0]["logprob"] > -1e-3


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_a_boost_multiplies_the_odds_by_its_exponential_at_the_temperature(
    client, ids, temperature
):
    def odds(boost):
        response = post(
            client,
            candidates=[{"id": ids[0], "boost": boost}, *({"id": item} for item in ids[1:])],
            constraints={"blocked": ids[2:]},
            temperatures={"recommend": temperature},
            reasoning={"budget": 0},
        )
        (entry,) = (e for e in response["slate"][:1] if e["id"] == ids[0])
        probability = np.exp(entry["logprob"])
        return probability / (1 - probability)

    ratio = odds(2.7) / odds(2.0)
    assert ratio == pytest.approx(np.exp(0.7 / temperature), rel=0.01)
    assert ratio != pytest.approx(np.exp(0.6 / temperature), rel=0.01)


def test_lists_and_positions_with_an_intent_are_counted(session, ids):
    with fresh(session) as url, httpx.Client(base_url=url, timeout=30) as client:
        post(client, candidates=ids, slate_size=5)
        response = post(client, candidates=ids, slate_size=5, diversity=GENRES, explain=True)
        pinned = {"pinned": {ids[0]: 0}}
        records = [{"id": item, "boost": 1 - index % 3} for index, item in enumerate(ids)]
        post(client, candidates=records, slate_size=3, constraints=pinned)
        page = client.get("/metrics").text
    assert 'rerank_intent_lists_total{kind="diversity"} 1.0' in page
    assert 'rerank_intent_lists_total{kind="boost"} 1.0' in page
    assert "rerank_intent_positions_total 7.0" in page
    changed = sum(e["explanation"]["instead_of"] is not None for e in response["slate"])
    assert changed > 0
    (line,) = [li for li in page.splitlines() if li.startswith("rerank_intent_changed_positions_t")]
    assert changed <= float(line.split()[1]) <= changed + 2
