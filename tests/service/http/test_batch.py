"""Batch calls, and requests that share a run."""

import asyncio
import re

import httpx

from tests.support.bodies import body, problem_of, slate_ids
from tests.support.fakes import Failing
from tests.support.servers import fresh


def test_a_list_alone_in_a_batch_call_and_among_concurrent_requests_gets_the_same_slate(
    url, client, items
):
    bodies = [body(items, size, seed=size) for size in (3, 24, 200, 12, 1, 50)]
    alone = [client.post("/rerank", json=one).json() for one in bodies]
    together = client.post("/rerank/batch", json={"requests": bodies}).json()["responses"]

    async def concurrently():
        async with httpx.AsyncClient(base_url=url, timeout=30) as many:
            return await asyncio.gather(*(many.post("/rerank", json=b) for b in bodies * 4))

    parallel = [response.json() for response in asyncio.run(concurrently())]
    for index, answer in enumerate(alone):
        assert slate_ids(together[index]) == slate_ids(answer)
        for copy in range(4):
            assert slate_ids(parallel[index + copy * len(bodies)]) == slate_ids(answer)


def test_requests_in_flight_together_share_runs(session, items):
    with fresh(session) as base:

        async def flood():
            async with httpx.AsyncClient(base_url=base, timeout=30) as many:
                asked = [many.post("/rerank", json=body(items, seed=i)) for i in range(40)]
                return await asyncio.gather(*asked)

        assert all(response.status_code == 200 for response in asyncio.run(flood()))
        text = httpx.get(f"{base}/metrics").text
    runs = float(re.search(r"rerank_batch_size_count (\S+)", text)[1])
    assert float(re.search(r"rerank_batch_size_sum (\S+)", text)[1]) == 40
    assert runs < 40


def test_a_batch_names_the_list_of_a_bad_field(client):
    good, bad = {"candidates": [{"id": "a"}]}, {"candidates": [{"id": "a"}, {"id": "a"}]}
    problem = problem_of(client.post("/rerank/batch", json={"requests": [good, bad]}), 422)
    assert problem["errors"][0]["field"] == "requests[1].candidates[1].id"
    problem = problem_of(client.post("/rerank/batch", json={"requests": [good] * 65}), 422)
    assert problem["errors"][0]["field"] == "requests"
    assert "at most 64" in problem["errors"][0]["rule"]


def test_lists_of_a_batch_call_have_ids_of_their_own(client, items):
    asked = {"requests": [body(items), body(items, request_id="mine"), body(items)]}
    answers = client.post("/rerank/batch", json=asked, headers={"X-Request-ID": "call"}).json()
    assert [a["request_id"] for a in answers["responses"]] == ["call.0", "mine", "call.2"]


def test_an_impatient_list_of_a_batch_does_not_degrade_its_neighbours(session, items):
    with fresh(Failing(session, 0.2, fail=False), brief_run_ms=0) as base:
        lists = [body(items, timeout_ms=20), body(items, timeout_ms=30_000)]
        answer = httpx.post(f"{base}/rerank/batch", json={"requests": lists}).json()
    reasons = [response["degraded"] for response in answer["responses"]]
    assert reasons == [{"reason": "deadline"}, None]


def test_a_batch_that_the_queue_could_never_hold_is_refused_and_not_shed(session, items):
    with fresh(session, max_queue=2) as base:
        for count, status in ((2, 200), (3, 422)):
            asked = {"requests": [body(items)] * count}
            response = httpx.post(f"{base}/rerank/batch", json=asked)
            assert response.status_code == status
    assert response.json()["errors"][0]["rule"] == "at most 2 lists"
