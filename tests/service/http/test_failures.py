"""Degraded responses and errors when the model fails, is late or overloaded."""

import asyncio
import time

import httpx
import pytest

from service.engine.rows import Timing
from service.http.schemas import RerankResponse
from tests.support.bodies import body, problem_of, slate_ids
from tests.support.fakes import Failing
from tests.support.servers import fresh


@pytest.mark.parametrize("reason", ["model_error", "deadline"])
def test_a_failed_or_late_list_gets_its_initial_ranking_and_the_reason(session, items, reason):
    failing = Failing(session, 0.0 if reason == "model_error" else 0.2, reason == "model_error")
    payload = body(items, slate_size=5, timeout_ms=50)
    with fresh(failing, brief_run_ms=0) as url:
        result = httpx.post(f"{url}/rerank", json=payload).raise_for_status().json()
        text = httpx.get(f"{url}/metrics").text
    RerankResponse.model_validate(result, strict=True)
    assert result["degraded"] == {"reason": reason, "reasons": [reason]}
    assert slate_ids(result) == [c["id"] for c in payload["candidates"][:5]]
    assert result["reasoning"]["steps_used"] == 0
    assert result["unknown_candidates"] == 0
    if reason == "deadline":  # the wait counts as queue time
        assert result["latency_ms"]["queue"] > max(20, result["latency_ms"]["respond"])
    assert f'rerank_degraded_total{{reason="{reason}"}} 1.0' in text


@pytest.mark.parametrize(("reason", "status"), [("model_error", 500), ("deadline", 504)])
def test_without_the_fallback_a_failure_is_an_error_that_hides_its_cause(
    session, items, reason, status
):
    failing = Failing(session, 0.0 if status == 500 else 0.2, status == 500)
    with fresh(failing, on_failure="error", brief_run_ms=0) as url:
        headers = {"X-Request-Timeout-Ms": "50"}
        response = httpx.post(f"{url}/rerank", json=body(items), headers=headers)
    assert problem_of(response, status)["code"] == reason
    assert "secret" not in response.text


def test_a_full_queue_sheds_lists_with_degraded_responses(session, items):
    slow = Failing(session, 0.05, fail=False)
    with fresh(slow, max_queue=2, max_batch_size=1, brief_run_ms=0) as url:

        def partly_unknown(count):
            return {"candidates": [*items[:5], *(f"new-{i}" for i in range(count))]}

        async def flood():
            async with httpx.AsyncClient(base_url=url, timeout=30) as many:
                return await asyncio.gather(
                    *(many.post("/rerank", json=partly_unknown(i)) for i in range(12))
                )

        results = [response.json() for response in asyncio.run(flood())]
    reasons = [result["degraded"] and result["degraded"]["reason"] for result in results]
    assert "overload" in reasons
    assert None in reasons
    assert [result["unknown_candidates"] for result in results] == list(range(12))


class Predictable(Failing):
    """A session whose runs take as long as its warm-up says."""

    def warm_up(self, batch_sizes, list_size):
        return [Timing(b, volume, self.delay_s) for b in (0, 3) for volume in (1, 100)]


@pytest.mark.alone
def test_a_request_that_the_run_under_way_would_make_late_is_answered_at_once(session, items):
    run_s, timeout_s = 2.0, 1.0
    with fresh(Predictable(session, run_s, fail=False), brief_run_ms=0) as url:

        async def calls():
            async with httpx.AsyncClient(base_url=url, timeout=30) as many:
                running = asyncio.create_task(many.post("/rerank", json=body(items)))
                await asyncio.sleep(run_s / 4)
                began = time.monotonic()
                late = body(items, seed=1, timeout_ms=1e3 * timeout_s)
                shed = await many.post("/rerank", json=late)
                return shed.json(), time.monotonic() - began, (await running).json()

        shed, seconds, ranked = asyncio.run(calls())
    assert shed["degraded"] == {"reason": "overload", "reasons": ["overload"]}
    assert ranked["degraded"] is None
    assert seconds < timeout_s / 2  # it learns early, not at its deadline
