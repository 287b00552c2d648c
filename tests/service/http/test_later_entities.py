"""Users that a later version of the service has written, while an older one serves."""

import json

import httpx
import ormsgpack

from service.state.engine import Key, Value
from service.state.entities import VERSION, User
from service.state.lmdb_engine import LmdbEngine
from tests.support.bodies import problem_of
from tests.support.servers import fresh

LATER = ormsgpack.packb({**ormsgpack.unpackb(User().to_blob()), "v": VERSION + 1})


def test_a_user_of_a_later_version_is_refused_and_kept_until_it_is_deleted(session, tmp_path):
    engine = LmdbEngine(tmp_path)
    engine.put_many([(Key("user", "later"), Value(LATER))])
    engine.close()
    both = b"\n".join(json.dumps({"user": user}).encode() for user in ("other", "later"))
    event = {"event_id": "e", "user": "later", "item": "i1", "type": "like", "time": 5}
    with (
        fresh(session, state=f"lmdb://{tmp_path}") as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        for response in (
            client.put("/users", content=both),
            client.post("/feedback", json={"events": [event]}),
            client.get("/users/later"),
        ):
            assert "by a later version of the service" in problem_of(response, 503)["detail"]
            assert response.headers["retry-after"] == "1"
        assert client.get("/users/other").status_code == 404
        assert client.delete("/users/later").status_code == 204
        assert client.put("/users", content=both).json()["written"] == 2
