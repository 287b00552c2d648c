"""Explanations of slates, compared with the logits of the session."""

import dataclasses
import random

import httpx
import numpy as np
import pytest

from service.engine.constraints import SlateConstraints
from service.engine.features.candidates import CandidateList
from service.engine.rows import Row
from service.http.responses import alternatives
from service.http.schemas import RerankResponse
from tests.support.fakes import Failing
from tests.support.servers import fresh

TOLERANCE = 2e-5


def payload_of(items, size=24, seed=0, **more):
    ids = random.Random(seed).sample(items, size)
    return {"candidates": ids, "explain": True, **more}


def softmax(logits, temperature):
    scaled = np.asarray(logits, np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()


def run_directly(session, ids, temperature=None):
    """Return the slate of plain ids and each position's probabilities over the candidates."""
    row = dataclasses.replace(session.row(CandidateList(ids=ids)), explain=True)
    if temperature is not None:
        row = dataclasses.replace(row, recommend_temperature=temperature)
    (slate,) = session.run([row])
    return slate, [softmax(logits, row.recommend_temperature) for logits in slate.logits]


@pytest.mark.parametrize("temperature", [None, 0.2, 5.0])
def test_probabilities_and_alternatives_follow_from_the_softmax_of_the_logits(
    client, session, items, temperature
):
    payload = payload_of(items)
    ids = payload["candidates"]
    if temperature is not None:
        payload["temperatures"] = {"recommend": temperature}
    result = client.post("/rerank", json=payload).raise_for_status().json()
    RerankResponse.model_validate(result, strict=True)
    slate, rows = run_directly(session, ids, temperature)
    assert [ids[i] for i in slate.indices] == [entry["id"] for entry in result["slate"]]
    taken: list[int] = []
    for entry, weights in zip(result["slate"], rows, strict=True):
        explanation = entry["explanation"]
        index = entry["initial_position"]
        assert explanation["probability"] == pytest.approx(weights[index], abs=TOLERANCE)
        assert explanation["probability"] == pytest.approx(np.exp(entry["logprob"]), abs=TOLERANCE)
        free = [i for i in range(len(ids)) if i != index and i not in taken]
        nearest = sorted(free, key=lambda i: -weights[i])[:3]
        assert [alternative["id"] for alternative in explanation["alternatives"]] == [
            ids[i] for i in nearest
        ]
        assert [
            alternative["probability"] for alternative in explanation["alternatives"]
        ] == pytest.approx([weights[i] for i in nearest], abs=TOLERANCE)
        assert weights[taken].sum() < 1e-9  # chosen candidates are masked
        assert explanation["moved"] == index - entry["position"]
        taken.append(index)
    # At another temperature the same logits give other probabilities.
    warmer = softmax(slate.logits[0], 1.1 * (temperature or session.manifest.recommend_temperature))
    first = result["slate"][0]["explanation"]["probability"]
    assert first != pytest.approx(warmer[slate.indices[0]], abs=TOLERANCE)


def test_an_explanation_does_not_change_the_slate(client, items):
    payload = payload_of(items, 60, 1)
    explained = client.post("/rerank", json=payload).raise_for_status().json()["slate"]
    plain = client.post("/rerank", json={**payload, "explain": False}).json()["slate"]
    assert all("explanation" not in entry for entry in plain)
    for entry, other in zip(explained, plain, strict=True):
        assert entry.pop("explanation")["probability"] > 0
        assert entry["id"] == other["id"]
        assert entry["logprob"] == pytest.approx(other["logprob"], abs=TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_candidates_that_may_not_be_chosen_are_no_alternatives(client, items, seed):
    payload = payload_of(items, 20, seed)
    ids = payload["candidates"]
    group = {item: str(i % 5) for i, item in enumerate(ids)}
    payload["candidates"] = [{"id": i, "groups": {"author": group[i]}} for i in ids]
    blocked, pinned = ids[:6], {ids[7]: 2, ids[8]: 5}
    payload["constraints"] = {
        "blocked": blocked, "pinned": pinned, "max_per_group": {"author": 2}
    }  # fmt: skip
    slate = client.post("/rerank", json=payload).raise_for_status().json()["slate"]
    assert len(slate) > 5
    seen: set[str] = set()
    counts = [group[item] for item in pinned]
    for entry in slate:
        explanation = entry["explanation"]
        assert explanation["moved"] == entry["initial_position"] - entry["position"]
        if entry["id"] in pinned:
            assert entry["position"] == pinned[entry["id"]]
            assert (entry["logprob"], explanation["probability"], explanation["alternatives"]) == (
                None,
                None,
                [],
            )
            continue
        full = {author for author in group.values() if counts.count(author) >= 2}
        for alternative in explanation["alternatives"]:
            assert alternative["id"] not in {entry["id"], *blocked, *pinned, *seen}
            assert group[alternative["id"]] not in full
            assert alternative["probability"] > 0
        free = [i for i in ids if i not in {*blocked, *pinned, *seen} and group[i] not in full]
        assert len(explanation["alternatives"]) == min(3, len(free) - 1)
        total = explanation["probability"] + sum(
            alternative["probability"] for alternative in explanation["alternatives"]
        )
        assert total <= 1 + 1e-5
        seen.add(entry["id"])
        counts.append(group[entry["id"]])


def test_the_last_candidate_of_a_list_has_no_alternative(client, items):
    slate = client.post("/rerank", json=payload_of(items, 4)).raise_for_status().json()["slate"]
    assert [len(entry["explanation"]["alternatives"]) for entry in slate] == [3, 2, 1, 0]
    assert slate[-1]["explanation"]["probability"] == 1.0


def test_the_chosen_candidate_is_no_alternative_to_itself(items):
    ids, logits = list("abcdef"), np.array([3.0, 5.0, -1e9, 4.0, 1.0, 4.0], np.float32)
    rules = SlateConstraints.none(6, 1)
    empty = np.zeros((6, 1), np.float32)
    row = Row(empty, empty.astype(np.int64), 1, 0, 0.0, 1.0, 2.0, rules)
    weights = softmax([3, 5, -1e9, 4, 1, 4], 2.0)
    for chosen, expected in ((4, "bdf"), (1, "dfa"), (3, "bfa"), (0, "bdf")):
        entries = alternatives(ids, logits, chosen, row)
        assert "".join(alternative["id"] for alternative in entries) == expected
        for alternative in entries:
            assert alternative["probability"] == pytest.approx(
                weights[ids.index(alternative["id"])], abs=1e-6
            )
    assert [alternative["id"] for alternative in alternatives(ids[:3], logits[:3], 1, row)] == ["a"]


def test_a_sampled_slate_is_explained_by_its_own_logits(client, items):
    payload = payload_of(items, sampling={"slates": 8, "seed": 5}, temperatures={"recommend": 3.0})
    slate = client.post("/rerank", json=payload).raise_for_status().json()["slate"]
    beaten = 0
    for entry in slate:
        explanation = entry["explanation"]
        assert explanation["probability"] == pytest.approx(np.exp(entry["logprob"]), abs=TOLERANCE)
        others = [alternative["probability"] for alternative in explanation["alternatives"]]
        assert others == sorted(others, reverse=True)
        beaten += others[0] > explanation["probability"]
    assert beaten  # a greedy slate would have no better alternative


def test_only_lists_of_a_batch_that_request_it_are_explained(client, items):
    bodies = [payload_of(items, size, size) for size in (5, 40, 12)]
    alone = [client.post("/rerank", json=each).json()["slate"] for each in bodies]
    bodies[1]["explain"] = False
    result = client.post("/rerank/batch", json={"requests": bodies}).raise_for_status().json()
    for index, (response, expected) in enumerate(zip(result["responses"], alone, strict=True)):
        for entry, other in zip(response["slate"], expected, strict=True):
            explanation, expected_explanation = entry.get("explanation"), other["explanation"]
            assert (explanation is None) == (index == 1)
            if explanation is not None:
                assert explanation["probability"] == pytest.approx(
                    expected_explanation["probability"], abs=TOLERANCE
                )
                assert [alternative["id"] for alternative in explanation["alternatives"]] == [
                    alternative["id"] for alternative in expected_explanation["alternatives"]
                ]


def test_a_degraded_response_explains_no_choice(session, items):
    payload = payload_of(items)
    ids = payload["candidates"]
    payload["constraints"] = {"pinned": {ids[4]: 0}, "blocked": [ids[1]]}
    with fresh(Failing(session)) as url:
        result = httpx.post(f"{url}/rerank", json=payload).raise_for_status().json()
    RerankResponse.model_validate(result, strict=True)
    assert result["degraded"] == {"reason": "model_error", "reasons": ["model_error"]}
    slate = result["slate"]
    assert [entry["id"] for entry in slate[:4]] == [ids[4], ids[0], ids[2], ids[3]]
    for entry in slate:
        assert entry["explanation"] == {
            "probability": None,
            "alternatives": [],
            "moved": ids.index(entry["id"]) - entry["position"],
            "boost": None,
            "diversity": None,
            "instead_of": None,
        }
    assert [entry["explanation"]["moved"] for entry in slate[:4]] == [4, -1, 0, 0]
