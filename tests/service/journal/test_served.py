"""Decisions of a served bundle: their records give the arrays and slates that were served."""

import contextlib
import json
import random

import httpx
import numpy as np
import ormsgpack
import pytest

from service.engine.session import Session
from service.journal.commands import main
from service.journal.cost import _greedy_row, estimate_cost
from service.journal.errors import RecordError
from service.journal.records import Policy
from service.journal.replay import replay_row
from service.state.address import parse_address
from service.state.commands import main as operate_state
from tests.support.bundles import BUNDLE
from tests.support.journals import decision, records_in
from tests.support.servers import fresh

OPTIONS = [
    {},
    {"constraints": {"blocked_at": [1], "pinned_at": {3: 2}, "max_per_group": {"director": 1}}},
    {"diversity": [{"by": "genres", "weight": 0.6}, {"by": "tone", "weight": 0.2}], "tone": True},
    {"boosts": True, "diversity": {"by": "director", "weight": 0.3, "law": "sum"}},
    {"sampling": {"slates": 3, "seed": 5}},
    {"temperatures": {"reason": 1.2, "recommend": 0.9}, "reasoning": {"budget": 2}},
    {"reasoning": {"entropy_threshold": 0.0}, "priority": "background", "slate_size": 4},
]
UNKNOWN = {"id": "new", "features": {"release_year": 2020.0, "genres": ["Drama", "War"]}}


@pytest.fixture(scope="module")
def loaded():
    """A bundle of this module alone, on the graph, whose runs are spied on."""
    return Session.load(BUNDLE)


def body_of(draw, items, options, user):
    """Return a body whose candidates and history carry features, as records or as columns."""
    options = dict(options)
    ids = [*draw.sample(items, 15), "new"]
    records = [{"id": item, "score": draw.random()} for item in ids[:-1]] + [dict(UNKNOWN)]
    tone, boosts = options.pop("tone", None), options.pop("boosts", None)
    for record in records:
        if tone:
            record["topics"] = {"tone": draw.sample("abc", 2)}
        if boosts:
            record["boost"] = draw.uniform(-1, 1)
    stated = options.pop("constraints", None)
    if stated:
        options["constraints"] = {
            "blocked": [ids[place] for place in stated["blocked_at"]],
            "pinned": {ids[place]: position for place, position in stated["pinned_at"].items()},
            "max_per_group": stated["max_per_group"],
        }
    history = [{"id": item, "label": draw.randint(0, 1)} for item in draw.sample(items, 150)]
    history[-1] = {"id": "new", "label": 1.0, "features": UNKNOWN["features"]}
    return {"candidates": records, "user": {"id": user, "history": history}, **options}


def columns_of(draw, items):
    """Return a body with features as columns, one of them packed numbers."""
    ids = draw.sample(items, 12)
    numbers = np.random.default_rng(3).normal(100, 5, 12).astype(np.float32)
    packed = {"dtype": "float32", "shape": [12], "data": numbers.tobytes()}
    features = {"runtime": packed, "director": ["someone", None] * 6}
    return {"candidates": {"id": ids, "score": [0.5] * 12, "features": features}}


