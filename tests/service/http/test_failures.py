"""Degraded responses and errors when the model fails, is late or overloaded."""

import asyncio

import httpx
import pytest

from service.http.schemas import RerankResponse
from tests.support.bodies import body, problem_of, slate_ids
from tests.support.fakes import Failing
from tests.support.servers import fresh


@pytest.mark.parametrize("reason", ["model_error", "deadline"])
def test_what_cannot_be_ranked_comes_back_in_its_own_order_and_says_so(session, items, reason):
    failing = Failing(session, 0.0 if reason == "model_error" else 0.2, reason == "model_error")
    asked = body(items, slate_size=5, timeout_ms=50)
    with fresh(failing, brief_run_ms=0) as base:
        answer = httpx.post(f"{base}/rerank", json=asked).raise_for_status().json()
        text = httpx.get(f"{base}/metrics").text
    RerankResponse.model_validate(answer, strict=True)
    assert answer["degraded"] == {"reason": reason}
    assert slate_ids(answer) == [c["id"] for c in asked["candidates"][:5]]
    assert answer["reasoning"]["steps_used"] == 0
    if reason == "deadline":  # the time it waited is told as such
        assert answer["latency_ms"]["queue"] > max(20, answer["latency_ms"]["respond"])
    assert f'rerank_degraded_total{{reason="{reason}"}} 1.0' in text


@pytest.mark.parametrize(("reason", "status"), [("model_error", 500), ("deadline", 504)])
def test_with_the_fallback_off_a_failure_is_an_error_without_its_inside(
    session, items, reason, status
):
    failing = Failing(session, 0.0 if status == 500 else 0.2, status == 500)
    with fresh(failing, on_failure="error", brief_run_ms=0) as base:
        headers = {"X-Request-Timeout-Ms": "50"}
        response = httpx.post(f"{base}/rerank", json=body(items), headers=headers)
    assert problem_of(response, status)["code"] == reason
    assert "secret" not in response.text


def test_a_full_queue_sheds_with_a_degraded_answer(session, items):
    slow = Failing(session, 0.05, fail=False)
    with fresh(slow, max_queue=2, max_batch_size=1, brief_run_ms=0) as base:

        async def flood():
            async with httpx.AsyncClient(base_url=base, timeout=30) as many:
                return await asyncio.gather(
                    *(many.post("/rerank", json=body(items, seed=i)) for i in range(12))
                )

        answers = [response.json() for response in asyncio.run(flood())]
    reasons = [answer["degraded"] and answer["degraded"]["reason"] for answer in answers]
    assert "overload" in reasons
    assert None in reasons
