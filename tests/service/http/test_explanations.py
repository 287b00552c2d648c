"""What explains a slate, against the session's own logits by hand."""

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

CLOSE = {"abs": 2e-5}


def asked_of(items, size=24, seed=0, **more):
    ids = random.Random(seed).sample(items, size)
    return {"candidates": ids, "explain": True, **more}


def softmax(logits, temperature):
    scaled = np.asarray(logits, np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()


def by_hand(session, ids, temperature=None):
    """The slate of plain ids, and each position's probabilities over the candidates."""
    row = dataclasses.replace(session.row(CandidateList(ids=ids)), explain=True)
    if temperature is not None:
        row = dataclasses.replace(row, recommend_temperature=temperature)
    (slate,) = session.run([row])
    return slate, [softmax(logits, row.recommend_temperature) for logits in slate.logits]


@pytest.mark.parametrize("temperature", [None, 0.2, 5.0])
def test_probabilities_and_alternatives_are_the_logits_softmax(client, session, items, temperature):
    asked = asked_of(items)
    ids = asked["candidates"]
    if temperature is not None:
        asked["temperatures"] = {"recommend": temperature}
    answer = client.post("/rerank", json=asked).raise_for_status().json()
    RerankResponse.model_validate(answer, strict=True)
    slate, rows = by_hand(session, ids, temperature)
    assert [ids[i] for i in slate.indices] == [entry["id"] for entry in answer["slate"]]
    taken = []
    for entry, weights in zip(answer["slate"], rows, strict=True):
        told = entry["explanation"]
        index = entry["initial_position"]
        assert told["probability"] == pytest.approx(weights[index], **CLOSE)
        assert told["probability"] == pytest.approx(np.exp(entry["logprob"]), **CLOSE)
        free = [i for i in range(len(ids)) if i != index and i not in taken]
        nearest = sorted(free, key=lambda i: -weights[i])[:3]
        assert [one["id"] for one in told["alternatives"]] == [ids[i] for i in nearest]
        assert [one["probability"] for one in told["alternatives"]] == pytest.approx(
            [weights[i] for i in nearest], **CLOSE
        )
        assert weights[taken].sum() < 1e-9  # what is chosen has no share any more
        assert told["moved"] == index - entry["position"]
        taken.append(index)
    # The twin: at another temperature the same logits give other figures.
    warmer = softmax(slate.logits[0], 1.1 * (temperature or session.manifest.recommend_temperature))
    first = answer["slate"][0]["explanation"]["probability"]
    assert first != pytest.approx(warmer[slate.indices[0]], **CLOSE)


def test_an_explanation_changes_nothing_but_itself(client, items):
    asked = asked_of(items, 60, 1)
    told = client.post("/rerank", json=asked).raise_for_status().json()["slate"]
    plain = client.post("/rerank", json={**asked, "explain": False}).json()["slate"]
    assert all("explanation" not in entry for entry in plain)
    for entry, other in zip(told, plain, strict=True):
        assert entry.pop("explanation")["probability"] > 0
        assert entry["id"] == other["id"]
        assert entry["logprob"] == pytest.approx(other["logprob"], **CLOSE)


@pytest.mark.parametrize("seed", range(3))
def test_what_may_not_be_chosen_is_never_an_alternative(client, items, seed):
    asked = asked_of(items, 20, seed)
    ids = asked["candidates"]
    group = {item: str(i % 5) for i, item in enumerate(ids)}
    asked["candidates"] = [{"id": i, "groups": {"author": group[i]}} for i in ids]
    blocked, pinned = ids[:6], {ids[7]: 2, ids[8]: 5}
    asked["constraints"] = {
        "blocked": blocked, "pinned": pinned, "max_per_group": {"author": 2}
    }  # fmt: skip
    slate = client.post("/rerank", json=asked).raise_for_status().json()["slate"]
    assert len(slate) > 5
    seen, counts = set(), [group[item] for item in pinned]
    for entry in slate:
        told = entry["explanation"]
        assert told["moved"] == entry["initial_position"] - entry["position"]
        if entry["id"] in pinned:
            assert entry["position"] == pinned[entry["id"]]
            assert (entry["logprob"], told["probability"], told["alternatives"]) == (None, None, [])
            continue
        full = {author for author in group.values() if counts.count(author) >= 2}
        for one in told["alternatives"]:
            assert one["id"] not in {entry["id"], *blocked, *pinned, *seen}
            assert group[one["id"]] not in full
            assert one["probability"] > 0
        free = [i for i in ids if i not in {*blocked, *pinned, *seen} and group[i] not in full]
        assert len(told["alternatives"]) == min(3, len(free) - 1)
        total = told["probability"] + sum(one["probability"] for one in told["alternatives"])
        assert total <= 1 + 1e-5
        seen.add(entry["id"])
        counts.append(group[entry["id"]])


def test_the_last_of_a_list_has_no_alternative(client, items):
    slate = client.post("/rerank", json=asked_of(items, 4)).raise_for_status().json()["slate"]
    assert [len(entry["explanation"]["alternatives"]) for entry in slate] == [3, 2, 1, 0]
    assert slate[-1]["explanation"]["probability"] == 1.0


def test_the_chosen_one_is_no_alternative_though_others_are_nearer(items):
    ids, logits = list("abcdef"), np.array([3.0, 5.0, -1e9, 4.0, 1.0, 4.0], np.float32)
    rules = SlateConstraints.none(6, 1)
    empty = np.zeros((6, 1), np.float32)
    row = Row(empty, empty.astype(np.int64), 1, 0, 0.0, 1.0, 2.0, rules)
    weights = softmax([3, 5, -1e9, 4, 1, 4], 2.0)
    for chosen, expected in ((4, "bdf"), (1, "dfa"), (3, "bfa"), (0, "bdf")):
        found = alternatives(ids, logits, chosen, row)
        assert "".join(one["id"] for one in found) == expected
        for one in found:
            assert one["probability"] == pytest.approx(weights[ids.index(one["id"])], abs=1e-6)
    assert [one["id"] for one in alternatives(ids[:3], logits[:3], 1, row)] == ["a"]


def test_a_sampled_slate_is_explained_by_its_own_logits(client, items):
    asked = asked_of(items, sampling={"slates": 8, "seed": 5}, temperatures={"recommend": 3.0})
    slate = client.post("/rerank", json=asked).raise_for_status().json()["slate"]
    beaten = 0
    for entry in slate:
        told = entry["explanation"]
        assert told["probability"] == pytest.approx(np.exp(entry["logprob"]), **CLOSE)
        others = [one["probability"] for one in told["alternatives"]]
        assert others == sorted(others, reverse=True)
        beaten += others[0] > told["probability"]
    assert beaten  # it is no greedy one


def test_lists_of_one_run_are_each_explained_where_it_was_asked_for(client, items):
    bodies = [asked_of(items, size, size) for size in (5, 40, 12)]
    alone = [client.post("/rerank", json=one).json()["slate"] for one in bodies]
    bodies[1]["explain"] = False
    answer = client.post("/rerank/batch", json={"requests": bodies}).raise_for_status().json()
    for index, (response, expected) in enumerate(zip(answer["responses"], alone, strict=True)):
        for entry, other in zip(response["slate"], expected, strict=True):
            told, known = entry.get("explanation"), other["explanation"]
            assert (told is None) == (index == 1)
            if told is not None:
                assert told["probability"] == pytest.approx(known["probability"], **CLOSE)
                assert [one["id"] for one in told["alternatives"]] == [
                    one["id"] for one in known["alternatives"]
                ]


def test_a_degraded_answer_explains_that_nothing_was_chosen(session, items):
    asked = asked_of(items)
    ids = asked["candidates"]
    asked["constraints"] = {"pinned": {ids[4]: 0}, "blocked": [ids[1]]}
    with fresh(Failing(session)) as url:
        answer = httpx.post(f"{url}/rerank", json=asked).raise_for_status().json()
    RerankResponse.model_validate(answer, strict=True)
    assert answer["degraded"] == {"reason": "model_error"}
    slate = answer["slate"]
    assert [entry["id"] for entry in slate[:4]] == [ids[4], ids[0], ids[2], ids[3]]
    for entry in slate:
        assert entry["explanation"] == {
            "probability": None,
            "alternatives": [],
            "moved": ids.index(entry["id"]) - entry["position"],
        }
    assert [entry["explanation"]["moved"] for entry in slate[:4]] == [4, -1, 0, 0]