def answer_of(client, body):
    """Send a body as MessagePack, which has packed numbers, and return the answer."""
    headers = {"content-type": "application/msgpack", "accept": "application/json"}
    response = client.post("/rerank", content=ormsgpack.packb(body), headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


def arrays_of(row):
    """Return the bytes of all arrays that the graph reads of a row."""
    rules, intent = row.constraints, row.intent
    arrays = [row.numbers, row.tokens, row.rows, rules.pinned, rules.group, rules.quota]
    if intent is not None:
        arrays += [intent.values, intent.alone, intent.weight, intent.retained, intent.boosts()]
    return [array.tobytes() for array in arrays]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_every_decision_is_replayed_bit_for_bit(loaded, items, tmp_path, monkeypatch, share):
    draw, rows, run = random.Random(7), [], loaded.run

    def spy(batch):
        rows.extend(batch)
        return run(batch)

    monkeypatch.setattr(loaded, "run", spy)
    state = tmp_path / "users.ndjson"
    history = [{"id": item, "label": 0.25} for item in items[:40]]
    entities: list[dict] = [{"user": "stored", "history": history, "features": {"x": 1}}]
    for number, item in enumerate([*items[:6], "brand new"]):
        counters = {"like_rate": {"shows": 30.0 + number, "likes": 9.5, "time": 1_700_000_000_000}}
        features = {"release_year": 1990 + number, "genres": ["War"], "tags_vector": None}
        entities.append({"item": item, "features": features, "counters": counters})
    state.write_text("".join(json.dumps(entity) + "\n" for entity in entities))
    assert operate_state(["load", str(state), "--state", f"lmdb://{tmp_path}/state"]) == 0
    settings = {
        "journal": f"files://{tmp_path}/journal",
        "journal_flush_ms": 5,
        "explore_share": share,
        "state": parse_address(f"lmdb://{tmp_path}/state"),
    }
    with fresh(loaded, **settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        rows.clear()  # those of the warm-up
        bodies = [body_of(draw, items, options, f"u{n}") for n, options in enumerate(OPTIONS * 2)]
        bodies += [columns_of(draw, items), {"candidates": items[:9], "user": {"id": "stored"}}]
        bodies.append({"candidates": ["brand new", *items[3:9]], "user": {"id": "stored"}})
        answers = [answer_of(client, body) for body in bodies]
    records = records_in(tmp_path / "journal")
    assert [record.request_id for record in records] == [each["request_id"] for each in answers]
    assert len(rows) == len(records)
    explored = [record.policy.kind == "explore" for record in records]
    assert any(explored) == (share > 0)
    assert not all(explored)
    for record, row, answer in zip(records, rows, answers, strict=True):
        replayed = replay_row(record, loaded)
        assert arrays_of(replayed) == arrays_of(row)
        assert (replayed.sampling, replayed.budget) == (row.sampling, row.budget)
        (slate,) = run([replayed])
        assert slate.indices.tolist() == record.slate
        assert slate.logprob.tolist() == record.logprob
        assert [record.ids[place] for place in record.slate] == [e["id"] for e in answer["slate"]]
        assert answer["slate"][0]["logprob"] == pytest.approx(record.logprob[0], abs=1e-5)
    of_items = [blob is not None for blob in records[-1].store.blobs]
    assert of_items == [True] * 4 + [False] * 3
    records[-1].store.blobs = []
    assert arrays_of(replay_row(records[-1], loaded)) != arrays_of(rows[-1])
    stored = records[-2]
    assert (stored.store.status, stored.store.history, stored.store.ignored) == ("hit", 40, ["x"])
    assert len(stored.history) == 40
    assert max(len(record.history) for record in records) == 128  # as many as the model reads


def test_a_value_that_is_lost_is_noticed_by_the_replay(loaded, items, tmp_path):
    with fresh(loaded, journal=f"files://{tmp_path}/j") as url:
        body = body_of(random.Random(1), items, {}, "u")
        httpx.post(f"{url}/rerank", json=body).raise_for_status()
    (record,) = records_in(tmp_path / "j")
    whole = arrays_of(replay_row(record, loaded))
    record.features = [{}] * len(record.ids)
    assert arrays_of(replay_row(record, loaded)) != whole
    record.bundle.digest = "0" * 64
    with pytest.raises(RecordError, match="the decision was made by ranklens/1 of SHA-256 000"):
        replay_row(record, loaded)


def test_the_cost_of_exploration_is_the_utility_that_greedy_slates_have_above_explored_ones(
    loaded, items, tmp_path, capsys
):
    draw = random.Random(3)
    settings = {"journal": f"files://{tmp_path}/j", "explore_share": 0.9}
    command = ["cost", str(tmp_path / "j"), "--bundle", str(BUNDLE)]
    with fresh(loaded, **settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        for number in range(60):
            body = {"candidates": draw.sample(items, 30), "user": {"id": f"u{number % 20}"}}
            client.post("/rerank", json=body).raise_for_status()
    records = records_in(tmp_path / "j")
    cost = estimate_cost(records, loaded)
    assert cost is not None
    assert cost.error is not None
    explored = [record for record in records if record.policy.kind == "explore"]
    assert cost.lists == len(explored) < 60
    assert cost.explored == pytest.approx(np.mean([record.utility for record in explored]))
    assert cost.users == len({record.user for record in explored})
    assert cost.greedy - cost.explored > 2 * cost.error > 0
    # Slates that are greedy already cost nothing.
    for record in explored:
        record.utility = None
    (slate,) = loaded.run([_greedy_row(explored[0], loaded)])
    assert slate.indices.tolist() != explored[0].slate
    explored[0].utility = slate.utility
    alone = estimate_cost(explored, loaded)
    assert alone is not None
    assert (alone.lists, alone.greedy - alone.explored, alone.error) == (1, 0.0, None)
    assert main(command) == 0
    assert f"{cost.lists} explored lists of {cost.users} users" in capsys.readouterr().out


def test_explored_lists_of_another_bundle_are_left_out_of_the_cost(loaded):
    policy = Policy("explore", 0.1, 1.0, 3, 3, 0.5, 1.0, 1.0, 4, 1, 0)
    assert estimate_cost([decision(policy=policy, utility=1.0), decision()], loaded) is None


def test_a_batch_call_leaves_a_record_for_each_list_and_a_refusal_none(loaded, items, tmp_path):
    with fresh(loaded, journal=f"files://{tmp_path}/j") as url:
        lists = [{"candidates": items[:n]} for n in (5, 6, 7)]
        httpx.post(f"{url}/rerank/batch", json={"requests": lists}).raise_for_status()
        assert httpx.post(f"{url}/rerank", json={"candidates": []}).status_code == 422
    records = records_in(tmp_path / "j")
    assert [len(record.ids) for record in records] == [5, 6, 7]
    assert len({record.record for record in records}) == 3


def test_a_list_that_was_not_ranked_has_its_initial_ranking_and_the_reason(
    loaded, items, tmp_path, monkeypatch
):
    def fail(_):
        raise RuntimeError("broken")

    settings = {"journal": f"files://{tmp_path}/j", "explore_share": 1.0}
    with fresh(loaded, **settings) as url:
        monkeypatch.setattr(loaded, "run", fail)
        body = {"candidates": items[:5], "slate_size": 3}
        httpx.post(f"{url}/rerank", json=body).raise_for_status()
    (record,) = records_in(tmp_path / "j")
    assert (record.slate, record.logprob, record.degraded) == ([0, 1, 2], [], ["model_error"])
    assert record.policy.kind == "greedy"
    assert record.log_propensity().tolist() == [0.0] * 3


def test_without_the_setting_nothing_is_written(loaded, items, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with fresh(loaded) as url:
        httpx.post(f"{url}/rerank", json={"candidates": items[:5]}).raise_for_status()
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_cannot_be_written_costs_no_ranking(loaded, items, tmp_path):
    (tmp_path / "file").touch()
    settings = {"journal": f"files://{tmp_path}/file/j", "journal_flush_ms": 5}
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(fresh(loaded, **settings))
        for _ in range(3):
            answer = httpx.post(f"{url}/rerank", json={"candidates": items[:5]}).json()
            assert answer["degraded"] is None
        page = httpx.get(f"{url}/metrics").text
    assert 'rerank_journal_records_total{result="written"} 0.0' in page


def test_feedback_and_deletions_are_recorded(loaded, items, tmp_path):
    settings = {"journal": f"files://{tmp_path}/j", "state": f"lmdb://{tmp_path}/state"}
    event = {
        "event_id": "e1", "user": "u1", "item": items[2], "type": "like", "time": 1_700_000_000_000,
        "shown": items[:3],
    }  # fmt: skip
    broken = {**event, "type": "dream"}
    with fresh(loaded, **settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(2):
            client.post("/feedback", json={"events": [event, broken]}).raise_for_status()
        client.delete("/users/u1").raise_for_status()
        client.delete(f"/items/{items[2]}").raise_for_status()
    first, repeated, erasure = records_in(tmp_path / "j")
    assert (first.event_id, first.user, first.item) == ("e1", "u1", items[2])
    assert (first.type, first.label, first.time) == ("like", 1.0, 1_700_000_000_000)
    assert (first.displayed, first.outcome) == (items[:3], "accepted")
    assert (repeated.event_id, repeated.outcome) == ("e1", "duplicate")
    assert (erasure.kind, erasure.user) == ("erasure", "u1")


def test_feedback_by_request_keeps_request_position_value_and_display(loaded, items, tmp_path):
    settings = {"journal": f"files://{tmp_path}/j", "state": f"lmdb://{tmp_path}/state"}
    with fresh(loaded, **settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        answer = client.post("/rerank", json={"candidates": items[:6]}).raise_for_status().json()
        request, item = answer["request_id"], answer["slate"][0]["id"]
        liked = {"event_id": "e1", "request_id": request, "item": item, "type": "like"}
        events = [
            {**liked, "position": 0, "value": 9.5, "shown": [item]},
            {**liked, "event_id": "e2", "request_id": "elsewhere"},
            {**liked, "event_id": "e3", "position": -1},
        ]
        outcome = client.post("/feedback", json={"events": events}).raise_for_status().json()
        again = client.post("/feedback", json={"events": events[:1]}).raise_for_status().json()
    assert (outcome["accepted"], again["duplicates"]) == (2, 1)
    (refused,) = outcome["refused"]
    assert (refused["index"], refused["field"]) == (2, "events[2].position")
    _, first, other, repeated = records_in(tmp_path / "j")
    assert (first.request_id, first.user, first.item) == (request, None, item)
    assert (first.position, first.value, first.displayed) == (0, 9.5, [item])
    # The service does not judge a request id: another instance may have answered it.
    assert (other.request_id, other.outcome, other.displayed) == ("elsewhere", "accepted", [])
    assert (repeated.event_id, repeated.outcome) == ("e1", "duplicate")
