"""Users by id over HTTP: the same slates as with the history inline, and failures of the store."""

import httpx
import pytest

from service.state.engine import Key, Value
from service.state.entities import Answers, User
from service.state.lmdb_engine import LmdbEngine
from tests.support.fakes import Demanding
from tests.support.servers import fresh

LABELS = [1.0, 0.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def stored(session, tmp_path_factory):
    """A client of a service with a store, and the history that its user u1 has."""
    directory = tmp_path_factory.mktemp("state")
    ids = list(session.featuriser.items.ids)[:60]
    history = ids[:4]
    user = User({"nosuch": 1}, Answers(history, LABELS, [None] * 4, [None] * 4), updated_at=1)
    engine = LmdbEngine(directory)
    engine.put_many(
        [(Key("user", "u1"), Value(user.to_blob())), (Key("user", "noise"), Value(b"noise"))]
    )
    engine.close()
    with (
        fresh(session, state=f"lmdb://{directory}") as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield (
            client,
            [{"id": item, "label": label} for item, label in zip(history, LABELS, strict=True)],
        )


@pytest.fixture(scope="module")
def candidates(session):
    return list(session.featuriser.items.ids)[20:60]


def slate_of(client, user, candidates, **options):
    body = {"user": user, "candidates": candidates, **options}
    response = client.post("/rerank", json=body).raise_for_status().json()
    return response, [(entry["id"], entry["logprob"]) for entry in response["slate"]]


def test_a_user_by_id_gets_the_slate_of_its_history_inline(stored, candidates):
    client, history = stored
    response, by_id = slate_of(client, {"id": "u1"}, candidates)
    assert by_id == slate_of(client, {"history": history}, candidates)[1]
    assert by_id != slate_of(client, {"id": "u2"}, candidates)[1]
    assert response["degraded"] is None
    assert "state" not in response


def test_an_inline_history_takes_precedence(stored, candidates):
    client, _ = stored
    inline = [{"id": candidates[0], "label": 0.0}]
    _, both = slate_of(client, {"id": "u1", "history": inline}, candidates)
    assert both == slate_of(client, {"history": inline}, candidates)[1]
    _, none = slate_of(client, {"id": "u1", "history": []}, candidates)
    assert none == slate_of(client, {}, candidates)[1]


@pytest.mark.parametrize(
    ("user", "state"),
    [
        ({"id": "u1"}, ("hit", 4, ["nosuch"])),
        ({"id": "u1", "history": []}, ("hit", 0, ["nosuch"])),
        ({"id": "u2"}, ("miss", 0, [])),
        ({"id": "noise"}, ("unavailable", 0, [])),
        ({"id": "u1", "history": [], "features": {}}, (None, 0, [])),
        ({"history": []}, (None, 0, [])),
    ],
)
def test_an_explanation_says_what_the_store_gave(stored, candidates, user, state):
    client, _ = stored
    response, _ = slate_of(client, user, candidates, explain=True)
    used = response["state"]
    assert (used["user"], used["history"], used["ignored"]) == state
    assert used["age_s"] is None if state[0] != "hit" else used["age_s"] > 1e9
    assert used["items"] == {
        "hits": 0, "misses": len(candidates), "features": [], "counters": [], "ignored": [],
        "clipped": 0, "oldest_age_s": None, "newest_age_s": None,
    }  # fmt: skip


def test_a_list_without_its_user_is_ranked_degraded_and_keeps_its_figures(stored, candidates):
    client, _ = stored
    response, slate = slate_of(client, {"id": "noise"}, candidates)
    assert response["degraded"] == {"reason": "state", "reasons": ["state"]}
    assert slate == slate_of(client, {}, candidates)[1]
    assert None not in [logprob for _, logprob in slate]
    page = client.get("/metrics").text
    assert 'rerank_degraded_total{reason="state"}' in page
    assert 'outcome="state"' in page


def test_each_list_of_a_batch_has_its_own_user(stored, candidates):
    client, _ = stored
    users = [{"id": "u1"}, {}, {"id": "u2"}, {"id": "u1"}]
    requests = [{"user": user, "candidates": candidates} for user in users]
    response = client.post("/rerank/batch", json={"requests": requests}).raise_for_status().json()
    slates = [[entry["id"] for entry in each["slate"]] for each in response["responses"]]
    expected = [[item for item, _ in slate_of(client, user, candidates)[1]] for user in users]
    assert slates == expected


def test_readiness_and_info_tell_the_condition_of_the_store(stored):
    client, _ = stored
    assert client.get("/readyz").json() == {"status": "ready", "state": "up"}
    info = client.get("/info").json()["state"]
    assert (info["engine"], info["status"], info["durable"]) == ("lmdb", "up", True)
    assert info["entities"] == {"user": 2, "item": 0}
    assert info["lag_s"] == 0


def test_a_service_whose_store_is_down_is_ready_and_ranks(session, candidates, tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"no database")
    with (
        fresh(session, state=f"lmdb://{tmp_path}") as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        assert client.get("/readyz").json() == {"status": "ready", "state": "down"}
        response, slate = slate_of(client, {"id": "u1"}, candidates, explain=True)
        assert response["degraded"]["reasons"] == ["state"]
        assert response["state"]["user"] == "unavailable"
        assert response["state"]["items"] is None
        assert None not in [logprob for _, logprob in slate]
        without_user, slate = slate_of(client, {}, candidates)
        assert without_user["degraded"]["reasons"] == ["state"]  # for want of the items
        assert None not in [logprob for _, logprob in slate]


def test_a_required_feature_of_a_user_is_forgiven_if_the_store_could_have_given_it(
    session, candidates, tmp_path
):
    (tmp_path / "data.mdb").write_bytes(b"no database")
    demanding = Demanding(session)
    with (
        fresh(demanding, state=f"lmdb://{tmp_path}") as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        response, slate = slate_of(client, {"id": "u1"}, candidates)
        assert response["degraded"]["reasons"] == ["state"]
        assert None not in [logprob for _, logprob in slate]
        inline, _ = slate_of(client, {"id": "u1", "features": {"age": 3}}, candidates)
        assert inline["degraded"]["reasons"] == ["state"]  # for want of the history
        for user in ({}, {"id": "u1", "history": [], "features": {}}):
            refused = client.post("/rerank", json={"user": user, "candidates": candidates})
            assert refused.status_code == 422
            assert refused.json()["errors"][0]["field"] == "user.features.age"


def test_a_store_without_the_user_gives_no_required_feature(session, candidates, tmp_path):
    with (
        fresh(Demanding(session), state=f"lmdb://{tmp_path}") as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        body = {"user": {"id": "u1"}, "candidates": candidates}
        assert client.post("/rerank", json=body).status_code == 422


def test_a_service_without_a_store_says_so(client):
    assert client.get("/info").json()["state"] is None
    assert client.get("/readyz").json() == {"status": "ready"}
