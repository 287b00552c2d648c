"""Batch calls, and requests that share a run."""

import asyncio
import re

import httpx

from tests.support.bodies import body, problem_of, slate_ids
from tests.support.fakes import Failing
from tests.support.servers import fresh


def test_a_list_gets_the_same_slate_alone_in_a_batch_and_among_concurrent_requests(
    url, client, items
):
    bodies = [body(items, size, seed=size) for size in (3, 24, 200, 12, 1, 50)]
    alone = [client.post("/rerank", json=one).json() for one in bodies]
    together = client.post("/rerank/batch", json={"requests": bodies}).json()["responses"]

    async def concurrently():
        async with httpx.AsyncClient(base_url=url, timeout=30) as many:
            return await asyncio.gather(*(many.post("/rerank", json=b) for b in bodies * 4))

    parallel = [response.json() for response in asyncio.run(concurrently())]
    for index, result in enumerate(alone):
        assert slate_ids(together[index]) == slate_ids(result)
        for copy in range(4):
            assert slate_ids(parallel[index + copy * len(bodies)]) == slate_ids(result)


def test_concurrent_requests_share_runs(session, items):
    with fresh(session) as url:

        async def flood():
            async with httpx.AsyncClient(base_url=url, timeout=30) as many:
                calls = [many.post("/rerank", json=body(items, seed=i)) for i in range(40)]
                return await asyncio.gather(*calls)

        assert all(response.status_code == 200 for response in asyncio.run(flood()))
        text = httpx.get(f"{url}/metrics").text
    runs = float(re.findall(r"rerank_batch_size_count (\S+)", text)[0])
    assert float(re.findall(r"rerank_batch_size_sum (\S+)", text)[0]) == 40
    assert runs < 40


def test_a_refused_batch_names_the_list_and_the_field(client):
    good, bad = {"candidates": [{"id": "a"}]}, {"candidates": [{"id": "a"}, {"id": "a"}]}
    problem = problem_of(client.post("/rerank/batch", json={"requests": [good, bad]}), 422)
    assert problem["errors"][0]["field"] == "requests[1].candidates[1].id"
    problem = problem_of(client.post("/rerank/batch", json={"requests": [good] * 65}), 422)
    assert problem["errors"][0]["field"] == "requests"
    assert "at most 64" in problem["errors"][0]["rule"]


def test_lists_of_a_batch_have_request_ids_of_their_own(client, items):
    payload = {"requests": [body(items), body(items, request_id="mine"), body(items)]}
    results = client.post("/rerank/batch", json=payload, headers={"X-Request-ID": "call"}).json()
    assert [a["request_id"] for a in results["responses"]] == ["call.0", "mine", "call.2"]


def test_a_short_deadline_of_one_list_does_not_degrade_the_other(session, items):
    with fresh(Failing(session, 0.2, fail=False), brief_run_ms=0) as url:
        lists = [body(items, timeout_ms=20), body(items, timeout_ms=30_000)]
        result = httpx.post(f"{url}/rerank/batch", json={"requests": lists}).json()
    reasons = [response["degraded"] for response in result["responses"]]
    assert reasons == [{"reason": "deadline", "reasons": ["deadline"]}, None]


def test_a_batch_larger_than_the_queue_is_refused(session, items):
    with fresh(session, max_queue=2) as url:
        for count, status in ((2, 200), (3, 422)):
            payload = {"requests": [body(items)] * count}
            response = httpx.post(f"{url}/rerank/batch", json=payload)
            assert response.status_code == status
    assert response.json()["errors"][0]["rule"] == "at most 2 lists"
